"""What tests and the demo may order, VM by VM, over the control socket.

A line of JSON each way. `{"order": WORDS, "vm": NAME}` is answered with `{"return": …}` or `{"error": WHY}`.

| order | what happens |
| --- | --- |
| `pause`, `cont`, `reset`, `quit`, `interval SECONDS` | as by QMP from somebody else's monitor |
| `hello`, `load`, `unload`, `dirty MIB`, `clean`, `churn` | the guest's own doing |
| `reboot`, `poweroff`, `crash` | the guest's end |
| `become KIND` | the guest behaves otherwise from now on |
| `freeze`, `thaw` | as SIGSTOP and SIGCONT: nothing is accepted, read or said |
| `wedge`, `unwedge` | the main loop is stuck: a client is greeted, and nothing is answered |
| `kill`, `restart` | the process: its sockets' files stay; another one on the same paths |
| `unlink` | the sockets' files are removed under the living process |
| `hang up`, `stay` | hang up on every client once it is greeted |
| `flood RATE` | events, so many a second; 0: no more |
| `migrate NAME` | to another VM of this process, which was added with `incoming` |
| `state` | returns run state, interval, last-update and so on |

Without `vm`: `vms` returns their names; `flush` writes the log so far; `{"order": "add", "spec": {…}}`
adds one, `machine.Spec` as JSON.
"""

from collections.abc import Mapping
from typing import cast

from simulator import qom
from simulator.guest import Kind
from simulator.host import Host, Process, clocks
from simulator.qemu import BUSES, Machine, Now, Refused, Spec
from simulator.qmp_commands import execute
from simulator.versions import VERSIONS

_GUEST = frozenset({"hello", "load", "unload", "dirty", "clean", "churn", "reboot", "poweroff", "crash"})


def follow(host: Host, message: Mapping[str, object]) -> object:
    """Follow an order.

    Raises:
        Refused: it cannot be.
    """
    words, name = str(message.get("order", "")), message.get("vm")
    if words == "vms":
        return list(host.processes)
    if words == "flush":
        host.flush_log()
        return None
    if words == "add":
        host.add(read_spec(cast("Mapping[str, object]", message.get("spec", {}))))
        return None
    process = host.processes.get(str(name))
    if process is None:
        raise Refused(f"no VM {name!r}")
    answer = _follow(host, process, words)
    host.schedule(process)
    return answer


def read_spec(members: Mapping[str, object]) -> Spec:
    """Return a VM as its JSON says.

    Raises:
        Refused: it says something else.
    """
    try:
        values = dict(members)
        values["guest"] = Kind(str(values.get("guest", Kind.STEADY)))
        spec = Spec(**values)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None
    if spec.bus not in BUSES or spec.version not in VERSIONS:
        raise Refused(f"bus is one of {', '.join(BUSES)}; version one of {', '.join(VERSIONS)}")
    return spec


def _follow(host: Host, process: Process, words: str) -> object:
    match words.split():
        case ["restart"]:
            host.start(process)
            return None
        case ["freeze"]:
            process.hold(frozen=True)
            return None
        case ["thaw"]:
            process.hold(frozen=False)
            process.scheduled_ns = None
            return None
        case ["wedge"]:
            process.hold(wedged=True)
            return None
        case ["unwedge"]:
            process.hold(wedged=False)
            process.scheduled_ns = None
            return None
        case ["unlink"]:
            process.qmp.unlink(missing_ok=True)
            process.truth.unlink(missing_ok=True)
            return None
        case ["kill"]:
            host.end(process)
            return None
        case ["hang", "up"]:
            process.hang_up()
            return None
        case ["stay"]:
            process.hangs_up = False
            return None
        case ["flood", rate]:
            host.flood(process, float(rate))
            return None
        case _:
            if process.machine is None:
                raise Refused(f"{process.spec.name} does not run")
            return _follow_machine(host, process.machine, words, clocks())


def _follow_machine(host: Host, machine: Machine, words: str, now: Now) -> object:
    order, _, argument = words.partition(" ")
    if order in _GUEST:
        machine.order(words, now)
        return None
    match order:
        case "pause":
            machine.stop(now)
        case "cont":
            machine.cont(now)
        case "reset":
            machine.system_reset(now)
        case "quit":
            machine.shut_down(now, by_guest=False, reason="host-qmp-quit")
        case "interval" if argument.isdecimal():
            at = {"path": qom.balloon_path(machine), "property": qom.INTERVAL, "value": int(argument)}
            execute(machine, "qom-set", at, now)
        case "become" if argument in list(Kind):
            machine.guest.kind = Kind(argument)
        case "migrate" if argument in host.processes:
            machine.migrate(host.processes[argument].spec.incoming or "", now)
        case "state":
            return _state(machine)
        case _:
            raise Refused(f"no such order: {words}")
    return None


def _state(machine: Machine) -> dict[str, object]:
    balloon = machine.balloon
    return {
        "run_state": machine.run_state,
        "migration": machine.migration.status,
        "interval_s": balloon.interval_s if balloon else None,
        "last_update_s": balloon.last_update_s if balloon else None,
        "actual_bytes": balloon.actual_bytes if balloon else None,
        "driver": balloon.negotiated if balloon else None,
        "guest": machine.guest.kind,
    }
