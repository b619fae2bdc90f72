import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.address import Domain, MonitorPath, Via, mistake_in_path, parse_address

PATHS = st.text(st.characters(exclude_characters="\0")).map(lambda rest: f"/{rest}")
URIS = st.sampled_from(
    ["qemu:///system", "qemu+unix:///session?socket=/run/libvirt/virtqemud-sock", "test:///default"]
)


@given(st.builds(MonitorPath, PATHS) | st.builds(Domain, URIS, st.uuids().map(str)))
def test_an_address_is_read_back_from_its_text(address: MonitorPath | Domain) -> None:
    assert parse_address(str(address)) == address


@given(st.text())
def test_any_text_keeps_its_bytes(text: str) -> None:
    assert str(parse_address(text)) == text


def test_a_path_that_looks_like_a_uri_is_a_monitor() -> None:
    assert parse_address("/run/vm/qemu:///x#y.qmp").via is Via.QMP
    assert parse_address("qemu:///system").via is Via.QMP  # it does not name a domain


def test_the_text_of_a_domain_is_its_uri_and_uuid() -> None:
    assert str(Domain("qemu:///system", "5f0c")) == "qemu:///system#5f0c"
    assert Domain("qemu:///system", "5f0c").via is Via.LIBVIRT


@pytest.mark.parametrize(
    "written",
    [
        "tcp:127.0.0.1:4444",
        "127.0.0.1:4444",
        "localhost:4444",
        "[::1]:4444",
        "@vm1",
        "\0vm1",
        "vsock:3:1234",
        "fd:3",
    ],
)
def test_an_address_that_is_not_a_path_is_refused_with_advice(written: str) -> None:
    mistake = mistake_in_path(written)

    assert mistake is not None
    assert "only Unix sockets on disk are watched; add a second monitor to QEMU" in mistake


@pytest.mark.parametrize(
    "written", ["unix:/run/vm/a.qmp,server=on,wait=off", "unix:/run/vm/a.qmp", "/run/vm/a.qmp,server,nowait"]
)
def test_an_option_of_qemu_is_named_with_its_path(written: str) -> None:
    mistake = mistake_in_path(written)

    assert mistake is not None
    assert mistake.endswith("write only the path, '/run/vm/a.qmp'")


@pytest.mark.parametrize(
    "written", ["/run/vm/*.qmp", "web.qmp", "/run/a,b/{c}.sock", "/run/tcp:1/x:2", "qemu:///system#5f0c"]
)
def test_a_path_or_a_domain_is_not_a_mistake(written: str) -> None:
    assert mistake_in_path(written) is None
