"""What a QMP client sees of a monitor and of the VM behind it: on a real QEMU and on the simulated one.

If a case fails on the simulated one alone, the simulator is wrong.
"""

import socket
import time
from contextlib import ExitStack
from typing import cast

import pytest

from tests.integration.hypervisor_kinds import INTERVAL, Client, Kind, Shape
from tests.lab.qemu import BALLOON

# ---- the monitor


def test_the_greeting_and_the_answers_before_capabilities_negotiation(kind: Kind) -> None:
    client = kind.client(kind.vm("bare"), negotiate=False)
    greeting = cast(dict[str, dict[str, object]], client.receive())

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
        client.send(said)
        answer = client.answer()
        assert answer is not None, said
        if "error" in answer:
            assert answer["error"] == {"class": "GenericError", "desc": expected}, said
            assert answer.get("id") == (9 if b"oob" in said else None), said
        else:
            assert answer["return"] == {}, said
            assert answer["id"] == expected, said

    client.send(b'{"execute":"query-name","id":1}{"execute":"nonsense","id":2}{"execute":"query-n')
    assert client.answer() == {"return": {}, "id": 1}
    assert client.answer() == {
        "id": 2,
        "error": {"class": "CommandNotFound", "desc": "The command nonsense has not been found"},
    }
    client.silence(0.2)
    client.send(b'ame","id":3}')
    assert client.answer() == {"return": {}, "id": 3}


def test_out_of_band_commands_after_their_capability_is_enabled(kind: Kind) -> None:
    client = kind.client(kind.vm("bare"), negotiate=False)
    client.receive()
    assert client.ask("qmp_capabilities", enable=["oob"]) == {}

    client.send(b'{"exec-oob":"query-uuid","id":9}')

    words = "The command query-uuid does not support OOB"
    assert client.answer() == {"id": 9, "error": {"class": "GenericError", "desc": words}}
    assert client.ask("query-name") == {}


def test_one_client_is_served_two_wait_and_the_next_is_refused(kind: Kind) -> None:
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
    assert "QMP" in (waiting[0].receive() or {})
    waiting[1].silence(0.2)
    waiting[0].close()
    assert "QMP" in (waiting[1].receive() or {})


def test_a_wedged_main_loop_greets_and_answers_nothing(kind: Kind) -> None:
    vm = kind.vm("bare")
    let_go = kind.wedge(vm)
    client = kind.client(vm, negotiate=False)

    assert "QMP" in (client.receive() or {})
    client.send(b'{"execute":"qmp_capabilities"}')
    client.silence(0.5)

    let_go()
    assert client.answer() == {"return": {}}


def test_a_frozen_process_accepts_connections_and_sends_nothing(kind: Kind) -> None:
    vm = kind.vm("bare")
    held = kind.client(vm)

    vm.freeze()
    held.send(b'{"execute":"query-name","id":1}')
    held.silence(0.3)
    waiting = Client(vm.qmp, negotiate=False)
    with ExitStack() as closing:
        closing.callback(waiting.close)
        waiting.silence(0.3)

        vm.thaw()
        assert held.answer() == {"return": {}, "id": 1}
        assert "QMP" in (waiting.receive() or {})


def test_a_killed_qemu_refuses_connections_and_a_restarted_one_has_a_new_socket(kind: Kind) -> None:
    vm = kind.vm("bare")
    before = vm.truth.stat()

    vm.kill()
    with pytest.raises(ConnectionRefusedError):
        Client(vm.truth)

    vm.restart()
    after = vm.truth.stat()
    assert (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns)
    assert kind.client(vm).ask("query-name") == {}


def test_a_qemu_that_quits_sends_an_event_and_removes_its_sockets(kind: Kind) -> None:
    vm = kind.vm("bare")
    client = kind.client(vm)
    other = Client(vm.qmp)
    kind.stack.callback(other.close)

    client.send(b'{"execute":"quit"}')

    assert client.answer() == {"return": {}}
    assert [event["event"] for event in client.events] == ["SHUTDOWN"]
    assert client.events[0]["data"] == {"guest": False, "reason": "host-qmp-quit"}
    assert [event["event"] for event in other.wait_for(["SHUTDOWN"])] == ["SHUTDOWN"]
    with pytest.raises(ConnectionError):
        client.receive()
    deadline = time.monotonic() + 60
    while vm.truth.exists() or vm.qmp.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_monitors_send_the_same_events_after_capabilities_negotiation(kind: Kind) -> None:
    vm = kind.vm("bare")
    client, other = kind.client(vm), Client(vm.qmp, negotiate=False)
    kind.stack.callback(other.close)
    assert "QMP" in (other.receive() or {})

    assert client.ask("cont") == {}
    other.silence(0.2)
    assert other.ask("qmp_capabilities") == {}
    assert client.ask("stop") == {}
    assert client.ask("stop") == {}  # harmless

    assert [event["event"] for event in client.wait_for(["RESUME", "STOP"])] == ["RESUME", "STOP"]
    assert [event["event"] for event in other.wait_for(["STOP"])] == ["STOP"]
    other.silence(0.2)


# ---- devices and properties


def test_a_vm_without_a_balloon(kind: Kind) -> None:
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
        client.balloon = path
        through_this = client.stats()
        client.balloon = BALLOON
        assert through_this == client.stats()
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
    assert abs(last_update - time.time()) < 600
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
    # The end of a path is enough if it is unambiguous, but a board has a device[0] of its own.
    short = client.ask("qom-get", path=name, property="type")
    assert short == (type_name if name == "balloon0" else ("DeviceNotFound", f"Device '{name}' not found"))
    assert client.ask("qom-get", path=path, property="type") == type_name
    client.balloon = path
    assert client.interval(1) == {}
    client.next_update()
    client.next_update()  # an interval after the guest's answer


NOT_INTEGERS: list[object] = [1.0, "3", True, None, [1], {}, 2**63, 2**64, -(2**64)]
BAD_INTERVALS: list[tuple[object, str]] = [
    (-1, "timer value must be greater than zero"),
    (-(2**63), "timer value must be greater than zero"),
    (2**32, "timer value is too big"),
    *((value, f"Invalid parameter type for '{INTERVAL}', expected: integer") for value in NOT_INTEGERS),
]


def test_invalid_intervals_are_refused(kind: Kind) -> None:
    client = kind.client(kind.vm())

    for value, words in BAD_INTERVALS:
        assert client.interval(value) == ("GenericError", words), value
    assert client.interval(2**32 - 1) == {}
    assert client.ask("qom-get", path=BALLOON, property=INTERVAL) == 2**32 - 1
    assert client.interval(0) == {}
