"""Orders that tests and the demo send over the control socket.

Each message is a line of JSON: `{"order": ORDER, "vm": NAME}` is answered with `{"return": RESULT}` or
`{"error": MESSAGE}`.

| order | effect |
| --- | --- |
| `pause`, `cont`, `reset`, `quit`, `interval SECONDS` | as another QMP client would do it |
| `hello` | nothing; fails if the guest does not answer |
| `load`, `unload`, `dirty MIB`, `clean`, `churn` | the guest loads or unloads its driver, or uses memory |
| `thrash`, `calm` | the guest works with more than its memory, and swaps, until `calm` |
| `oom` | the guest's kernel kills a process because memory ran out |
| `reboot`, `poweroff`, `crash` | the guest reboots, powers off or crashes |
| `become KIND` | the guest changes its behavior |
| `freeze`, `thaw` | as SIGSTOP and SIGCONT: nothing is accepted, read or sent in between |
| `wedge`, `unwedge` | the main loop is stuck: clients are greeted, but nothing is answered |
| `kill`, `restart` | the process is killed and leaves its socket files; it starts again on the same paths |
| `unlink` | the socket files are removed while the process runs |
| `hang up`, `stay` | every client is disconnected after its greeting; `stay` ends that |
| `flood RATE` | sends events, RATE per second; 0 ends it |
| `migrate NAME` | the guest migrates to another VM of this simulator that was added with `incoming` |
| `state` | returns run state, interval, last-update and so on |

Orders without `vm`: `vms` returns the names of all VMs; `flush` makes the updates log complete;
`{"order": "add", "spec": {…}}` adds a VM, with a `simulator.spec.Spec` as JSON.
"""

from collections.abc import Mapping
from typing import cast

from simulator import qom
from simulator.guest import MIB, Kind
from simulator.host import Host, clocks
from simulator.qemu import Now, Qemu, Refused
from simulator.qemu_process import QemuProcess
from simulator.qmp_commands import execute
from simulator.spec import BUSES, Spec
from simulator.versions import VERSIONS

_GUEST_ORDERS = frozenset(
    {
        "hello",
        "load",
        "unload",
        "dirty",
        "clean",
        "churn",
        "thrash",
        "calm",
        "oom",
        "reboot",
        "poweroff",
        "crash",
    }
)


def perform(host: Host, message: Mapping[str, object]) -> object:
    """Perform an order and return its result.

    Raises:
        Refused: the order is unknown, or not possible now.
    """
    order, name = str(message.get("order", "")), message.get("vm")
    match order:
        case "vms":
            return list(host.processes)
        case "flush":
            host.flush_log()
            return None
        case "add":
            host.add(parse_spec(cast("Mapping[str, object]", message.get("spec", {}))))
            return None
        case _:
            process = host.processes.get(str(name))
            if process is None:
                raise Refused(f"unknown VM {name!r}")
            result = _perform_on_process(host, process, order)
            host.schedule(process)
            return result


def parse_spec(members: Mapping[str, object]) -> Spec:
    """Return the specification of a VM from JSON.

    Raises:
        Refused: a field is unknown or its value is not valid.
    """
    try:
        values = dict(members)
        values["guest"] = Kind(str(values.get("guest", Kind.STEADY)))
        spec = Spec(**values)  # pyrefly: ignore[bad-argument-type]
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None
    if spec.bus not in BUSES or spec.version not in VERSIONS:
        raise Refused(f"bus must be one of {', '.join(BUSES)}; version one of {', '.join(VERSIONS)}")
    return spec


def _perform_on_process(host: Host, process: QemuProcess, order: str) -> object:
    match order.split():
        case ["restart"]:
            host.start(process)
        case ["freeze"]:
            process.set_stuck(frozen=True)
        case ["thaw"]:
            process.set_stuck(frozen=False)
            process.scheduled_ns = None
        case ["wedge"]:
            process.set_stuck(wedged=True)
        case ["unwedge"]:
            process.set_stuck(wedged=False)
            process.scheduled_ns = None
        case ["unlink"]:
            process.qmp.unlink(missing_ok=True)
            process.truth.unlink(missing_ok=True)
        case ["kill"]:
            host.end(process)
        case ["hang", "up"]:
            process.hang_up()
        case ["stay"]:
            process.hangs_up = False
        case ["flood", rate]:
            host.flood(process, float(rate))
        case _:
            if process.qemu is None:
                raise Refused(f"{process.spec.name} does not run")
            return _perform_on_qemu(host, process.qemu, order, clocks())
    return None


def _perform_on_qemu(host: Host, qemu: Qemu, order: str, now: Now) -> object:
    verb, _, argument = order.partition(" ")
    match verb:
        case _ if verb in _GUEST_ORDERS:
            _perform_in_guest(qemu, verb, argument, now)
        case "pause":
            qemu.stop(now)
        case "cont":
            qemu.cont(now)
        case "reset":
            qemu.system_reset(now)
        case "quit":
            qemu.shut_down(now, by_guest=False, reason="host-qmp-quit")
        case "interval" if argument.isdecimal():
            arguments = {"path": qom.balloon_path(qemu), "property": qom.INTERVAL, "value": int(argument)}
            execute(qemu, "qom-set", arguments, now)
        case "become" if argument in list(Kind):
            qemu.guest.kind = Kind(argument)
        case "migrate" if argument in host.processes:
            qemu.migrate(host.processes[argument].spec.incoming or "", now)
        case "state":
            return _state_of(qemu)
        case _:
            raise Refused(f"unknown order {order!r}")
    return None


def _perform_in_guest(qemu: Qemu, verb: str, argument: str, now: Now) -> None:
    if not qemu.guest_up or qemu.guest.crashed or not qemu.running:
        raise Refused("the guest does not answer")
    match verb:
        case "load":
            if qemu.balloon and qemu.balloon.negotiated:
                raise Refused("the driver is already loaded")
            qemu.load_driver(now)
        case "unload":
            qemu.unload_driver(now)
        case "dirty":
            qemu.guest.dirty_bytes = int(argument) * MIB
        case "clean":
            qemu.guest.dirty_bytes = 0
        case "churn":
            qemu.guest.churns = True
        case "thrash" | "calm":
            qemu.guest.thrashes = verb == "thrash"
        case "oom":
            qemu.guest.run_out_of_memory()
        case "reboot":
            qemu.system_reset(now, by_guest=True)
        case "poweroff":
            qemu.shut_down(now, by_guest=True, reason="guest-shutdown")
        case "crash":
            qemu.crash(now)
        case _:  # hello
            pass


def _state_of(qemu: Qemu) -> dict[str, object]:
    balloon = qemu.balloon
    return {
        "run_state": qemu.run_state,
        "migration": qemu.migration.status,
        "interval_s": balloon.interval_s if balloon else None,
        "last_update_s": balloon.last_update_s if balloon else None,
        "actual_bytes": balloon.actual_bytes if balloon else None,
        "driver": balloon.negotiated if balloon else None,
        "guest": qemu.guest.kind,
    }
