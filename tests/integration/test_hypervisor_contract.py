"""What a QMP client sees of a VM: the same cases on a real QEMU and on the simulated one.

Where a case fails on the simulated one alone, the simulator is wrong. Times are those of a busy machine that
emulates: only what QEMU promises is compared, with room.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Protocol, cast

import pytest

from tests.lab import qemu
from tests.lab.qemu import BALLOON
from tests.lab.sim import Hypervisor, simulated

Shape = Literal["usual", "bare", "anonymous", "silent", "pluggable", "saved", "destination", "transitional"]

INTERVAL = "guest-stats-polling-interval"
UNSET = 2**64 - 1
QUICK_S = 1.0  # what happens at once, on a busy machine


class Vm(Protocol):
    """What both kinds of VM can."""

    truth: Path
    qmp: Path

    def order(self, words: str, timeout_s: float = 30.0) -> object: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...


class Client:
    """A QMP client that sees everything: answers and events in the order they came."""

    def __init__(self, path: Path, *, negotiate: bool = True) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._rest = b""
        self.events: list[dict[str, object]] = []
        self.greeting: dict[str, object] | None = None
        if negotiate:
            self.greeting = self.hear()
            assert self.ask("qmp_capabilities") == {}

    def hear(self, timeout_s: float = 10.0) -> dict[str, object] | None:
        """Return the next message; `None`: none came in time."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                got = self._socket.recv(65536)
            except TimeoutError:
                return None
            if not got:
                raise ConnectionError("hung up")
            self._rest += got
        line, self._rest = self._rest.split(b"\n", 1)
        return cast(dict[str, object], json.loads(line))

    def say(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def answer(self, timeout_s: float = 10.0) -> dict[str, object] | None:
        """Return the next answer; events before it are kept."""
        while (message := self.hear(timeout_s)) is not None and "event" in message:
            self.events.append(message)
        return message

    def ask(self, command: str, **arguments: object) -> object:
        """Return what `return` has, or class and words of the error."""
        self.say(json.dumps({"execute": command, "arguments": arguments}).encode())
        answer = self.answer()
        assert answer is not None
        if "return" in answer:
            return answer["return"]
        error = cast(dict[str, str], answer["error"])
        return error["class"], error["desc"]

    def wait_for(self, names: list[str], timeout_s: float = 15.0) -> list[dict[str, object]]:
        """Return the events until the last of `names` came, which must come in that order."""
        missing = list(names)
        seen = self.events[:]
        self.events.clear()
        for event in seen:
            if missing and event["event"] == missing[0]:
                missing.pop(0)
        deadline = time.monotonic() + timeout_s
        while missing:
            message = self.hear(max(deadline - time.monotonic(), 0.001))
            assert message is not None, f"no {missing}, but {seen}"
            seen.append(message)
            if message.get("event") == missing[0]:
                missing.pop(0)
        return seen

    def silence(self, duration_s: float) -> None:
        """Assert that nothing comes."""
        assert self.hear(duration_s) is None

    # the balloon

    def interval(self, value: object, path: str = BALLOON) -> object:
        return self.ask("qom-set", path=path, property=INTERVAL, value=value)

    def stats(self, path: str = BALLOON) -> tuple[int, dict[str, int]]:
        answer = cast(dict[str, object], self.ask("qom-get", path=path, property="guest-stats"))
        return cast(int, answer["last-update"]), cast(dict[str, int], answer["stats"])

    def next_update(
        self,
        timeout_s: float = 20.0,
        path: str = BALLOON,
        *,
        after: tuple[int, dict[str, int]] | None = None,
    ) -> tuple[float, int]:
        """Return when (monotonic) the reading became another one than now or `after`, and its last-update."""
        before = self.stats(path) if after is None else after
        deadline = time.monotonic() + timeout_s
        while (now := self.stats(path)) == before:
            assert time.monotonic() < deadline, f"still {before[0]}"
            time.sleep(0.004)
        return time.monotonic(), now[0]

    def stands(self, duration_s: float) -> None:
        """Assert that the reading does not change."""
        before = self.stats()
        deadline = time.monotonic() + duration_s
        while time.monotonic() < deadline:
            assert self.stats() == before
            time.sleep(0.05)

    def close(self) -> None:
        self._socket.close()


def make_disk(folder: Path, disk: Path) -> None:
    """Make an empty qcow2 image, with QEMU's own commands: `qemu-img` is another package."""
    size = 256 << 20  # room for a snapshot
    with qemu.bare(folder, "maker") as maker, maker.monitor() as monitor:

        def run(**options: object) -> None:
            monitor.command("blockdev-create", **{"job-id": "job", "options": options})
            while not (jobs := cast(list[dict[str, str]], monitor.command("query-jobs"))) or (
                jobs[0]["status"] != "concluded"
            ):
                time.sleep(0.01)
            assert "error" not in jobs[0], jobs
            monitor.command("job-dismiss", id="job")

        run(driver="file", filename=str(disk), size=0)
        monitor.command("blockdev-add", driver="file", filename=str(disk), **{"node-name": "file"})
        run(driver="qcow2", file="file", size=size)


class Kind:
    """Makes VMs of one kind, and clients for their second monitor."""

    real: bool

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = ExitStack()

    def vm(self, shape: Shape = "usual", name: str = "vm") -> Vm:
        raise NotImplementedError

    def client(self, vm: Vm, *, negotiate: bool = True) -> Client:
        client = Client(vm.truth, negotiate=negotiate)
        self.stack.callback(client.close)
        return client

    def wedge(self, vm: Vm) -> Callable[[], None]:
        raise NotImplementedError


class Real(Kind):
    real = True

    def vm(self, shape: Shape = "usual", name: str = "vm") -> Vm:
        enter = self.stack.enter_context
        incoming = f"unix:{self.folder}/incoming"
        match shape:
            case "usual":
                return enter(qemu.guest(self.folder, name, uuid="11111111-2222-4333-8444-555555555555"))
            case "bare":
                return enter(qemu.bare(self.folder, name))
            case "anonymous":
                return enter(qemu.guest(self.folder, name, "-device", "virtio-balloon-pci", balloon=False))
            case "transitional":
                extra = ("-device", "virtio-balloon-pci-transitional,id=balloon0")
                return enter(qemu.guest(self.folder, name, *extra, balloon=False))
            case "silent":
                return enter(qemu.guest(self.folder, name, driver=False))
            case "pluggable":
                return enter(qemu.guest(self.folder, name, "-M", "pc"))
            case "destination":
                return enter(qemu.guest(self.folder, name, "-incoming", incoming, booted=False))
            case "saved":
                disk = self.folder / "disk.qcow2"
                make_disk(self.folder, disk)
                return enter(qemu.guest(self.folder, name, "-drive", f"file={disk},if=none,format=qcow2"))

    def wedge(self, vm: Vm) -> Callable[[], None]:
        """Let QEMU open a pipe that nobody writes to: its main loop waits."""
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        blocker = Client(vm.qmp)
        self.stack.callback(blocker.close)
        node = {"driver": "file", "filename": str(pipe), "node-name": "stuck", "read-only": True}
        blocker.say(json.dumps({"execute": "blockdev-add", "arguments": node}).encode())
        assert blocker.hear(0.5) is None

        def let_go() -> None:
            os.close(os.open(pipe, os.O_WRONLY))

        return let_go


class Simulated(Kind):
    real = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.hypervisor: Hypervisor = self.stack.enter_context(simulated(folder))

    def vm(self, shape: Shape = "usual", name: str = "vm") -> Vm:
        specs: dict[Shape, dict[str, object]] = {
            "usual": {"uuid": "11111111-2222-4333-8444-555555555555"},
            "bare": {"bus": "none", "paused": True, "memory_bytes": 0, "title": None},
            "anonymous": {"id": None},
            "transitional": {"bus": "pci-transitional"},
            "silent": {"guest": "silent"},
            "pluggable": {"hotplug": True},
            "destination": {"incoming": f"unix:{self.folder}/incoming"},
            "saved": {},
        }
        return self.hypervisor.add(name, version="7.2", boot_s=1.0, **specs[shape])

    def wedge(self, vm: Vm) -> Callable[[], None]:
        vm.order("wedge")

        def let_go() -> None:
            vm.order("unwedge")

        return let_go


@pytest.fixture(params=[pytest.param("real", marks=pytest.mark.guest), "simulated"])
def kind(request: pytest.FixtureRequest, folder: Path) -> Generator[Kind]:
    if request.param == "real":
        request.getfixturevalue("real_qemu")
    made = Real(folder) if request.param == "real" else Simulated(folder)
    with made.stack:
        yield made


# ---- the monitor


def test_the_greeting_and_what_is_said_before_capabilities(kind: Kind) -> None:
    client = kind.client(kind.vm("bare"), negotiate=False)
    greeting = cast(dict[str, dict[str, object]], client.hear())

    assert set(greeting["QMP"]) == {"version", "capabilities"}
    version = cast(dict[str, object], greeting["QMP"]["version"])
    assert cast(dict[str, int], version["qemu"])["major"] == 7
    assert greeting["QMP"]["capabilities"] == ["oob"]
    words = "Expecting capabilities negotiation with 'qmp_capabilities'"
    assert client.ask("query-status") == ("CommandNotFound", words)
    assert client.ask("nonsense") == ("CommandNotFound", words)
    assert client.ask("qmp_capabilities", x=1) == ("GenericError", "Parameter 'x' is unexpected")
    refused = cast(tuple[str, str], client.ask("qmp_capabilities", enable=["foo"]))
    assert refused == ("GenericError", "Parameter 'null' does not accept value 'foo'")
    assert client.ask("qmp_capabilities", enable=["oob"]) == {}
    words = "Capabilities negotiation is already complete, command ignored"
    assert client.ask("qmp_capabilities") == ("CommandNotFound", words)
    assert client.ask("query-version") == version


SAID: list[tuple[bytes, object]] = [
    (b"{}", "QMP input lacks member 'execute'"),
    (b"[]", "QMP input must be a JSON object"),
    (b"5 ", "QMP input must be a JSON object"),
    (b'"x"', "QMP input must be a JSON object"),
    (b'{"execute":5}', "QMP input member 'execute' must be a string"),
    (b'{"execute":"query-uuid","bogus":1}', "QMP input member 'bogus' is unexpected"),
    (b'{"execute":"query-uuid","arguments":[]}', "QMP input member 'arguments' must be an object"),
    (b'{"exec-oob":"query-uuid","id":9}', "QMP input member 'exec-oob' is unexpected"),
    (b"{bad}", "JSON parse error, invalid keyword 'bad'"),
    (b"nonsense\n", "JSON parse error, invalid keyword 'nonsense'"),
    (b'{"a" 1}', "JSON parse error, missing : in object pair"),
    (b"]", "JSON parse error, expecting value"),
    (b'{"execute":"query-uuid","execute":"query-name"}', "JSON parse error, duplicate key"),
    (b"{'execute': 'query-name', 'id': 'single'}", "single"),
    (b'{"execute":"query-name","id":{"a":[1,2]}}', {"a": [1, 2]}),
    (b'{"execute":"query-name","id":null}', None),
    (b'{"execute":"query-name","id":"\xc3\xa9"}', "é"),
]


def test_a_stream_of_json_answered_one_by_one(kind: Kind) -> None:
    client = kind.client(kind.vm("bare"))

    for said, expected in SAID:
        client.say(said)
        answer = client.answer()
        assert answer is not None, said
        if "error" in answer:
            assert answer["error"] == {"class": "GenericError", "desc": expected}, said
            assert answer.get("id") == (9 if b"oob" in said else None), said
        else:
            assert answer["return"] == {}, said
            assert answer["id"] == expected, said

    client.say(b'{"execute":"query-name","id":1}{"execute":"nonsense","id":2}{"execute":"query-n')
    assert client.answer() == {"return": {}, "id": 1}
    assert client.answer() == {
        "id": 2,
        "error": {"class": "CommandNotFound", "desc": "The command nonsense has not been found"},
    }
    client.silence(0.2)
    client.say(b'ame","id":3}')
    assert client.answer() == {"return": {}, "id": 3}


def test_out_of_band_where_it_was_asked_for(kind: Kind) -> None:
    client = kind.client(kind.vm("bare"), negotiate=False)
    client.hear()
    assert client.ask("qmp_capabilities", enable=["oob"]) == {}

    client.say(b'{"exec-oob":"query-uuid","id":9}')

    words = "The command query-uuid does not support OOB"
    assert client.answer() == {"id": 9, "error": {"class": "GenericError", "desc": words}}
    assert client.ask("query-name") == {}


def test_one_client_at_a_time_two_waiting_the_next_turned_away(kind: Kind) -> None:
    vm = kind.vm("bare")
    first = kind.client(vm)
    waiting = [kind.client(vm, negotiate=False) for _ in range(2)]

    for each in waiting:
        each.silence(0.3)
    turned_away = socket.socket(socket.AF_UNIX)
    turned_away.setblocking(False)
    with turned_away, pytest.raises(BlockingIOError):
        turned_away.connect(str(vm.truth))

    first.close()
    assert "QMP" in (waiting[0].hear() or {})
    waiting[1].silence(0.2)
    waiting[0].close()
    assert "QMP" in (waiting[1].hear() or {})


def test_a_wedged_main_loop_greets_and_answers_nothing(kind: Kind) -> None:
    vm = kind.vm("bare")
    let_go = kind.wedge(vm)
    client = kind.client(vm, negotiate=False)

    assert "QMP" in (client.hear() or {})
    client.say(b'{"execute":"qmp_capabilities"}')
    client.silence(0.5)

    let_go()
    assert client.answer() == {"return": {}}


def test_a_frozen_process_accepts_and_says_nothing(kind: Kind) -> None:
    vm = kind.vm("bare")
    held = kind.client(vm)

    vm.freeze()
    held.say(b'{"execute":"query-name","id":1}')
    held.silence(0.3)
    waiting = Client(vm.qmp, negotiate=False)
    with ExitStack() as closing:
        closing.callback(waiting.close)
        waiting.silence(0.3)

        vm.thaw()
        assert held.answer() == {"return": {}, "id": 1}
        assert "QMP" in (waiting.hear() or {})


def test_killed_it_refuses_and_started_again_another_file_serves(kind: Kind) -> None:
    vm = kind.vm("bare")
    before = vm.truth.stat()

    vm.kill()
    with pytest.raises(ConnectionRefusedError):
        Client(vm.truth)

    vm.restart()
    after = vm.truth.stat()
    assert (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns)
    assert kind.client(vm).ask("query-name") == {}


def test_at_its_own_end_it_says_so_and_removes_its_sockets(kind: Kind) -> None:
    vm = kind.vm("bare")
    client = kind.client(vm)
    other = Client(vm.qmp)
    kind.stack.callback(other.close)

    client.say(b'{"execute":"quit"}')

    assert client.answer() == {"return": {}}
    assert [event["event"] for event in client.events] == ["SHUTDOWN"]
    assert client.events[0]["data"] == {"guest": False, "reason": "host-qmp-quit"}
    assert [event["event"] for event in other.wait_for(["SHUTDOWN"])] == ["SHUTDOWN"]
    with pytest.raises(ConnectionError):
        client.hear()
    deadline = time.monotonic() + 5
    while vm.truth.exists() or vm.qmp.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_monitors_hear_the_same_events_once_past_capabilities(kind: Kind) -> None:
    vm = kind.vm("bare")
    client, other = kind.client(vm), Client(vm.qmp, negotiate=False)
    kind.stack.callback(other.close)
    assert "QMP" in (other.hear() or {})

    assert client.ask("cont") == {}
    other.silence(0.2)
    assert other.ask("qmp_capabilities") == {}
    assert client.ask("stop") == {}
    assert client.ask("stop") == {}  # harmless

    assert [event["event"] for event in client.wait_for(["RESUME", "STOP"])] == ["RESUME", "STOP"]
    assert [event["event"] for event in other.wait_for(["STOP"])] == ["STOP"]
    other.silence(0.2)


# ---- what there is


def test_a_machine_without_a_balloon(kind: Kind) -> None:
    client = kind.client(kind.vm("bare"))

    nothing = ("DeviceNotActive", "No balloon device has been activated")
    assert client.ask("query-balloon") == nothing
    assert client.ask("balloon", value=1 << 26) == nothing
    only_type = [{"name": "type", "type": "string"}]
    assert client.ask("qom-list", path="/machine/peripheral") == only_type
    assert client.ask("qom-list", path="/machine/peripheral-anon") == only_type
    assert client.ask("query-status") == {"status": "prelaunch", "singlestep": False, "running": False}
    assert client.ask("query-memory-size-summary") == {"base-memory": 0, "plugged-memory": 0}
    assert client.ask("query-name") == {}
    assert client.ask("query-uuid") == {"UUID": "00000000-0000-0000-0000-000000000000"}
    assert client.ask("query-migrate") == {}
    path = "/machine/peripheral/balloon0"
    absent = ("DeviceNotFound", f"Device '{path}' not found")
    assert client.ask("qom-list", path=path) == absent
    assert client.ask("qom-get", path=path, property="type") == absent
    assert client.ask("qom-set", path=path, property=INTERVAL, value=1) == absent
    assert client.ask("device_del", id="nope") == ("DeviceNotFound", "Device 'nope' not found")


def test_a_guests_balloon_its_names_and_what_may_not_be_set(kind: Kind) -> None:
    client = kind.client(kind.vm())

    assert client.ask("query-name") == {"name": "vm"}
    assert client.ask("query-uuid") == {"UUID": "11111111-2222-4333-8444-555555555555"}
    assert client.ask("query-status") == {"status": "running", "singlestep": False, "running": True}
    assert client.ask("query-balloon") == {"actual": 128 << 20}
    assert client.ask("query-memory-size-summary") == {"base-memory": 128 << 20, "plugged-memory": 0}
    listed = client.ask("qom-list", path="/machine/peripheral")
    assert listed == [
        {"name": "type", "type": "string"},
        {"name": "balloon0", "type": "child<virtio-balloon-pci>"},
    ]
    types = {
        entry["name"]: entry["type"]
        for entry in cast(list[dict[str, str]], client.ask("qom-list", path=BALLOON))
    }
    known = {
        "type": "string",
        "deflate-on-oom": "bool",
        "virtio-backend": "child<virtio-balloon-device>",
        INTERVAL: "int",
        "guest-stats": "guest statistics",
    }
    assert {name: types.get(name) for name in known} == known
    for path, kind_of in (
        (BALLOON, "virtio-balloon-pci"),
        (f"{BALLOON}/virtio-backend", "virtio-balloon-device"),
    ):
        assert client.ask("qom-get", path=path, property="type") == kind_of
        assert client.ask("qom-get", path=path, property=INTERVAL) == 0
        assert client.ask("qom-get", path=path, property="deflate-on-oom") is False
        assert client.stats(path) == client.stats()
        missing = ("GenericError", f"Property '{kind_of}.nope' not found")
        assert client.ask("qom-get", path=path, property="nope") == missing
        assert client.ask("qom-set", path=path, property="nope", value=1) == missing
        words = "Property 'virtio-balloon-device.guest-stats' is not writable"
        assert client.ask("qom-set", path=path, property="guest-stats", value=1) == ("GenericError", words)
        words = f"Property '{kind_of}.type' is not writable"
        assert client.ask("qom-set", path=path, property="type", value="x") == ("GenericError", words)
    assert client.ask("qom-get", path="balloon0", property="type") == "virtio-balloon-pci"
    assert client.ask("qom-get", path="device[0]", property="type") == "max-x86_64-cpu"
    for path in ("/machine/peripheral", "/machine/peripheral-anon"):
        assert client.ask("qom-get", path=path, property="type") == "container"

    last_update, stats = client.stats()  # the driver's first buffer, without polling
    assert abs(last_update - time.time()) < 60
    assert len(stats) == 10
    assert all(0 <= value < 2**40 for value in stats.values())
    assert stats["stat-free-memory"] < stats["stat-total-memory"] < 128 << 20
    client.stands(1.2)


ARGUMENTS: list[tuple[str, dict[str, object], str]] = [
    ("query-status", {"x": 1}, "Parameter 'x' is unexpected"),
    ("qom-list", {}, "Parameter 'path' is missing"),
    ("qom-list", {"path": 5}, "Invalid parameter type for 'path', expected: string"),
    ("qom-list", {"path": "/machine", "x": 1}, "Parameter 'x' is unexpected"),
    ("qom-get", {"path": "/machine"}, "Parameter 'property' is missing"),
    (
        "qom-get",
        {"path": "/machine", "property": 3},
        "Invalid parameter type for 'property', expected: string",
    ),
    ("qom-set", {"path": "/machine", "property": "type"}, "Parameter 'value' is missing"),
    ("balloon", {}, "Parameter 'value' is missing"),
    ("balloon", {"value": "x"}, "Invalid parameter type for 'value', expected: integer"),
    ("device_del", {}, "Parameter 'id' is missing"),
]


def test_arguments_are_checked_in_the_schemas_order(kind: Kind) -> None:
    client = kind.client(kind.vm("bare"))

    for command, arguments, words in ARGUMENTS:
        assert client.ask(command, **arguments) == ("GenericError", words), (command, arguments)
    assert client.ask("nonsense") == ("CommandNotFound", "The command nonsense has not been found")


@pytest.mark.parametrize(
    ("shape", "place", "name", "type_name"),
    [
        ("anonymous", "peripheral-anon", "device[0]", "virtio-balloon-pci"),
        ("transitional", "peripheral", "balloon0", "virtio-balloon-pci-transitional"),
    ],
)
def test_where_the_balloon_is_and_of_which_type(
    kind: Kind, shape: Shape, place: str, name: str, type_name: str
) -> None:
    client = kind.client(kind.vm(shape))
    path = f"/machine/{place}/{name}"

    listed = cast(list[dict[str, str]], client.ask("qom-list", path=f"/machine/{place}"))
    assert {"name": name, "type": f"child<{type_name}>"} in listed
    # The end of a path will do where it leads to a single object, and a board has a device[0] of its own.
    short = client.ask("qom-get", path=name, property="type")
    assert short == (type_name if name == "balloon0" else ("DeviceNotFound", f"Device '{name}' not found"))
    assert client.ask("qom-get", path=path, property="type") == type_name
    assert client.interval(1, path) == {}
    first, _ = client.next_update(path=path)
    # The next one comes an interval after the guest's answer.
    assert client.next_update(path=path)[0] - first < 3


# ---- the timer


NOT_INTEGERS: list[object] = [1.0, "3", True, None, [1], {}, 2**63, 2**64, -(2**64)]
BAD_INTERVALS: list[tuple[object, str]] = [
    (-1, "timer value must be greater than zero"),
    (-(2**63), "timer value must be greater than zero"),
    (2**32, "timer value is too big"),
    *((value, f"Invalid parameter type for '{INTERVAL}', expected: integer") for value in NOT_INTEGERS),
]


def test_what_is_no_interval(kind: Kind) -> None:
    client = kind.client(kind.vm())

    for value, words in BAD_INTERVALS:
        assert client.interval(value) == ("GenericError", words), value
    assert client.interval(2**32 - 1) == {}
    assert client.ask("qom-get", path=BALLOON, property=INTERVAL) == 2**32 - 1
    assert client.interval(0) == {}


def test_from_0_an_update_at_once_and_then_one_an_interval(kind: Kind) -> None:
    client = kind.client(kind.vm())
    time.sleep(1.1)  # past the second of the first buffer

    before, asked = client.stats(), time.monotonic()
    assert client.interval(2) == {}
    first, _ = client.next_update(after=before)
    second, _ = client.next_update()
    third, _ = client.next_update()

    assert first - asked < QUICK_S
    # The first may have been seen late, on a busy machine.
    assert 1.5 < second - first < 2 + QUICK_S
    assert 3.5 < third - first < 4 + 2 * QUICK_S


def test_the_same_interval_again_changes_nothing(kind: Kind) -> None:
    client = kind.client(kind.vm())
    assert client.interval(2) == {}
    deadline = time.monotonic() + 8
    updates = 0
    last = client.stats()
    while time.monotonic() < deadline:
        assert client.interval(2) == {}
        updates += (now := client.stats()) != last
        last = now
        time.sleep(0.1)

    assert updates >= 3


def test_intervals_that_alternate_faster_than_they_last_starve_it(kind: Kind) -> None:
    client = kind.client(kind.vm())
    assert client.interval(3) == {}
    time.sleep(QUICK_S)
    before = client.stats()

    for value in (4, 3) * 5:
        assert client.interval(value) == {}
        time.sleep(0.5)
    assert client.stats() == before

    changed = time.monotonic()
    assert client.interval(2) == {}
    assert 1.99 < client.next_update()[0] - changed < 2 + QUICK_S


def test_switched_off_it_stands_and_keeps_its_values(kind: Kind) -> None:
    client = kind.client(kind.vm())
    assert client.interval(1) == {}
    client.next_update()
    time.sleep(0.3)

    assert client.interval(0) == {}

    client.stands(2.5)
    assert client.stats()[0] > 0


def test_the_timer_is_on_the_vms_clock(kind: Kind) -> None:
    client = kind.client(kind.vm())
    assert client.interval(3) == {}
    client.next_update()
    time.sleep(1)

    assert client.ask("stop") == {}
    assert client.ask("query-status") == {"status": "paused", "singlestep": False, "running": False}
    client.stands(3.5)
    assert client.ask("cont") == {}
    resumed = time.monotonic()
    took = client.next_update()[0] - resumed

    assert 1.0 < took < 2 + QUICK_S  # what was left of the interval
    assert [event["event"] for event in client.wait_for(["STOP", "RESUME"])] == ["STOP", "RESUME"]


def test_switched_on_while_stopped_the_guest_is_asked_when_the_vm_runs(kind: Kind) -> None:
    client = kind.client(kind.vm())
    time.sleep(1.1)
    assert client.ask("stop") == {}
    before = client.stats()
    assert client.interval(5) == {}
    client.stands(1.2)

    assert client.ask("cont") == {}
    resumed = time.monotonic()
    assert client.next_update(after=before)[0] - resumed < QUICK_S


# ---- the guest


def test_a_guest_without_a_driver_is_never_heard_until_it_loads_one(kind: Kind) -> None:
    vm = kind.vm("silent")
    client = kind.client(vm)
    assert client.interval(1) == {}
    time.sleep(2.2)

    last_update, stats = nothing = client.stats()
    assert last_update == 0
    assert set(stats.values()) == {UNSET}
    assert client.ask("query-balloon") == {"actual": 128 << 20}

    vm.order("load")
    first, last_update = client.next_update(after=nothing)
    assert last_update > 0
    assert client.next_update()[0] - first < 1 + QUICK_S  # polling goes on by itself


def test_a_driver_that_leaves_and_comes_back(kind: Kind) -> None:
    vm = kind.vm()
    client = kind.client(vm)
    assert client.interval(1) == {}
    client.next_update()

    vm.order("unload")
    before = client.stats()
    client.stands(2.5)
    assert before[1]["stat-total-memory"] != UNSET
    assert client.ask("qom-get", path=BALLOON, property=INTERVAL) == 1

    vm.order("load")
    assert client.stats() != before
    client.next_update()


def test_a_crashed_guest_is_silent_and_the_vm_runs_on(kind: Kind) -> None:
    vm = kind.vm()
    client = kind.client(vm)
    assert client.interval(1) == {}
    client.next_update()

    vm.order("crash")
    time.sleep(1.5)

    client.stands(2.5)
    assert client.ask("query-status") == {"status": "running", "singlestep": False, "running": True}
    client.silence(0.1)


def test_a_reset_keeps_interval_and_values_and_polling_comes_back(kind: Kind) -> None:
    """QEMU 7.2; 10.0 clears the values: tests/unit/sim."""
    client = kind.client(kind.vm())
    assert client.interval(1) == {}
    client.next_update()
    client.next_update()

    before = client.stats()
    assert client.ask("system_reset") == {}
    after = client.stats()
    assert after[0] >= before[0] > 0
    assert after[1]["stat-total-memory"] == before[1]["stat-total-memory"]

    events = client.wait_for(["RESET", "RESET"])
    assert events[0]["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    assert {"guest": True, "reason": "guest-reset"} in [event["data"] for event in events[1:]]
    assert {event["event"] for event in events} == {"RESET"}
    client.next_update(40)
    client.next_update()
    assert client.ask("qom-get", path=BALLOON, property=INTERVAL) == 1


def test_a_reset_of_a_stopped_vm_leaves_it_in_prelaunch(kind: Kind) -> None:
    client = kind.client(kind.vm("bare"))
    assert client.ask("cont") == {}
    assert client.ask("stop") == {}

    assert client.ask("system_reset") == {}

    assert client.ask("query-status") == {"status": "prelaunch", "singlestep": False, "running": False}


def test_the_balloons_size_follows_and_says_so_once_a_second(kind: Kind) -> None:
    client = kind.client(kind.vm())

    assert client.ask("balloon", value=0) == ("GenericError", "Parameter 'target' expects a size")
    asked = time.monotonic()
    assert client.ask("balloon", value=100 << 20) == {}
    first = client.wait_for(["BALLOON_CHANGE"])
    quick = time.monotonic()
    second = client.wait_for(["BALLOON_CHANGE"])
    later = time.monotonic()

    sizes = [cast(dict[str, int], event["data"])["actual"] for event in (first[-1], second[-1])]
    assert 100 << 20 < sizes[0] < 128 << 20
    assert sizes[1] == 100 << 20  # the last one wins
    assert quick - asked < 2 * QUICK_S
    assert 0.5 < later - quick < 1 + QUICK_S
    assert client.ask("query-balloon") == {"actual": 100 << 20}

    total = client.stats()[1]["stat-total-memory"]
    assert client.interval(1) == {}
    time.sleep(QUICK_S)
    assert total - client.stats()[1]["stat-total-memory"] == 28 << 20

    assert client.ask("balloon", value=1 << 40) == {}
    client.wait_for(["BALLOON_CHANGE"])
    deadline = time.monotonic() + 5
    while client.ask("query-balloon") != {"actual": 128 << 20}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- devices, snapshots, migration


def test_a_bus_that_takes_no_devices(kind: Kind) -> None:
    client = kind.client(kind.vm())

    refused = ("GenericError", "Bus 'pcie.0' does not support hotplugging")
    assert client.ask("device_del", id="balloon0") == refused
    assert client.ask("device_add", driver="virtio-balloon-pci", id="balloon1") == refused


def test_a_balloon_unplugged_and_another_one_plugged(kind: Kind) -> None:
    client = kind.client(kind.vm("pluggable"))
    assert client.interval(1) == {}
    client.next_update()

    assert client.ask("device_del", id="balloon0") == {}
    events = client.wait_for(["DEVICE_DELETED", "DEVICE_DELETED"])
    assert [event["data"] for event in events] == [
        {"path": f"{BALLOON}/virtio-backend"},
        {"device": "balloon0", "path": BALLOON},
    ]
    absent = ("DeviceNotFound", f"Device '{BALLOON}' not found")
    assert client.ask("qom-get", path=BALLOON, property="guest-stats") == absent
    assert client.ask("query-balloon") == ("DeviceNotActive", "No balloon device has been activated")

    assert client.ask("device_add", driver="virtio-balloon-pci", id="balloon1") == {}
    refused = ("GenericError", "Only one balloon device is supported")
    assert client.ask("device_add", driver="virtio-balloon-pci", id="balloon2") == refused
    path = "/machine/peripheral/balloon1"
    assert client.ask("qom-get", path=path, property=INTERVAL) == 0
    deadline = time.monotonic() + 20
    while client.stats(path)[0] == 0:  # its driver's first buffer
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.interval(1, path) == {}
    client.next_update(path=path)


def test_a_snapshot_loaded_the_time_goes_on_and_the_values_go_back(kind: Kind) -> None:
    vm = kind.vm("saved")
    client = kind.client(vm)
    assert client.interval(1) == {}
    client.next_update()
    time.sleep(0.3)
    assert client.ask("human-monitor-command", **{"command-line": "savevm one"}) == ""
    saved = client.stats()
    client.wait_for(["STOP", "RESUME"])
    for _ in range(3):
        client.next_update()
    later = client.stats()

    assert client.ask("human-monitor-command", **{"command-line": "loadvm one"}) == ""
    loaded = client.stats()
    events = client.wait_for(["STOP", "RESUME"])

    assert [event["event"] for event in events] == ["STOP", "RESUME"]
    assert loaded[0] >= later[0] > saved[0]
    assert loaded[1] == saved[1]
    assert client.ask("qom-get", path=BALLOON, property=INTERVAL) == 1
    client.next_update()
    assert "does not exist" in str(client.ask("human-monitor-command", **{"command-line": "loadvm two"}))


def test_a_migration_carries_the_guest_and_neither_interval_nor_time(kind: Kind) -> None:
    vm = kind.vm(name="a")
    source, destination = kind.client(vm), kind.client(kind.vm("destination", "b"))
    assert destination.ask("query-status") == {"status": "inmigrate", "singlestep": False, "running": False}
    assert destination.stats()[0] == 0
    vm.order("dirty 30")
    before = source.stats()
    assert source.interval(2) == {}
    source.next_update(after=before)
    time.sleep(0.5)
    before = source.stats()

    assert source.ask("migrate", uri=f"unix:{kind.folder}/incoming") == {}
    destination.wait_for(["RESUME"], 40)
    resumed_s = time.time()
    source.wait_for(["STOP"])
    after = destination.stats()

    assert after[1] == source.stats()[1]
    assert after[0] >= before[0]
    assert abs(after[0] - resumed_s) <= 2
    assert destination.ask("qom-get", path=BALLOON, property=INTERVAL) == 0
    assert destination.ask("query-status") == {"status": "running", "singlestep": False, "running": True}
    destination.stands(2.5)
    deadline = time.monotonic() + 10
    while cast(dict[str, str], source.ask("query-status"))["status"] != "postmigrate":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert cast(dict[str, str], source.ask("query-migrate"))["status"] == "completed"
    assert source.ask("qom-get", path=BALLOON, property=INTERVAL) == 2
    source.stands(2.5)

    assert destination.interval(1) == {}
    destination.next_update(after=after)
    moved = destination.stats()[1]["stat-free-memory"]
    assert abs(moved - before[1]["stat-free-memory"]) < 8 << 20  # the guest's memory came along


def test_a_migration_to_nobody_fails_and_the_vm_runs_on(kind: Kind) -> None:
    client = kind.client(kind.vm())
    path = f"{kind.folder}/nowhere"

    assert client.ask("migrate", uri=f"unix:{path}") == {}
    time.sleep(0.2)

    words = f"Failed to connect to '{path}': No such file or directory"
    assert client.ask("query-migrate") == {"status": "failed", "error-desc": words}
    assert client.ask("query-status") == {"status": "running", "singlestep": False, "running": True}
