"""Tests of the libvirt section of the configuration."""

import sys
from pathlib import Path

import pytest

from agent.config import Flags, load
from agent.errors import ConfigError

ENVIRON = {"BAROGRAPH_HOST__ID": "9b1d4c1f0e6a4f0fa1f6f1c6c9a4b7d2", "HOME": "/home/agent"}


def test_a_libvirt_daemon_is_a_uri_a_glob_or_a_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libvirt.py").touch()  # as if libvirt-python were installed
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    file = tmp_path / "b.yaml"
    file.write_text(
        "libvirt: [qemu:///system, /run/*/virtqemud-sock, {uri: 'qemu:///session', policy: observe}]\n"
    )

    places = load(Flags(config=str(file)), ENVIRON).libvirt_settings().places

    assert [(each.uri, each.sockets, each.policy.value) for each in places] == [
        ("qemu:///system", None, "fill"),
        (None, "/run/*/virtqemud-sock", "fill"),
        ("qemu:///session", None, "observe"),
    ]


@pytest.mark.parametrize(
    ("written", "place", "said"),
    [
        ("[{policy: observe}]", "libvirt[0]", "needs exactly one of uri and sockets"),
        ("[{uri: 'qemu:///system', sockets: /a}]", "libvirt[0]", "needs exactly one of uri and sockets"),
        ("[xen:///system]", "libvirt[0].uri", "is not a URI of the QEMU driver"),
        ("[{url: 'qemu:///system'}]", "libvirt[0].url", "did you mean libvirt[].uri?"),
        ("[qemu:///system, qemu:///system]", "libvirt", "is listed 2 times"),
        ("[qemu:///system]", "libvirt", "pip install './barograph-VERSION-py3-none-any.whl[libvirt]'"),
    ],
)
def test_an_invalid_libvirt_section_is_reported(
    written: str, place: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)  # not installed, whatever another test has loaded
    file = tmp_path / "b.yaml"
    file.write_text(f"libvirt: {written}\n")

    with pytest.raises(ConfigError) as raised:
        load(Flags(config=str(file)), ENVIRON)

    assert any(place in each.place and said in each.message for each in raised.value.problems), raised.value
