import os
import socket
import threading
from collections.abc import Generator
from contextlib import suppress
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
            pytest.skip("this kernel does not show waiting clients (no unix_diag)")
        yield server


def test_a_client_waits_until_it_is_accepted_even_if_it_has_closed(
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


def test_the_queue_of_the_right_socket_is_found_among_many(folder: Path, listener: socket.socket) -> None:
    others: list[socket.socket] = []
    for number in range(500):  # more than one answer of the kernel contains
        others.append(socket.socket(socket.AF_UNIX))
        others[-1].bind(str(folder / f"{number}.sock"))
        others[-1].listen(1)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "321.sock"))

        assert backlog.waiting(os.stat(folder / "321.sock")) == 1
        assert backlog.waiting(os.stat(folder / "a.sock")) == 0
    for other in others:
        other.close()


def test_a_socket_without_a_listener_has_no_queue(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "a.sock"))

        assert backlog.waiting(os.stat(folder / "a.sock")) is None


def test_a_client_that_looks_first_does_not_join_a_queue(folder: Path, listener: socket.socket) -> None:
    path = str(folder / "a.sock")
    endpoint.connect(path, look_first=True).connection.close()  # no client was waiting; now this one is

    with pytest.raises(QmpUnreachable) as caught:
        endpoint.connect(path, look_first=True)

    assert caught.value.fault is LinkFault.BUSY
    assert backlog.waiting(os.stat(path)) == 1
    listener.accept()[0].close()
    endpoint.connect(path, look_first=True).connection.close()


def test_a_long_list_is_read_for_at_most_a_fifth_of_the_time() -> None:
    clock, looks = Clock(), list[float]()

    def look() -> dict[backlog.File, int]:
        looks.append(clock.now_s)
        clock.now_s += took_s
        return {(1, 2): len(looks)}

    shared = backlog.SharedLooks(look, clock)
    took_s = 0.5
    for number in range(200):  # looks of open links and of visits, in turn
        if number % 2:
            shared()
        else:
            with suppress(OSError):
                shared.newest()
        clock.now_s += 0.05

    assert len(looks) * took_s <= clock.now_s / 5 + took_s
    assert shared() == {(1, 2): len(looks)}

    took_s, seen = 0.001, len(looks)
    clock.now_s += 10
    for number in range(1, 100):  # a short list is read each time
        assert shared.newest() == {(1, 2): seen + number}


def test_an_outdated_list_does_not_make_a_monitor_busy(folder: Path, listener: socket.socket) -> None:
    path, clock = str(folder / "a.sock"), Clock()

    def look() -> dict[backlog.File, int]:
        clock.now_s += 1.0  # a long list
        return backlog.queues()

    shared = backlog.SharedLooks(look, clock)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        with pytest.raises(QmpUnreachable):
            endpoint.connect(path, look_first=True, look=shared.newest)
        listener.accept()[0].close()

    endpoint.connect(path, look_first=True, look=shared.newest).connection.close()


def test_a_thread_does_not_wait_for_the_long_look_of_another_thread() -> None:
    began, go_on = threading.Event(), threading.Event()

    def look() -> dict[backlog.File, int]:
        began.set()
        go_on.wait(60)
        return {}

    shared = backlog.SharedLooks(look)
    thread = threading.Thread(target=shared)
    thread.start()
    began.wait(60)
    try:
        with pytest.raises(OSError, match="long"):
            shared.newest()
    finally:
        go_on.set()
        thread.join(60)


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
