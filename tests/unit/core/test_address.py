from hypothesis import given
from hypothesis import strategies as st

from agent.core.address import Domain, MonitorPath, Via, parse_address

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
    assert parse_address("qemu:///system").via is Via.QMP  # it names no domain


def test_a_domain_s_text_is_its_uri_and_its_uuid() -> None:
    assert str(Domain("qemu:///system", "5f0c")) == "qemu:///system#5f0c"
    assert Domain("qemu:///system", "5f0c").via is Via.LIBVIRT
