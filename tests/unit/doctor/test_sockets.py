"""`barograph doctor` connects only to the sockets that discovery has checked."""

import socket
from pathlib import Path

import pytest

from agent.config.settings import load
from agent.config.sources import Flags
from agent.core.reading import IntervalPolicy
from agent.doctor.sockets import look_at_sockets, probe_monitors


async def test_the_doctor_does_not_follow_a_link_that_replaces_a_socket(folder: Path) -> None:
    config = load(Flags(monitor=(f"{folder}/*.qmp",), host_id="h", host_name="h"), {})
    with socket.socket(socket.AF_UNIX) as found, socket.socket(socket.AF_UNIX) as another_users:
        found.bind(str(folder / "a.qmp"))
        found.listen()
        another_users.bind(str(folder / "private"))
        another_users.listen()
        another_users.setblocking(False)
        facts = await look_at_sockets(config.discovery_settings(), IntervalPolicy.OBSERVE)
        (folder / "link").symlink_to("private")
        (folder / "link").rename(folder / "a.qmp")

        vms, _ = await probe_monitors(facts, "h", config.polling_settings(), config.qmp_settings())

        with pytest.raises(BlockingIOError):
            another_users.accept()
        assert [each.subject for each in vms] == [str(folder / "a.qmp")]
        assert vms[0].state == "unreachable"
