"""Parse QMP's answers and events. An answer that is not as documented raises `ValueError`.

Sources: QEMU qapi/misc.json, qapi/run-state.json, qapi/machine.json, qapi/qdev.json,
docs/interop/qmp-spec.rst.
"""

import re
from collections.abc import Mapping
from typing import cast
from uuid import UUID

from agent.core.events import BalloonChanged, LinkEvent, MonitorEvent, MonitorEventKind
from agent.core.numbers import EXACT_MAX
from agent.core.ownership import INTERVAL_MAX_S
from agent.core.wording import printable

_RUN_STATE = re.compile(r"[a-z][a-z0-9-]{0,63}")
# As QEMU prints it: `UUID` also accepts braces, "urn:", underscores, signs and blanks.
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NO_UUID = UUID(int=0)
_NAME_MAX_CHARACTERS = 256


def parse_uuid(answer: object) -> str | None:
    """Return the uuid in lower case, from `query-uuid`; `None`: QEMU was given none (all zeros)."""
    text = _object(answer, "query-uuid").get("UUID")
    if not isinstance(text, str) or _UUID.fullmatch(text) is None:
        raise ValueError("query-uuid did not answer with a uuid")
    uuid = UUID(text)
    return None if uuid == _NO_UUID else str(uuid)


def parse_name(answer: object) -> str | None:
    """Return `-name`, from `query-name`, made printable; `None`: QEMU was given none."""
    name = _object(answer, "query-name").get("name")
    if name is None or name == "":
        return None
    if not isinstance(name, str):
        raise ValueError("query-name did not answer with a string")
    return printable(name, _NAME_MAX_CHARACTERS)


def parse_run_state(answer: object) -> str:
    """Return QEMU's term for the run state, from `query-status`."""
    status = _object(answer, "query-status").get("status")
    if not isinstance(status, str) or _RUN_STATE.fullmatch(status) is None:
        raise ValueError("query-status did not answer with a run state")
    return status


def parse_interval_s(answer: object) -> int:
    """Return the polling interval in seconds; 0: off."""
    if type(answer) is not int or not 0 <= answer <= INTERVAL_MAX_S:
        raise ValueError("the polling interval is not a number of seconds")
    return answer


def parse_actual_bytes(answer: object) -> int | None:
    """Return the balloon's `actual` in bytes, from `query-balloon`; `None`: not known.

    QEMU subtracts a number of pages that the guest writes, and does not compare it with the VM's memory: the
    result may be negative (hw/virtio/virtio-balloon.c, virtio_balloon_stat).
    """
    actual = _object(answer, "query-balloon").get("actual")
    if type(actual) is not int:
        raise ValueError("query-balloon did not answer with a size")
    return actual if 0 <= actual < 2**63 else None


def parse_memory_sizes(answer: object) -> tuple[int, int] | None:
    """Return the VM's base and plugged memory in bytes, from `query-memory-size-summary`; `None`: not known.

    Nothing else depends on it, so an answer that is not as documented is as good as none.
    """
    if not isinstance(answer, Mapping):
        return None
    sizes = cast(Mapping[str, object], answer)
    base, plugged = sizes.get("base-memory"), sizes.get("plugged-memory", 0)
    if type(base) is not int or type(plugged) is not int:
        return None
    return (base, plugged) if 0 < base <= EXACT_MAX and 0 <= plugged <= EXACT_MAX - base else None


_MONITOR_EVENTS = {
    kind.value: MonitorEvent(kind) for kind in MonitorEventKind if kind is not MonitorEventKind.LOST
}


def parse_event(message: Mapping[str, object]) -> LinkEvent | None:
    """Return the event in a QMP message; `None`: it has none, or one that is not used.

    A BALLOON_CHANGE without a valid size is not used. MIGRATION is not among the events: it needs a
    capability that the agent does not set.
    """
    name = message.get("event")
    if not isinstance(name, str):
        return None
    if name != "BALLOON_CHANGE":
        return _MONITOR_EVENTS.get(name)
    try:
        actual_bytes = parse_actual_bytes(message.get("data"))
    except ValueError:
        return None
    return None if actual_bytes is None else BalloonChanged(actual_bytes)


def _object(answer: object, what: str) -> Mapping[str, object]:
    if not isinstance(answer, Mapping):
        raise ValueError(f"{what} is not an object")
    return cast(Mapping[str, object], answer)
