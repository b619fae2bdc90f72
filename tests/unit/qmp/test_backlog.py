import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from agent.errors import LinkFault, QmpUnreachable
from agent.qmp import backlog, endpoint


@pytest.fixture
def listener(folder: Path) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "a.sock"))
        server.listen(1)
        if backlog.waiting(os.stat(folder / "a.sock")) is None:
            pytest.skip("this kernel does not say who waits (no unix_diag)")
        yield server


def test_who_has_connected_waits_until_accepted_also_when_given_up(
    folder: Path, listener: socket.socket
) -> None:
    status = os.stat(folder / "a.sock")
    assert backlog.waiting(status) == 0

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "a.sock"))
        assert backlog.waiting(status) == 1
    assert backlog.waiting(status) == 1
    listener.accept()[0].close()

    assert backlog.waiting(status) == 0


def test_the_right_one_of_many_is_looked_at(folder: Path, listener: socket.socket) -> None:
    others: list[socket.socket] = []
    for number in range(500):  # more than one answer of the kernel's holds
        others.append(socket.socket(socket.AF_UNIX))
        others[-1].bind(str(folder / f"{number}.sock"))
        others[-1].listen(1)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "321.sock"))

        assert backlog.waiting(os.stat(folder / "321.sock")) == 1
        assert backlog.waiting(os.stat(folder / "a.sock")) == 0
    for other in others:
        other.close()


def test_a_socket_without_a_listener_says_nothing(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "a.sock"))

        assert backlog.waiting(os.stat(folder / "a.sock")) is None


def test_who_looks_first_does_not_join_those_who_wait(folder: Path, listener: socket.socket) -> None:
    path = str(folder / "a.sock")
    endpoint.connect(path, look_first=True).connection.close()  # nobody waited; now this one does

    with pytest.raises(QmpUnreachable) as caught:
        endpoint.connect(path, look_first=True)

    assert caught.value.fault is LinkFault.BUSY
    assert backlog.waiting(os.stat(path)) == 1
    listener.accept()[0].close()
    endpoint.connect(path, look_first=True).connection.close()
