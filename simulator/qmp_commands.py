"""QMP commands: their arguments, checked as QEMU's visitors do, and what they do to a machine."""

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

from simulator import qom
from simulator.balloon_device import BadInterval, Balloon
from simulator.qemu import MS, Machine, Now, Refused

_NO_UUID = "00000000-0000-0000-0000-000000000000"

Arguments = Mapping[str, object]
Handler = Callable[[Machine, Arguments, Now], str]

_KINDS: Mapping[str, type] = {"string": str, "integer": int, "boolean": bool, "array": list, "any": object}


class Parameter(NamedTuple):
    """One of a command's arguments."""

    name: str
    kind: str
    optional: bool = False


class Command(NamedTuple):
    """What a command takes, and what it does: its answer is JSON."""

    parameters: tuple[Parameter, ...]
    run: Handler


def execute(machine: Machine, name: str, arguments: Arguments, now: Now) -> str:
    """Run a command; return JSON for `return`.

    Raises:
        Refused: with QEMU's class and words.
    """
    command = COMMANDS.get(name)
    if command is None:
        raise Refused(f"The command {name} has not been found", "CommandNotFound")
    check(command.parameters, arguments)
    return command.run(machine, arguments, now)


def check(parameters: tuple[Parameter, ...], arguments: Arguments) -> None:
    """Check arguments as QEMU's input visitor does: in the schema's order, then what is left over."""
    for parameter in parameters:
        if parameter.name not in arguments:
            if not parameter.optional:
                raise Refused(f"Parameter '{parameter.name}' is missing")
            continue
        value = arguments[parameter.name]
        kind = _KINDS[parameter.kind]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise Refused(f"Invalid parameter type for '{parameter.name}', expected: {parameter.kind}")
    for name in arguments:
        if all(name != parameter.name for parameter in parameters):
            raise Refused(f"Parameter '{name}' is unexpected")


def _query_status(machine: Machine, _: Arguments, __: Now) -> str:
    status: dict[str, object] = {"status": machine.run_state}
    if machine.version.singlestep:
        status["singlestep"] = False
    return json.dumps({**status, "running": machine.running})


def _query_uuid(machine: Machine, _: Arguments, __: Now) -> str:
    return json.dumps({"UUID": machine.spec.uuid or _NO_UUID})


def _query_name(machine: Machine, _: Arguments, __: Now) -> str:
    return json.dumps({} if machine.title is None else {"name": machine.title})


def _query_version(machine: Machine, _: Arguments, __: Now) -> str:
    return json.dumps(machine.version.describe())


def _query_memory(machine: Machine, _: Arguments, __: Now) -> str:
    return json.dumps({"base-memory": machine.spec.memory_bytes, "plugged-memory": 0})


def _balloon_of(machine: Machine) -> Balloon:
    if machine.balloon is None:
        raise Refused("No balloon device has been activated", "DeviceNotActive")
    return machine.balloon


def _query_balloon(machine: Machine, _: Arguments, __: Now) -> str:
    return json.dumps({"actual": _balloon_of(machine).actual_bytes})


def _inflate(machine: Machine, arguments: Arguments, now: Now) -> str:
    balloon, target = _balloon_of(machine), cast(int, arguments["value"])
    if target <= 0:
        raise Refused("Parameter 'target' expects a size")
    machine.inflate(balloon, target, now)
    return "{}"


def _query_migrate(machine: Machine, _: Arguments, now: Now) -> str:
    migration = machine.migration
    answer: dict[str, object] = {} if migration.status == "none" else {"status": migration.status}
    if migration.error:
        answer["error-desc"] = migration.error
    if migration.status == "active":
        answer["total-time"] = (now.mono_ns - migration.started_ns) // MS
    return json.dumps(answer)


def _qom_list(machine: Machine, arguments: Arguments, _: Now) -> str:
    return json.dumps(qom.list_properties(machine, cast(str, arguments["path"])))


def _qom_get(machine: Machine, arguments: Arguments, _: Now) -> str:
    return qom.get_json(machine, cast(str, arguments["path"]), cast(str, arguments["property"]))


def _qom_set(machine: Machine, arguments: Arguments, now: Now) -> str:
    qom.require_interval(machine, cast(str, arguments["path"]), cast(str, arguments["property"]))
    try:
        _balloon_of(machine).set_interval(arguments["value"], machine.clock_ns(now) // MS)
    except BadInterval as bad:
        raise Refused(str(bad)) from None
    return "{}"


def _device_add(machine: Machine, arguments: Arguments, now: Now) -> str:
    if not str(arguments["driver"]).startswith("virtio-balloon"):
        raise Refused(f"'{arguments['driver']}' is not a valid device model name")
    machine.plug(cast("str | None", arguments.get("id")), now)
    return "{}"


def _device_del(machine: Machine, arguments: Arguments, now: Now) -> str:
    path = qom.balloon_path(machine)
    if path is None or arguments["id"] not in (machine.balloon_id, path):
        raise Refused(f"Device '{arguments['id']}' not found", "DeviceNotFound")
    machine.unplug(now)
    return "{}"


def _migrate(machine: Machine, arguments: Arguments, now: Now) -> str:
    machine.migrate(cast(str, arguments["uri"]), now)
    return "{}"


def _human(machine: Machine, arguments: Arguments, now: Now) -> str:
    """`savevm` and `loadvm`, which answer with nothing, or with what is wrong."""
    word, _, name = cast(str, arguments["command-line"]).partition(" ")
    try:
        if word == "savevm":
            machine.savevm(name, now)
        elif word == "loadvm":
            machine.loadvm(name, now)
        else:
            return json.dumps(f"unknown command: '{word}'\r\n")
    except Refused as refused:
        return json.dumps(f"Error: {refused}\r\n")
    return json.dumps("")


def _quit(machine: Machine, _: Arguments, now: Now) -> str:
    machine.shut_down(now, by_guest=False, reason="host-qmp-quit")
    return "{}"


def _query_commands(_: Machine, __: Arguments, ___: Now) -> str:
    return json.dumps([{"name": name} for name in ("qmp_capabilities", *COMMANDS)])


def _plain(act: Callable[[Machine, Now], None]) -> Handler:
    def run(machine: Machine, _: Arguments, now: Now) -> str:
        act(machine, now)
        return "{}"

    return run


_PATH, _PROPERTY = Parameter("path", "string"), Parameter("property", "string")

COMMANDS: Mapping[str, Command] = {
    "query-status": Command((), _query_status),
    "query-uuid": Command((), _query_uuid),
    "query-name": Command((), _query_name),
    "query-version": Command((), _query_version),
    "query-memory-size-summary": Command((), _query_memory),
    "query-balloon": Command((), _query_balloon),
    "query-migrate": Command((), _query_migrate),
    "query-commands": Command((), _query_commands),
    "qom-list": Command((_PATH,), _qom_list),
    "qom-get": Command((_PATH, _PROPERTY), _qom_get),
    "qom-set": Command((_PATH, _PROPERTY, Parameter("value", "any")), _qom_set),
    "balloon": Command((Parameter("value", "integer"),), _inflate),
    "stop": Command((), _plain(Machine.stop)),
    "cont": Command((), _plain(Machine.cont)),
    "system_reset": Command((), _plain(Machine.system_reset)),
    "quit": Command((), _quit),
    "device_add": Command(
        (Parameter("driver", "string"), Parameter("id", "string", True), Parameter("bus", "string", True)),
        _device_add,
    ),
    "device_del": Command((Parameter("id", "string"),), _device_del),
    "migrate": Command((Parameter("uri", "string"),), _migrate),
    "migrate_cancel": Command((), _plain(Machine.cancel_migration)),
    "human-monitor-command": Command((Parameter("command-line", "string"),), _human),
}
