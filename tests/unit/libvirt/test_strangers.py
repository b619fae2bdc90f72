"""Libvirts found by their sockets may be anybody's: what each of them can cost, and which texts pass."""

import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.core.reading import IntervalPolicy, SocketMark
from agent.errors import LibvirtRefused, LibvirtUnreachable
from agent.libvirt import api, connection, connections, qmp_terms
from agent.libvirt.connections import DOMAINS_MAX, SOCKETS_MAX, Connections
from agent.libvirt.qmp_terms import STARTED
from agent.libvirt.targets import Place, Settings
from agent.telemetry import Counters
from tests.lab.standin import libvirt as standin

GLOB = Place(sockets="/run/pods/*/virtqemud-sock", policy=IntervalPolicy.OBSERVE)
KUBEVIRT = "<metadata><k:kubevirt xmlns:k='http://kubevirt.io'/></metadata>"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Peer(standin.virConnect):
    """A daemon with as many domains as wanted, whose texts and answers are its owner's choice."""

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


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Peer]]:
    """What each socket connects to, by its path in the URI; the stand-in takes the library's place."""
    by_socket: dict[str, Callable[[], Peer]] = {}

    def connect(uri: str | None = None) -> Peer:
        assert uri is not None
        return by_socket[uri.partition("?socket=")[2]]()

    monkeypatch.setattr(standin, "openReadOnly", connect)
    monkeypatch.setattr(api, "_library", lambda: standin)
    return by_socket


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


def calling() -> int:
    return sum(thread.name == "libvirt calls" for thread in threading.enumerate())


async def test_a_silent_socket_that_is_made_anew_holds_a_bounded_number_of_threads(
    peers: dict[str, Callable[[], Peer]],
) -> None:
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
            assert calling() - before <= connections.THREADS_HELD_MAX

            libvirts.see_sockets({"/a": GLOB})
            uri = "qemu+unix:///system?socket=/a"
            await until(lambda: "calls have not ended" in libvirts.problems.get(uri, ""))

            answer.set()  # it is tried again, and used, once its calls have ended
            await until(lambda: not libvirts.problems and len(libvirts.domains()) == 1)
    finally:
        answer.set()


async def test_silent_sockets_hold_a_bounded_number_of_threads_in_all(
    peers: dict[str, Callable[[], Peer]],
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
            assert calling() - before <= connections.FOUND_THREADS_HELD_MAX + 2
            await until(lambda: len(libvirts.domains()) == 1)  # one that is configured is not affected
    finally:
        answer.set()


async def test_silent_sockets_of_one_owner_refuse_no_libvirt_of_another(
    peers: dict[str, Callable[[], Peer]],
) -> None:
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
    peers: dict[str, Callable[[], Peer]],
) -> None:
    peers["/a"] = lambda: Peer(domains=1)

    async with connected() as libvirts:
        for owner in (1001, 107):
            libvirts.see_sockets({"/a": GLOB}, owners={"/a": owner})
            await until(lambda owner=owner: [each.owner for each in libvirts.domains()] == [owner])


async def test_an_owner_with_many_sockets_leaves_room_for_those_of_another(
    peers: dict[str, Callable[[], Peer]],
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
    peers: dict[str, Callable[[], Peer]],
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
        assert "19936 domains left out: at most 64" in why


async def test_a_bounded_number_of_sockets_is_connected_to(peers: dict[str, Callable[[], Peer]]) -> None:
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
    peers: dict[str, Callable[[], Peer]], period: str
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
    peers: dict[str, Callable[[], Peer]],
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
    """As the library raises it for a message, a name or a statistic that is not UTF-8."""

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
    peers: dict[str, Callable[[], Peer]],
) -> None:
    peers |= {"/a": raise_not_utf8, "/b": lambda: NotUtf8("listing"), "/c": Peer}

    async with connected() as libvirts:
        libvirts.see_sockets(dict.fromkeys(peers, GLOB))
        await until(lambda: len(libvirts.domains()) == 1)
        # Until the first attempt has ended, the problem of a libvirt is that it is not connected yet.
        await until(
            lambda: [("not UTF-8" in problem) for problem in libvirts.problems.values()] == [True, True]
        )


async def test_only_the_socket_that_was_found_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []

    def connect(uri: str) -> Peer:
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


def mark_of(path: Path) -> SocketMark:
    status = path.stat()
    return SocketMark(status.st_dev, status.st_ino, status.st_mtime_ns)


async def test_a_flood_of_events_ends_the_connection(
    peers: dict[str, Callable[[], Peer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "EVENTS_PER_S_MAX", 20)

    class Flooding(Peer):
        def domainEventRegisterAny(
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


def test_statistics_that_are_not_utf8_are_a_refusal() -> None:
    opened = api.Connection(standin, NotUtf8("statistics"))
    (found,) = opened.look_around({}).new

    with pytest.raises(LibvirtRefused, match="not UTF-8"):
        opened.stats([found.uuid])


async def test_what_no_daemon_should_cause_ends_only_its_connection(
    peers: dict[str, Callable[[], Peer]],
) -> None:
    def fail() -> Peer:
        raise RuntimeError("can't start new thread")

    peers |= {"/a": fail, "/b": Peer}

    async with connected() as libvirts:
        libvirts.see_sockets(dict.fromkeys(peers, GLOB))
        await until(lambda: len(libvirts.domains()) == 1 and len(libvirts.problems) == 1)
        (problem,) = libvirts.problems.values()
        assert "RuntimeError" in problem


def test_an_error_of_a_daemon_is_bounded_and_printable(
    peers: dict[str, Callable[[], Peer]],
) -> None:
    def refuse() -> Peer:
        raise standin.libvirtError("no\n\N{RIGHT-TO-LEFT OVERRIDE}" * 100_000)

    peers["/a"] = refuse
    with pytest.raises(LibvirtUnreachable) as raised:
        api.open_connection("qemu+unix:///system?socket=/a", read_only=True)
    assert len(raised.value.detail) < 600
    assert raised.value.detail.isprintable()
