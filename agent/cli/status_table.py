"""The table of `barograph status`, from `/status`. Pure.

Names come from guests and their managers: they are cut, and characters that a terminal
interprets are replaced.
"""

import msgspec

PROBLEMS = (
    *("unreachable", "no-greeting", "stalled", "empty", "waiting"),
    *("no-balloon", "duplicate", "off", "connecting"),
)
"""The states that need attention, worst first."""
EXCUSED = ("paused", "gone")
_ORDER = (*PROBLEMS, *EXCUSED, "reporting")
_ROW = "{:<24} {:<11} {:<18} {:>7} {:>7} {:>6}"


class VmIdentity(msgspec.Struct, frozen=True):
    """What names a VM; all absent fields are unknown."""

    name: str | None = None
    id: str | None = None
    path: str | None = None


class VmState(msgspec.Struct, frozen=True):
    """The newest state of a VM."""

    vm: VmIdentity
    state: str
    reason: str
    since_ms: int


class VmSample(msgspec.Struct, frozen=True):
    """The newest sample of a VM."""

    statistics: dict[str, int]


class Vm(msgspec.Struct, frozen=True):
    """One VM of `/status`."""

    state: VmState
    age_s: float | None = None
    sample: VmSample | None = None


class Status(msgspec.Struct, frozen=True):
    """What is used of `/status`."""

    now_ms: int
    vms: list[Vm]


def parse(text: bytes) -> Status:
    """Return the document; `msgspec.DecodeError`: it is not one of `/status`."""
    return msgspec.json.decode(text, type=Status)


def all_well(status: Status) -> bool:
    """Return whether each VM reports or is excused."""
    return all(vm.state.state in (*EXCUSED, "reporting") for vm in status.vms)


def table(status: Status) -> str:
    """Return the VMs, worst first, in lines of at most 80 columns."""
    rows = [_ROW.format("VM", "STATE", "REASON", "SINCE", "AGE", "AVAIL")]
    rows += [_row(vm, status.now_ms) for vm in sorted(status.vms, key=_rank)]
    return "\n".join(row.rstrip() for row in rows)


def _rank(vm: Vm) -> tuple[int, float, str]:
    """An unknown state, of a later agent, comes first."""
    state = vm.state.state
    share = _available(vm)
    return _ORDER.index(state) if state in _ORDER else -1, 2.0 if share is None else share, _name(vm)


def _row(vm: Vm, now_ms: int) -> str:
    state, share = vm.state, _available(vm)
    return _ROW.format(
        _cut(_name(vm), 24),
        _cut(state.state, 11),
        _cut(state.reason, 18),
        _span((now_ms - state.since_ms) / 1000),
        "-" if vm.age_s is None else _span(vm.age_s),
        "-" if share is None else f"{share:.0%}",
    )


def _name(vm: Vm) -> str:
    identity = vm.state.vm
    return identity.name or identity.id or identity.path or "?"


def _available(vm: Vm) -> float | None:
    """Return the available share of the guest's memory. Old values are not shown as new ones."""
    if vm.sample is None or vm.state.state != "reporting":
        return None
    available = vm.sample.statistics.get("available_memory")
    total = vm.sample.statistics.get("total_memory")
    return None if available is None or not total else min(1.0, max(0.0, available / total))


def _cut(text: str, columns: int) -> str:
    plain = "".join(each if each.isascii() and each.isprintable() else "?" for each in text[: columns + 1])
    return plain if len(plain) <= columns else plain[: columns - 1] + "~"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{min(seconds // length, 99_999):.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
