import socket
from pathlib import Path

import pytest

from agent.discovery.host import Host, HostSettings, read_host
from agent.errors import ConfigError

ID = "3d1219c7c4c5404aaa1f6d2a48adfda4"


@pytest.fixture(autouse=True)
def on_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def machine_id(directory: Path, text: str = f"{ID}\n") -> str:
    (directory / "machine-id").write_text(text)
    return str(directory / "machine-id")


def problems_of(settings: HostSettings) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        read_host(settings)
    return {problem.place: problem.message for problem in caught.value.problems}


def test_the_hosts_own_files_say_who_it_is(tmp_path: Path) -> None:
    host = read_host(HostSettings(machine_id_file=machine_id(tmp_path)))

    assert host == Host(ID, socket.gethostname())


@pytest.mark.parametrize("host_id", [ID, ID.upper(), "3d1219c7-c4c5-404a-aa1f-6d2a48adfda4"])
def test_what_is_configured_comes_first(host_id: str) -> None:
    host = read_host(HostSettings(id=host_id, name="node-7", machine_id_file="/none"))

    assert host == Host(host_id.lower(), "node-7")


@pytest.mark.parametrize("text", ["", "\n", "uninitialized\n", ID[:-1], ID + "0", "x" * 32, f"{ID}\n{ID}\n"])
def test_what_is_no_id_is_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    path = machine_id(tmp_path, text)

    assert "host.id" in problems_of(HostSettings(machine_id_file=path))[path]


def test_an_unreadable_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff" * 32)

    for path in (str(tmp_path / "none"), str(tmp_path), str(tmp_path / "binary")):
        assert "host.id" in problems_of(HostSettings(machine_id_file=path))[path]


def test_every_problem_is_told_at_once() -> None:
    assert set(problems_of(HostSettings(id="web", name=" "))) == {"host.id", "host.name"}


def test_in_a_pod_the_pods_own_are_never_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")

    problems = problems_of(HostSettings())

    assert set(problems) == {"host.id", "host.name"}
    assert "spec.nodeName" in problems["host.name"]
    assert read_host(HostSettings(name="node-7", machine_id_file=machine_id(tmp_path))) == Host(ID, "node-7")
