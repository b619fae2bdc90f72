"""Tests of libvirts found by their sockets. Any user may run one: its cost and its texts are bounded."""

import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.core.reading import IntervalPolicy, SocketMark
from agent.core.shares import ROOT
from agent.errors import LibvirtRefused, LibvirtUnreachable
from agent.libvirt import api, connection, connections, qmp_terms
from agent.libvirt.connections import DOMAINS_MAX, SOCKETS_MAX, Connections
from agent.libvirt.event_loops import event_loops
from agent.libvirt.qmp_terms import STARTED
from agent.libvirt.reach import reach
from agent.libvirt.targets import Place, Settings
from agent.telemetry import Counters
from tests.lab.lingering import lingering
from tests.lab.standin import libvirt as standin

GLOB = Place(sockets="/run/pods/*/virtqemud-sock", policy=IntervalPolicy.OBSERVE)
KUBEVIRT = "<metadata><k:kubevirt xmlns:k='http://kubevirt.io'/></metadata>"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Peer(standin.virConnect):
    """A daemon whose owner chooses the number, the name and the XML of its domains."""

    def __init__(self, domains: int = 1, name: str = "vm", xml: Callable[[str], str] = str) -> None:
        super().__init__()
        self._domains = [Domain(number, name, xml) for number in range(domains)]


class Domain(standin.virDomain):
    def __init__(self, number: int, name: str, xml: Callable[[str], str]) -> None:
        super().__init__(number)
        self._name = name
        self._xml = xml

    def XMLDesc(self, _flags: int = 0) -> str:
        return self._xml(super().XMLDesc().replace(f"vm-{self._number}", self._name))


class Peers(dict[str, Callable[[], Peer]]):
    """The function that makes the peer of each socket, by the socket's path in the URI."""

    adds_socket = True
    """Whether the stand-in for the library adds a socket to the event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.relayed: set[str] = set()
        """The paths of connections that go through a relay."""

    def connect(self, uri: str | None = None) -> Peer:
        assert uri is not None
        path = uri.partition("?socket=")[2]
        if self.adds_socket and add_socket():
            self.relayed.add(path)
        return self[path]()


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Peers:
    """Replace the library with the stand-in."""
    peers = Peers()
    monkeypatch.setattr(standin, "openReadOnly", peers.connect)
    monkeypatch.setattr(api, "_library", lambda: standin)
    return peers


def add_socket() -> bool:
    """Add a socket to the event loop, as the library does when it has connected, and close it.

    Return whether a relay has taken its place.
    """
    librarys, daemons = socket.socketpair()
    with librarys, daemons:
        before = os.fstat(librarys.fileno()).st_ino
        event_loops().remove(event_loops().add_handle(librarys.fileno(), 0, print, None))
        return os.fstat(librarys.fileno()).st_ino != before


@asynccontextmanager
async def connected(*uris: str) -> AsyncGenerator[Connections, None]:
    places = (GLOB, *(Place(uri=uri, policy=IntervalPolicy.OBSERVE) for uri in uris))
    libvirts = Connections(Settings(places=places, rescan_s=0.05), Counters())
    async with anyio.create_task_group() as group:
        await group.start(libvirts.run)
        yield libvirts
        group.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await anyio.sleep(0.005)


def calling(name: str = "libvirt calls") -> set[threading.Thread]:
    """Return the threads with this name. Compare sets: threads of an earlier test may be about to end."""
    return {thread for thread in threading.enumerate() if thread.name == name}


async def test_a_recreated_silent_socket_holds_a_bounded_number_of_threads(peers: Peers) -> None:
    answer, opened = threading.Event(), threading.Semaphore(0)

    def silent() -> Peer:
        opened.release()
        answer.wait(60)
        return Peer()

    peers["/a"], before = silent, calling()
    try:
        async with connected() as libvirts:
            for _ in range(50):
                libvirts.see_sockets({"/a": GLOB})
                await anyio.sleep(0.005)
                libvirts.see_sockets({})
            assert len(calling() - before) <= connections.THREADS_HELD_MAX

            libvirts.see_sockets({"/a": GLOB})
            uri = "qemu+unix:///system?socket=/a"
            await until(lambda: "calls have not ended" in libvirts.problems.get(uri, ""))

            answer.set()  # it is tried again, and used, once its calls have ended
            await until(lambda: not libvirts.problems and len(libvirts.domains()) == 1)
    finally:
        answer.set()


async def test_event_loops_that_are_kept_busy_hold_a_bounded_number_of_threads(
    peers: Peers,
) -> None:
    go_on, loops = threading.Event(), event_loops()

    def stay(_number: int, _opaque: object) -> None:
        go_on.wait(60)

    class Lingering(Peer):
        timer = 0

        def registerCloseCallback(self, _callback: Callable[..., object], _opaque: object) -> int:
            self.timer = loops.add_timer(0, stay, None)
            return 0

        def unregisterCloseCallback(self) -> int:
            return loops.remove(self.timer)

    peers["/a"], before = Lingering, calling("libvirt events")
    uri = "qemu+unix:///system?socket=/a"
    try:
        async with connected() as libvirts:
            for _ in range(3 * connections.THREADS_HELD_MAX):
                libvirts.see_sockets({"/a": GLOB})
                await until(lambda: libvirts.domains() or "not ended" in libvirts.problems.get(uri, ""))
                libvirts.see_sockets({})
            # One more may have been opened before the last one was counted.
            assert len(calling("libvirt events") - before) <= connections.THREADS_HELD_MAX + 1
            libvirts.see_sockets({"/a": GLOB})
            await until(lambda: "calls have not ended" in libvirts.problems.get(uri, ""))

            go_on.set()
            await until(lambda: not libvirts.problems and len(libvirts.domains()) == 1)
    finally:
        go_on.set()
    await until(lambda: calling("libvirt events") <= before)


async def test_relays_that_are_kept_busy_hold_a_bounded_number_of_threads(
    peers: Peers,
) -> None:
    stack, before = ExitStack(), calling("libvirt relay")

    class Lingering(Peer):
        """Sends a descriptor whose closing lasts until the stack is closed."""

        def __init__(self) -> None:
            super().__init__()
            self._librarys, daemons = socket.socketpair()
            with stack.enter_context(lingering(300)) as one:
                socket.send_fds(daemons, [bytes(1)], [one.fileno()])  # read only once this copy is closed
            self._number = event_loops().add_handle(self._librarys.fileno(), 0, print, None)
            daemons.close()

        def close(self) -> int:
            event_loops().remove(self._number)
            self._librarys.close()
            return 0

    peers.adds_socket = False
    peers["/a"] = Lingering
    uri = "qemu+unix:///system?socket=/a"
    with stack:
        async with connected() as libvirts:
            for _ in range(3 * connections.THREADS_HELD_MAX):
                libvirts.see_sockets({"/a": GLOB})
                await until(lambda: libvirts.domains() or "not ended" in libvirts.problems.get(uri, ""))
                libvirts.see_sockets({})
            assert len(calling("libvirt relay") - before) <= connections.THREADS_HELD_MAX + 1
            libvirts.see_sockets({"/a": GLOB})
            await until(lambda: "calls have not ended" in libvirts.problems.get(uri, ""))

            peers.adds_socket, peers["/a"] = True, Peer
            stack.close()
            await until(lambda: not libvirts.problems and len(libvirts.domains()) == 1)
    await until(lambda: calling("libvirt relay") <= before)


async def test_messages_of_a_found_libvirt_are_limited_unless_root_owns_the_socket(peers: Peers) -> None:
    peers |= dict.fromkeys(["/named", "/roots", "/users", "/pods", "/unknown"], Peer)
    owners = {"/roots": ROOT, "/users": 107, "/pods": "pod 0b1c7a52-3b0e-4a3f-9f0a-3d6a0a7a1c55"}

    async with connected("qemu+unix:///system?socket=/named") as libvirts:
        libvirts.see_sockets(dict.fromkeys(["/roots", "/users", "/pods", "/unknown"], GLOB), owners=owners)
        await until(lambda: len(libvirts.domains()) == 5)
    assert peers.relayed == {"/users", "/pods", "/unknown"}


def test_messages_of_a_socket_that_doctor_connects_to_are_limited(peers: Peers) -> None:
    peers |= dict.fromkeys(["/named", "/a"], Peer)

    for place in ("qemu+unix:///system?socket=/named", "/a"):
        assert not reach(place, IntervalPolicy.OBSERVE).fault
    assert peers.relayed == {"/a"}


async def test_a_library_that_adds_no_socket_to_the_event_loop_is_not_used_for_a_found_libvirt(
    peers: Peers,
) -> None:
    peers.adds_socket = False
    peers |= dict.fromkeys(["/named", "/a"], Peer)

    async with connected("qemu+unix:///system?socket=/named") as libvirts:
        libvirts.see_sockets({"/a": GLOB})
        await until(lambda: len(libvirts.domains()) == 1)
        await until(lambda: "cannot be limited" in "".join(libvirts.problems.values()))


async def test_a_connection_that_nothing_waits_for_any_more_is_closed_in_a_thread_of_its_own(
    peers: Peers,
) -> None:
    answer, begun, closed = threading.Event(), threading.Event(), list[threading.Thread]()

    class Late(Peer):
        def close(self) -> int:
            closed.append(threading.current_thread())
            return 0

    def late() -> Peer:
        begun.set()
        answer.wait(60)
        return Late()

    peers["/a"], before = late, calling("libvirt events")
    async with connected() as libvirts:
        libvirts.see_sockets({"/a": GLOB})
        await until(begun.is_set)
        libvirts.see_sockets({})
        await anyio.sleep(0.05)
        answer.set()
        await until(lambda: closed)
    assert closed[0].name == "libvirt calls"
    await until(lambda: calling("libvirt events") <= before)


def refusal(opened: api.Connection) -> str:
    with pytest.raises(LibvirtUnreachable) as raised:
        opened.set_period("/a", "unknown", 1)
    return raised.value.detail


def test_a_connection_is_not_closed_while_a_call_is_in_progress() -> None:
    answer, begun, events = threading.Event(), threading.Event(), list[str]()

    class Slow(Peer):
        def listAllDomains(self, _flags: int = 0) -> list[standin.virDomain]:
            begun.set()
            answer.wait(60)
            events.append("answered")
            return super().listAllDomains()

        def close(self) -> int:
            events.append("closed")
            return 0

    opened = api.Connection(standin, Slow(), event_loops().open())
    call = threading.Thread(target=opened.look_around, args=({},))
    call.start()
    assert begun.wait(60)
    closing = threading.Thread(target=opened.close)
    closing.start()
    closing.join(0.05)
    while "the connection was closed" not in refusal(opened):  # the closing has yet to begin
        pass
    answer.set()
    for thread in (call, closing):
        thread.join(60)
    assert events == ["answered", "closed"]


async def test_silent_sockets_hold_a_bounded_number_of_threads_in_all(
    peers: Peers,
) -> None:
    answer, before = threading.Event(), calling()

    def silent() -> Peer:
        answer.wait(60)
        return Peer()

    sockets = [f"/{number}" for number in range(100)]
    peers |= dict.fromkeys(sockets, silent)
    peers["/honest"] = Peer
    try:
        async with connected("qemu+unix:///system?socket=/honest") as libvirts:
            for socket in sockets:
                libvirts.see_sockets({socket: GLOB})
                await anyio.sleep(0.005)
            libvirts.see_sockets({})
            assert len(calling() - before) <= connections.FOUND_THREADS_HELD_MAX + 2
            await until(lambda: len(libvirts.domains()) == 1)  # a configured libvirt is not affected
    finally:
        answer.set()


async def test_silent_sockets_of_one_owner_do_not_keep_out_a_libvirt_of_another(peers: Peers) -> None:
    answer, begun = threading.Event(), list[None]()

    def silent() -> Peer:
        begun.append(None)
        answer.wait(600)
        return Peer()

    sockets = [f"/{number}" for number in range(connections.FOUND_THREADS_HELD_MAX)]
    peers |= dict.fromkeys([*sockets, "/more"], silent)
    peers["/honest"] = Peer
    owners = {**dict.fromkeys([*sockets, "/more"], 1001), "/honest": 107}
    try:
        async with connected() as libvirts:
            for number, socket in enumerate(sockets):
                libvirts.see_sockets({socket: GLOB}, owners=owners)
                await until(lambda number=number: len(begun) > number)
            libvirts.see_sockets(dict.fromkeys(["/more", "/honest"], GLOB), owners=owners)

            await until(lambda: len(libvirts.domains()) == 1)
            await until(
                lambda: "64 calls have not ended" in libvirts.problems["qemu+unix:///system?socket=/more"]
            )
    finally:
        answer.set()


async def test_a_socket_that_another_owner_has_replaced_counts_to_that_owner(
    peers: Peers,
) -> None:
    peers["/a"] = lambda: Peer(domains=1)

    async with connected() as libvirts:
        for owner in (1001, 107):
            libvirts.see_sockets({"/a": GLOB}, owners={"/a": owner})
            await until(lambda owner=owner: [each.owner for each in libvirts.domains()] == [owner])


async def test_an_owner_with_many_sockets_leaves_room_for_those_of_another(
    peers: Peers,
) -> None:
    sockets = [f"/{number:04}" for number in range(SOCKETS_MAX + 3)]
    peers |= dict.fromkeys([*sockets, "/z"], lambda: Peer(domains=1))
    owners = {**dict.fromkeys(sockets, 1001), "/z": 107}
    honest = "qemu+unix:///system?socket=/z"

    async with connected() as libvirts:
        libvirts.see_sockets(dict.fromkeys(sockets, GLOB), owners=owners)
        assert len(libvirts) == SOCKETS_MAX

        libvirts.see_sockets(dict.fromkeys([*sockets, "/z"], GLOB), owners=owners)
        assert len(libvirts) == SOCKETS_MAX
        assert len(libvirts.unusable()) == 4
        assert honest not in libvirts.unusable()

        await until(lambda: any(each.owner == 107 for each in libvirts.domains()))
        assert {each.owner for each in libvirts.domains()} <= {107, 1001}


async def test_a_found_libvirt_has_a_bounded_number_of_domains_and_the_others_are_reported(
    peers: Peers,
) -> None:
    peers["/a"] = lambda: Peer(domains=20_000)
    peers["/named"] = lambda: Peer(domains=DOMAINS_MAX + 5)

    async with connected("qemu+unix:///system?socket=/named") as libvirts:
        libvirts.see_sockets({"/a": GLOB})
        await until(lambda: len(libvirts.domains()) >= 2 * DOMAINS_MAX + 5)
        await anyio.sleep(0.2)  # listed again

        found = [each for each in libvirts.domains() if "/a" in str(each.address)]
        assert len(found) == DOMAINS_MAX
        ((uri, why),) = libvirts.unusable().items()
        assert uri == "qemu+unix:///system?socket=/a"
        assert "19936 domains not observed: the limit is 64" in why


async def test_the_agent_connects_to_a_bounded_number_of_sockets(peers: Peers) -> None:
    sockets = [f"/{number:04}" for number in range(SOCKETS_MAX + 3)]
    peers |= dict.fromkeys(sockets, lambda: Peer(domains=0))

    async with connected() as libvirts:
        libvirts.see_sockets(dict.fromkeys(sockets, GLOB))
        assert len(libvirts) == SOCKETS_MAX
        assert len(libvirts.unusable()) == 3

        libvirts.see_sockets(dict.fromkeys(sockets[3:], GLOB))
        assert len(libvirts) == SOCKETS_MAX
        assert not libvirts.unusable()


@pytest.mark.parametrize("period", ["10' x='" + "y" * 3_000_000, "-1", "9" * 5000, "ten"])
async def test_a_domain_with_an_unusable_definition_is_reported_and_not_used(
    peers: Peers, period: str
) -> None:
    peers["/a"] = lambda: Peer(xml=lambda xml: xml.replace("period='10'", f"period='{period}'"))

    async with connected() as libvirts:
        libvirts.see_sockets({"/a": GLOB})
        await until(libvirts.unusable)
        ((address, why),) = libvirts.unusable().items()
        assert "a domain's XML has" in why
        assert address.startswith("qemu+unix:///system?socket=/a#")
        assert not libvirts.domains()


async def test_the_pod_of_a_socket_is_a_label_that_the_pod_cannot_choose(
    peers: Peers,
) -> None:
    pod = "0b1c7a52-3b0e-4a3f-9f0a-3d6a0a7a1c55"
    path = f"/var/lib/kubelet/pods/{pod}/volumes/libvirt-runtime/sock"
    peers[path] = lambda: Peer(name="shop_web", xml=lambda xml: xml.replace("<memory", f"{KUBEVIRT}<memory"))

    async with connected() as libvirts:
        libvirts.see_sockets({path: GLOB})
        await until(libvirts.domains)
        (domain,) = libvirts.domains()
    assert domain.labels == {
        "kubevirt_namespace": "shop",
        "kubevirt_vmi_name": "web",
        "kubernetes_pod_uid": pod,
    }


def test_texts_of_a_definition_are_bounded_and_printable() -> None:
    name = "shop_" + "\N{RIGHT-TO-LEFT OVERRIDE}&#10;x" * 1000
    found = qmp_terms.parse_definition(
        f"<domain><name>{name}</name><uuid>a\n</uuid>{KUBEVIRT}<currentMemory>{'9' * 5000}</currentMemory>"
        "<devices><memballoon model='virtio'><alias name='a&#10;b'/></memballoon></devices></domain>"
    )
    assert found.name is not None
    texts = [found.name, found.balloon or "", *found.labels.values()]
    assert len(found.name) == 256
    assert all(text.isprintable() for text in texts)
    assert found.balloon == "a\N{REPLACEMENT CHARACTER}b"
    assert found.uuid is None
    assert found.actual_bytes is None


class NotUtf8(Peer):
    """A daemon that sends text that is not UTF-8, for which the library raises this error."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self._call = call

    def listAllDomains(self, _flags: int = 0) -> list[standin.virDomain]:
        return self._fail() if self._call == "listing" else super().listAllDomains()

    def domainListGetStats(
        self, domains: Sequence[standin.virDomain], _stats: int = 0, _flags: int = 0
    ) -> list[tuple[standin.virDomain, Mapping[str, int]]]:
        return self._fail() if self._call == "statistics" else super().domainListGetStats(domains)

    def _fail(self) -> Any:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def raise_not_utf8() -> Peer:
    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


async def test_text_that_is_not_utf8_ends_at_most_the_connection(
    peers: Peers,
) -> None:
    peers |= {"/a": raise_not_utf8, "/b": lambda: NotUtf8("listing"), "/c": Peer}

    async with connected() as libvirts:
        libvirts.see_sockets(dict.fromkeys(peers, GLOB))
        await until(lambda: len(libvirts.domains()) == 1)
        # Until the first attempt has ended, the problem of a libvirt is that it is not connected yet.
        await until(
            lambda: [("not UTF-8" in problem) for problem in libvirts.problems.values()] == [True, True]
        )


async def test_the_agent_connects_only_to_the_socket_that_was_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []

    def connect(uri: str) -> Peer:
        add_socket()
        opened.append(os.path.realpath(uri.partition("?socket=")[2]))
        return Peer()

    monkeypatch.setattr(standin, "openReadOnly", connect)
    monkeypatch.setattr(api, "_library", lambda: standin)
    others = tmp_path / "others"
    found = tmp_path / "a&socket=others" / "sock"
    swapped = tmp_path / "b" / "sock"
    for path in (others, found, swapped):
        path.parent.mkdir(exist_ok=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    marks = {str(path): mark_of(path) for path in (found, swapped)}
    swapped.unlink()
    swapped.symlink_to(others)

    async with connected() as libvirts:
        libvirts.see_sockets(dict.fromkeys(marks, GLOB), marks)
        await until(lambda: len(libvirts.domains()) == 1)
        # Until the first attempt has ended, the problem of a libvirt is that it is not connected yet.
        await until(lambda: "is not the socket that was found" in "".join(libvirts.problems.values()))
    assert opened == [str(found)]


async def test_only_the_socket_that_was_found_is_opened_to_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def connect(_uri: str) -> Peer:
        add_socket()
        return Peer()

    monkeypatch.setattr(standin, "openReadOnly", connect)
    monkeypatch.setattr(standin, "open", connect)
    monkeypatch.setattr(api, "_library", lambda: standin)
    path, others = tmp_path / "sock", tmp_path / "others"
    for each in (path, others):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(each))

    async with connected() as libvirts:
        libvirts.see_sockets({str(path): GLOB}, {str(path): mark_of(path)})
        await until(libvirts.domains)
        (domain,) = libvirts.domains()
        async with libvirts.open_to_write(domain.address):
            pass
        path.unlink()
        path.symlink_to(others)
        with pytest.raises(LibvirtUnreachable, match="not the socket that was found"):
            async with libvirts.open_to_write(domain.address):
                pass


def mark_of(path: Path) -> SocketMark:
    status = path.stat()
    return SocketMark(status.st_dev, status.st_ino, status.st_mtime_ns)


async def test_a_flood_of_events_ends_the_connection(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "EVENTS_PER_S_MAX", 20)

    class Flooding(Peer):
        def domainEventRegisterAny(  # pyrefly: ignore[bad-override-param-name]
            self, _domain: object, number: int, callback: Callable[..., object], _opaque: object
        ) -> int:
            for _ in range(1000 if number == 0 else 0):
                callback(self, self._domains[0], STARTED, 0, None)
            return number

    peers |= {"/a": Flooding, "/b": Peer}

    async with connected() as libvirts:
        libvirts.see_sockets(dict.fromkeys(peers, GLOB))
        await until(lambda: "events in one second" in "".join(libvirts.problems.values()))
        await until(lambda: any(each.address.uri.endswith("/b") for each in libvirts.domains()))


def test_statistics_that_are_not_utf8_are_handled_as_a_refusal() -> None:
    opened = api.Connection(standin, NotUtf8("statistics"), event_loops().open())
    (found,) = opened.look_around({}).new

    with pytest.raises(LibvirtRefused, match="not UTF-8"):
        opened.stats([found.uuid])
    opened.close()


async def test_an_unexpected_error_ends_only_its_connection(peers: Peers) -> None:
    def fail() -> Peer:
        raise RuntimeError("can't start new thread")

    peers |= {"/a": fail, "/b": Peer}

    async with connected() as libvirts:
        libvirts.see_sockets(dict.fromkeys(peers, GLOB))
        await until(lambda: len(libvirts.domains()) == 1)
        # On a busy machine a call may be late, which is the problem until it has returned.
        await until(lambda: ["RuntimeError" in each for each in libvirts.problems.values()] == [True])


def test_an_error_of_a_daemon_is_bounded_and_printable(
    peers: Peers,
) -> None:
    def refuse() -> Peer:
        raise standin.libvirtError("no\n\N{RIGHT-TO-LEFT OVERRIDE}" * 100_000)

    peers["/a"] = refuse
    with pytest.raises(LibvirtUnreachable) as raised:
        api.open_connection("qemu+unix:///system?socket=/a", read_only=True)
    assert len(raised.value.detail) < 600
    assert raised.value.detail.isprintable()
