"""The commands that the agent may send to a monitor, and the only function that encodes them.

QMP has no read-only mode: a client can stop the VM or read the host's files as QEMU's user. So the commands
that the agent can send are listed here, and any other raises before a byte is written.

Two rules hold here:

1. A message is checked by exact types and names, and the bytes are made from what was checked.
2. What is not listed is refused; there is no list of what is refused.
"""

from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import cast

from agent.core.ownership import INTERVAL_MAX_S
from agent.errors import QmpNotAllowed

PLAIN_COMMANDS = frozenset(
    {
        "qmp_capabilities",
        "query-balloon",
        "query-memory-size-summary",
        "query-migrate",
        "query-name",
        "query-status",
        "query-uuid",
        "query-version",
    }
)
"""Commands sent without arguments; `qmp_capabilities` enables no capability."""

LIST_COMMAND = "qom-list"
READ_COMMAND = "qom-get"
WRITE_COMMAND = "qom-set"

INTERVAL = "guest-stats-polling-interval"

READABLE = frozenset({"deflate-on-oom", "guest-stats", INTERVAL, "type"})
WRITABLE = frozenset({INTERVAL})

_MEMBERS = frozenset({"execute", "arguments", "id"})


def encode(message: Mapping[str, object]) -> bytes:
    """Return the bytes of an allowed message.

    Args:
        message: `execute`, and `arguments` and `id` if there are any.

    Raises:
        QmpNotAllowed: not on the list. Nothing was sent.
    """
    # A subclass could show one value to the check and another to the encoder, so both see plain ones.
    members = dict(message)
    _require(members.keys() <= _MEMBERS, members)
    command = members.get("execute")
    _require(type(command) is str, members)
    arguments = members.get("arguments", {})
    _require(type(arguments) is dict, members)
    plain = dict(cast(dict[str, object], arguments))
    _require(all(type(name) is str for name in plain), members)
    _require(_allowed(cast(str, command), plain), members)
    # Not `json.dumps`, which takes several times as long for so little. The values are strings and integers.
    text = f'{{"execute":{quoted(cast(str, command))}'
    if plain:
        named = [
            f"{quoted(name)}:{quoted(value) if type(value) is str else value}"
            for name, value in plain.items()
        ]
        text += f',"arguments":{{{",".join(named)}}}'
    if "id" in members:
        _require(type(members["id"]) is int, members)
        text += f',"id":{members["id"]}'
    return f"{text}}}".encode("ascii")


def _allowed(command: str, arguments: dict[str, object]) -> bool:
    if command in PLAIN_COMMANDS:
        return not arguments
    rule = _RULES.get(command)
    return rule is not None and rule(arguments)


def _allowed_list(arguments: dict[str, object]) -> bool:
    return arguments.keys() == {"path"} and _is_device_path(arguments["path"])


def _allowed_read(arguments: dict[str, object]) -> bool:
    return (
        arguments.keys() == {"path", "property"}
        and _is_device_path(arguments["path"])
        and type(arguments["property"]) is str
        and arguments["property"] in READABLE
    )


def _allowed_write(arguments: dict[str, object]) -> bool:
    return (
        arguments.keys() == {"path", "property", "value"}
        and _is_device_path(arguments["path"])
        and type(arguments["property"]) is str
        and arguments["property"] in WRITABLE
        and type(arguments["value"]) is int
        and 0 <= arguments["value"] <= INTERVAL_MAX_S
    )


_RULES: Mapping[str, Callable[[dict[str, object]], bool]] = {
    LIST_COMMAND: _allowed_list,
    READ_COMMAND: _allowed_read,
    WRITE_COMMAND: _allowed_write,
}


def _is_device_path(path: object) -> bool:
    return type(path) is str and path.startswith("/machine/")


def _require(allowed: bool, message: Mapping[str, object]) -> None:
    if not allowed:
        raise QmpNotAllowed(f"not on the allow-list, not sent: {message!r:.200}")
