"""The QMP commands: argument checks as in QEMU's input visitors, and effects on a simulated QEMU."""

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

from simulator import qom
from simulator.balloon_device import BadInterval, Balloon
from simulator.qemu import MS, Now, Qemu, Refused

_NO_UUID = "00000000-0000-0000-0000-000000000000"

Arguments = Mapping[str, object]
Handler = Callable[[Qemu, Arguments, Now], str]

_KINDS: Mapping[str, type] = {"string": str, "integer": int, "boolean": bool, "array": list, "any": object}


class Parameter(NamedTuple):
    """A parameter of a command."""

    name: str
    kind: str
    optional: bool = False


class Command(NamedTuple):
    """A command: its parameters, and the function that runs it and returns the answer as JSON."""

    parameters: tuple[Parameter, ...]
    run: Handler


def execute(qemu: Qemu, name: str, arguments: Arguments, now: Now) -> str:
    """Run a command and return the JSON of its `return` member.

    Raises:
        Refused: has the class and the message of QEMU's error.
    """
    command = COMMANDS.get(name)
    if command is None:
        raise Refused(f"The command {name} has not been found", "CommandNotFound")
    check(command.parameters, arguments)
    return command.run(qemu, arguments, now)


def check(parameters: tuple[Parameter, ...], arguments: Arguments) -> None:
    """Check arguments as QEMU's input visitor does: first in the order of the schema, then for unknown ones.

    Raises:
        Refused: an argument is missing, unknown or of the wrong type.
    """
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


def _query_status(qemu: Qemu, _: Arguments, __: Now) -> str:
    status: dict[str, object] = {"status": qemu.run_state}
    if qemu.version.singlestep:
        status["singlestep"] = False
    return json.dumps({**status, "running": qemu.running})


def _query_uuid(qemu: Qemu, _: Arguments, __: Now) -> str:
    return json.dumps({"UUID": qemu.spec.uuid or _NO_UUID})


def _query_name(qemu: Qemu, _: Arguments, __: Now) -> str:
    return json.dumps({} if qemu.title is None else {"name": qemu.title})


def _query_version(qemu: Qemu, _: Arguments, __: Now) -> str:
    return json.dumps(qemu.version.describe())


def _query_memory(qemu: Qemu, _: Arguments, __: Now) -> str:
    return json.dumps({"base-memory": qemu.spec.memory_bytes, "plugged-memory": 0})


def _balloon_of(qemu: Qemu) -> Balloon:
    if qemu.balloon is None:
        raise Refused("No balloon device has been activated", "DeviceNotActive")
    return qemu.balloon


def _query_balloon(qemu: Qemu, _: Arguments, __: Now) -> str:
    return json.dumps({"actual": _balloon_of(qemu).actual_bytes})


def _inflate(qemu: Qemu, arguments: Arguments, now: Now) -> str:
    balloon, target = _balloon_of(qemu), cast(int, arguments["value"])
    if target <= 0:
        raise Refused("Parameter 'target' expects a size")
    qemu.inflate(balloon, target, now)
    return "{}"


def _query_migrate(qemu: Qemu, _: Arguments, now: Now) -> str:
    migration = qemu.migration
    answer: dict[str, object] = {} if migration.status == "none" else {"status": migration.status}
    if migration.error:
        answer["error-desc"] = migration.error
    if migration.status == "active":
        answer["total-time"] = (now.mono_ns - migration.started_ns) // MS
    return json.dumps(answer)


def _qom_list(qemu: Qemu, arguments: Arguments, _: Now) -> str:
    return json.dumps(qom.list_properties(qemu, cast(str, arguments["path"])))


def _qom_get(qemu: Qemu, arguments: Arguments, _: Now) -> str:
    return qom.get_json(qemu, cast(str, arguments["path"]), cast(str, arguments["property"]))


def _qom_set(qemu: Qemu, arguments: Arguments, now: Now) -> str:
    qom.require_interval(qemu, cast(str, arguments["path"]), cast(str, arguments["property"]))
    try:
        _balloon_of(qemu).set_interval(arguments["value"], qemu.clock_ns(now) // MS)
    except BadInterval as error:
        raise Refused(str(error)) from None
    return "{}"


def _device_add(qemu: Qemu, arguments: Arguments, now: Now) -> str:
    if not str(arguments["driver"]).startswith("virtio-balloon"):
        raise Refused(f"'{arguments['driver']}' is not a valid device model name")
    qemu.plug(cast("str | None", arguments.get("id")), now)
    return "{}"


def _device_del(qemu: Qemu, arguments: Arguments, now: Now) -> str:
    path = qom.balloon_path(qemu)
    if path is None or arguments["id"] not in (qemu.balloon_id, path):
        raise Refused(f"Device '{arguments['id']}' not found", "DeviceNotFound")
    qemu.unplug(now)
    return "{}"


def _migrate(qemu: Qemu, arguments: Arguments, now: Now) -> str:
    qemu.migrate(cast(str, arguments["uri"]), now)
    return "{}"


def _human_monitor_command(qemu: Qemu, arguments: Arguments, now: Now) -> str:
    """Run `savevm` or `loadvm`; the answer is empty, or the text of an error."""
    command, _, name = cast(str, arguments["command-line"]).partition(" ")
    try:
        if command == "savevm":
            qemu.savevm(name, now)
        elif command == "loadvm":
            qemu.loadvm(name, now)
        else:
            return json.dumps(f"unknown command: '{command}'\r\n")
    except Refused as refused:
        return json.dumps(f"Error: {refused}\r\n")
    return json.dumps("")


def _quit(qemu: Qemu, _: Arguments, now: Now) -> str:
    qemu.shut_down(now, by_guest=False, reason="host-qmp-quit")
    return "{}"


def _query_commands(_: Qemu, __: Arguments, ___: Now) -> str:
    return json.dumps([{"name": name} for name in ("qmp_capabilities", *COMMANDS)])


def _without_arguments(act: Callable[[Qemu, Now], None]) -> Handler:
    def run(qemu: Qemu, _: Arguments, now: Now) -> str:
        act(qemu, now)
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
    "stop": Command((), _without_arguments(Qemu.stop)),
    "cont": Command((), _without_arguments(Qemu.cont)),
    "system_reset": Command((), _without_arguments(Qemu.system_reset)),
    "quit": Command((), _quit),
    "device_add": Command(
        (Parameter("driver", "string"), Parameter("id", "string", True), Parameter("bus", "string", True)),
        _device_add,
    ),
    "device_del": Command((Parameter("id", "string"),), _device_del),
    "migrate": Command((Parameter("uri", "string"),), _migrate),
    "migrate_cancel": Command((), _without_arguments(Qemu.cancel_migration)),
    "human-monitor-command": Command((Parameter("command-line", "string"),), _human_monitor_command),
}
