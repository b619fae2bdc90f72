"""Decodes QMP answers to readings. Malformed input becomes a named reason; nothing raises or is guessed.

The values of a reading are QEMU's, unchanged. A statistic that is not in it is either *unset* (QEMU lists the
name, but the guest gave no value) or *refused*, with the reason:

- `NOT_INTEGER`: a float, a string, a boolean, null, or any other type;
- `TOO_LARGE`: above 2^53-1, but not unset;
- `IMPOSSIBLE`: a number that stands for "no value", a size above 4 PiB, or a value that contradicts another
  one (`_contradictions`);
- `BAD_NAME`: not a usable name, or two spellings of one name, of which both are refused.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from agent.contract.statistics import KNOWN_STATISTICS
from agent.core.numbers import EXACT_MAX
from agent.core.reading import Reading, Refusal

UNSET_FROM = 1 << 63
"""Values from here up, and below 0, mean "unset": QEMU uses 2^64-1 (-1 before about 2.10), and the Windows
service values up to a page size below it."""

LAST_UPDATE_MAX_S = 253_402_300_799
"""The end of the year 9999: RFC 3339 has no later time, and an event needs one."""

SENTINELS = frozenset(bits << shift for bits in ((1 << 31) - 1, (1 << 32) - 1) for shift in (0, 10, 12)) | {
    (1 << 52) - 1
}
"""The largest signed and unsigned numbers of 32 bits, as events or bytes, as KiB and as pages of 4 KiB; and
2^64-1 bytes as pages. A service that has no value sends them; 2^64-1 itself means "unset". A counter that
passes one loses one value; a guest that has 8 or 16 TiB less exactly a page is too rare to matter."""

SIZES = frozenset(known.name for known in KNOWN_STATISTICS.values() if known.kind == "gauge")
"""The statistics that are sizes of memory. A guest has them in pages of at least 4 KiB."""

SIZE_MAX = 1 << 52
"""4 PiB: the widest physical address of x86 has 52 bits (Intel SDM volume 3, 4.1.4)."""

KIB_SENTINELS = frozenset(((1 << bits) - 1) >> 10 << 10 for bits in (31, 32))
"""32-bit sentinels of bytes, rounded to KiB as by libvirt. They are no whole pages, so no guest has one."""

PAGE_SENTINELS = frozenset(((1 << bits) - 1) >> 12 << 12 for bits in (31, 32))
"""32-bit sentinels of bytes, rounded to pages of 4 KiB. A guest may have exactly 4 GiB less a page free, so
one such size is a value, unless it is above the total. Two equal ones are sentinels."""

_RESERVE_PART = 4
_RESERVE_WITHOUT_TOTAL = 4 << 30

STATISTICS_MAX = 256
"""QEMU has 16 names; an answer with more than this does not come from QEMU."""


class BadAnswerReason(StrEnum):
    """Why an answer to `guest-stats` is not a reading."""

    NOT_AN_OBJECT = "not_an_object"
    NO_LAST_UPDATE = "no_last_update"
    BAD_LAST_UPDATE = "bad_last_update"  # not an integer, negative, or after the year 9999
    NO_STATISTICS = "no_statistics"
    TOO_MANY_STATISTICS = "too_many_statistics"


@dataclass(frozen=True, slots=True)
class BadAnswer:
    """A malformed answer. Nothing of it is used."""

    reason: BadAnswerReason
    detail: str  # for people; contains no text of the peer


def decode_guest_stats(answer: object) -> Reading | BadAnswer:
    """Decode the `return` of `qom-get <balloon> guest-stats`. Accepts every JSON value; never raises.

    The shape: `{"stats": {"stat-free-memory": 68141056, ...}, "last-update": 1795404146}`.
    Source: QEMU hw/virtio/virtio-balloon.c, balloon_stats_get_all.
    """
    if type(answer) is not dict:
        return BadAnswer(
            BadAnswerReason.NOT_AN_OBJECT, f"guest-stats is {type(answer).__name__}, not an object"
        )
    parts = cast(Mapping[str, object], answer)
    if "last-update" not in parts:
        return BadAnswer(BadAnswerReason.NO_LAST_UPDATE, "guest-stats has no last-update")
    last_update_s = parts["last-update"]
    if type(last_update_s) is not int:
        detail = f"last-update is {type(last_update_s).__name__}, not an integer"
        return BadAnswer(BadAnswerReason.BAD_LAST_UPDATE, detail)
    if not 0 <= last_update_s <= LAST_UPDATE_MAX_S:
        detail = "last-update is negative or after the year 9999"
        return BadAnswer(BadAnswerReason.BAD_LAST_UPDATE, detail)
    stats = parts.get("stats")
    if type(stats) is not dict:
        return BadAnswer(BadAnswerReason.NO_STATISTICS, "guest-stats has no stats object")
    stats = cast(Mapping[str, object], stats)
    if len(stats) > STATISTICS_MAX:
        detail = f"guest-stats has {len(stats)} statistics, more than {STATISTICS_MAX}"
        return BadAnswer(BadAnswerReason.TOO_MANY_STATISTICS, detail)
    return _read(last_update_s, stats)


_NAMES = {known.wire_name: known.name for known in KNOWN_STATISTICS.values()}


def _read(last_update_s: int, stats: Mapping[str, object]) -> Reading:
    statistics: dict[str, int] = {}
    unset: list[str] = []
    refused: dict[str, Refusal] = {}
    unknown: list[str] = []
    for wire_name, value in stats.items():
        name = _NAMES.get(wire_name)
        if name is None:
            unknown.append(wire_name)
        elif type(value) is not int:  # a bool is an int to isinstance
            refused[name] = Refusal.NOT_INTEGER
        elif value in SENTINELS or (name in SIZES and _is_no_size(value)):
            refused[name] = Refusal.IMPOSSIBLE
        elif 0 <= value <= EXACT_MAX:
            statistics[name] = value
        elif value < 0 or value >= UNSET_FROM:
            unset.append(name)
        else:
            refused[name] = Refusal.TOO_LARGE
    for name in _contradictions(statistics):
        del statistics[name]
        refused[name] = Refusal.IMPOSSIBLE
    if not unknown:
        return Reading(last_update_s, statistics, frozenset(unset), refused)
    return _with_unknown(Reading(last_update_s, statistics, frozenset(unset), refused), unknown, stats)


def _is_no_size(value: int) -> bool:
    return value in KIB_SENTINELS or SIZE_MAX < value <= EXACT_MAX


def _contradictions(statistics: Mapping[str, int]) -> Collection[str]:
    """Return the names of the values that contradict another one.

    - Two sizes or more that are the same one of `PAGE_SENTINELS`.
    - A `total_memory` of 0: it contradicts the answer itself.
    - A part above the total, which is kept because the host can check it.
    - An `available_memory` that is below `free_memory` by more than a quarter of the total, or by more than
      4 GiB without a total. Free memory is available except for the kernel's reserve (linux mm/page_alloc.c,
      si_mem_available). A Linux guest with a larger reserve gives its total.
    """
    sizes = {name: statistics[name] for name in SIZES & statistics.keys()}
    odd: set[str] = set()
    for sentinel in PAGE_SENTINELS.intersection(sizes.values()):
        same = [name for name, value in sizes.items() if value == sentinel]
        if len(same) > 1:
            odd.update(same)
    if sizes.get("total_memory") == 0:
        odd.add("total_memory")
    total = None if "total_memory" in odd else sizes.get("total_memory")
    if total is not None:
        odd.update(name for name, value in sizes.items() if value > total)
    free, available = sizes.get("free_memory"), sizes.get("available_memory")
    reserve = _RESERVE_WITHOUT_TOTAL if total is None else total // _RESERVE_PART
    if free is not None and available is not None and "free_memory" not in odd and free - available > reserve:
        odd.add("available_memory")
    return odd


_NAME_MAX = 64
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def _with_unknown(known: Reading, wire_names: list[str], stats: Mapping[str, object]) -> Reading:
    """Return `known` with statistics that the table does not have, as a later QEMU may send them."""
    spellings: dict[str, list[str]] = {}
    refused = dict(known.refused)
    for wire_name in wire_names:
        name = _name_of(wire_name)
        if name is None:
            refused[f"?{len(refused)}"] = Refusal.BAD_NAME  # cannot be a statistic's name, so each is counted
        else:
            spellings.setdefault(name, []).append(wire_name)
    statistics, unset = dict(known.statistics), set(known.unset)
    for name, wires in spellings.items():
        value = stats[wires[0]]
        if name in KNOWN_STATISTICS or len(wires) > 1:
            # QEMU's own spelling of a known name is used. Of two other spellings, either may be right.
            refused[f"?{name}"] = Refusal.BAD_NAME
        elif type(value) is not int:
            refused[name] = Refusal.NOT_INTEGER
        elif 0 <= value <= EXACT_MAX:
            statistics[name] = value
        elif value < 0 or value >= UNSET_FROM:
            unset.add(name)
        else:
            refused[name] = Refusal.TOO_LARGE
    return Reading(known.last_update_s, statistics, frozenset(unset), refused)


def _name_of(wire_name: str) -> str | None:
    """Return the name of a statistic, as `free_memory` for `stat-free-memory`; `None`: not a usable name."""
    if len(wire_name) > _NAME_MAX + len("stat-"):
        return None
    name = wire_name.removeprefix("stat-").replace("-", "_")
    return name if len(name) <= _NAME_MAX and _NAME.fullmatch(name) else None
