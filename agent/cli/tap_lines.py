"""One line of text for each record of `barograph tap`. Pure.

All texts come from another process, and the names in them from guests and their managers: `plain` makes them
safe for a terminal.
"""

import re
from collections.abc import Iterator, Mapping

import msgspec

from agent.cli.status_document import (
    Balloon,
    Configured,
    HostName,
    Number,
    ProcessMemory,
    Psi,
    Sizes,
    VmIdentity,
    plain,
    size,
)
from agent.contract.foreign import decode_foreign
from agent.core.wording import counted

COLUMNS = 80
WIDE_COLUMNS = 400

_KIND_COLUMNS = 11
_HOST_COLUMNS = 10
_NAME_COLUMNS = 15
_WIDE_NAME_COLUMNS = 40
_DAY_S = 86_400


class Value(msgspec.Struct, frozen=True):
    """What is used of a record's value, whatever its kind."""

    observed_at_ms: Number = 0
    vm: VmIdentity | None = None
    host: HostName | None = None
    # a sample
    statistics: Mapping[str, Number] | None = None
    last_update: Number = 0
    origin: str = ""
    missed_at_most: Number = 0
    # a state
    state: str = ""
    reason: str = ""
    detail: str = ""
    previous_state: str | None = None
    heartbeat: bool = False
    # the memory of a VM or of the host
    configured: Configured | None = None
    balloon: Balloon | None = None
    process: ProcessMemory | None = None
    memory: Sizes | None = None
    pressure: Psi | None = None


class _Event(msgspec.Struct, frozen=True):
    """A CloudEvent in structured mode, or a value without `data`."""

    data: msgspec.Raw = msgspec.Raw()


def record_line(kind: str, raw: bytes, *, with_host: bool, wide: bool) -> str:
    """Return a record in one line of at most 80 columns, or 400 if `wide`.

    Args:
        kind: the kind of the record.
        raw: its value, in JSON; a whole CloudEvent in structured mode.
        with_host: whether the line names the host.
        wide: whether names and texts are long.
    """
    columns = WIDE_COLUMNS if wide else COLUMNS
    try:
        value = _value(raw)
    except ValueError:
        return plain(f"{kind}: not readable: {raw[:columns].decode(errors='replace')}", columns)
    host = "" if value.host is None else value.host.name
    name_columns = _WIDE_NAME_COLUMNS if wide else _NAME_COLUMNS
    parts = [_time(value.observed_at_ms), _cell(kind, _KIND_COLUMNS)]
    if with_host:
        parts.append(_cell(host, _HOST_COLUMNS))
    parts += [_cell(_name(value.vm, host), name_columns), ", ".join(_texts(kind, value))]
    return plain(" ".join(parts).rstrip(), columns)


def exact(raw: bytes) -> str:
    """Return a value for a terminal: as emitted, with characters that it may interpret as JSON escapes."""
    text = raw.decode(errors="replace")
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if character in "\n\r\t":  # between tokens: JSON has no other place for them
        return " "
    units = character.encode("utf-16-be")
    return re.sub("(.{4})", r"\\u\1", units.hex())


def _value(raw: bytes) -> Value:
    data = bytes(decode_foreign(raw, _Event).data)
    return decode_foreign(data or raw, Value)


def _time(unix_ms: int) -> str:
    second = unix_ms // 1000 % _DAY_S
    return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"


def _cell(text: str, columns: int) -> str:
    return plain(text, columns).ljust(columns)


def _name(vm: VmIdentity | None, host: str) -> str:
    return host if vm is None else vm.name or vm.path or vm.id or "?"


def _texts(kind: str, value: Value) -> Iterator[str]:
    match kind:
        case "sample":
            yield from _of_sample(value)
        case "vm_state" | "agent_state":
            yield from _of_state(value)
        case "vm_memory":
            yield from _of_vm_memory(value)
        case _:
            yield from _of_host_memory(value)


def _of_sample(value: Value) -> Iterator[str]:
    statistics = value.statistics or {}
    available, total = statistics.get("available_memory"), statistics.get("total_memory")
    if available is None or not total:
        yield counted(len(statistics), "statistic")
    else:
        yield f"{size(available)}/{size(total)} available ({available / total:.0%})"
    if value.origin == "poll":
        yield f"lag {max(0.0, value.observed_at_ms / 1000 - value.last_update):.1f}s"
    else:
        yield value.origin
    if value.missed_at_most > 0:
        yield f"missed at most {value.missed_at_most}"


def _of_state(value: Value) -> Iterator[str]:
    yield f"{value.state}/{value.reason}" if value.reason else value.state
    if value.heartbeat:
        yield "heartbeat"
        return
    if value.previous_state is not None:
        yield f"was {value.previous_state}"
    if value.detail:
        yield value.detail


def _of_vm_memory(value: Value) -> Iterator[str]:
    if value.balloon is not None and value.balloon.actual_bytes is not None:
        yield f"balloon {size(value.balloon.actual_bytes)}"
    if value.configured is not None:
        yield f"configured {size(value.configured.base_bytes + value.configured.plugged_bytes)}"
    if value.process is not None and value.process.resident_bytes is not None:
        yield f"resident {size(value.process.resident_bytes)}"


def _of_host_memory(value: Value) -> Iterator[str]:
    memory = value.memory
    if memory is not None and memory.available_bytes is not None and memory.total_bytes:
        share = memory.available_bytes / memory.total_bytes
        yield f"{size(memory.available_bytes)}/{size(memory.total_bytes)} available ({share:.0%})"
    if value.pressure is not None and value.pressure.some is not None:
        yield f"stalls {value.pressure.some.avg10:.1f}%"
