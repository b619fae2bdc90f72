"""What a demo prints: the live screen, and the summary at the end."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from simulator.demo.measure import STEADY_AFTER, Arrived, Shown, compare, quantile, short_lived
from simulator.demo.records import Document, Entry, Records, merged

COLORS = {"reporting": "green", "stalled": "red", "waiting": "yellow", "gone": "red", "unreachable": "red"}
NARROW = 100
"""On terminals with fewer columns than this, the less important table columns are left out."""

_FIXED_LINES = 9
"""Lines of the screen that show neither VMs nor the timeline."""

_TIMELINE_LINES = 4
"""Lines that are always free for the timeline."""

_ALL_ROWS_MAX = 20
"""With more VMs than this, the summary lists only those with a fault."""

LagMs = Callable[[str, Document], float | None]


def no_lag(_name: str, _sample: Document) -> float | None:
    """Return no lag: for demos in which the times of updates are known only at the end."""
    return None


def render(
    console: Console,
    records: Records,
    began_ms: float,
    title: str,
    *,
    where: str = "",
    lag_ms: LagMs = no_lag,
) -> Group:
    """Return the current screen, not higher than the terminal.

    Args:
        console: gives the size.
        records: received so far.
        began_ms: time zero of the timeline, in Unix milliseconds.
        title: the first line.
        where: names the place of the newest sample in Kafka; empty for no such line.
        lag_ms: returns how long after its update a VM's sample was read; `None`: not known.
    """
    narrow = console.width < NARROW
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1, 0, 0))
    table.add_column("VM", no_wrap=True)
    table.add_column("state", no_wrap=True)
    if not narrow:
        table.add_column("reason", no_wrap=True)
    names = ["samples", "newest", "free", "available", "total"] + ([] if narrow else ["faults"])
    if lag_ms is not no_lag:
        names.insert(2, "lag")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    listed = _worst(records, max(console.height - _FIXED_LINES - _TIMELINE_LINES, 3))
    for name in listed:
        state, samples = records.states[name], records.samples.get(name, [])
        cells = [name, Text(state["state"], style=COLORS.get(state["state"], ""))]
        cells += [] if narrow else [state["reason"]]
        newest = _newest(samples[-1:], narrow)
        if lag_ms is not no_lag:
            lag = lag_ms(name, samples[-1]) if samples else None
            newest.insert(1, "-" if lag is None else f"{lag:.0f} ms")
        table.add_row(*cells, str(len(samples)), *newest)
    more = len(records.states) - len(listed)
    rest = "1 healthier VM" if more == 1 else f"{more} healthier VMs"
    lines = [Text(f"  and {rest}", style="dim")] if more else []
    lines += [Text(where, style="dim", no_wrap=True, overflow="ellipsis")] if where else []
    room = max(console.height - _FIXED_LINES - len(listed) - len(lines), 3)
    timeline = [render_entry(entry, began_ms) for entry in merged(records.timeline())[-room:]]
    return Group(Text(title, style="italic"), _totals(records), table, *lines, *timeline)


def _totals(records: Records) -> Text:
    counts = Counter(state["state"] for state in list(records.states.values()))
    samples = sum(len(of_vm) for of_vm in list(records.samples.values()))
    line = Text(
        f"{count_of(len(records.states), 'VM')}, {count_of(samples, 'sample')}:",
        no_wrap=True,
        overflow="ellipsis",
    )
    for state, count in counts.most_common():
        line.append(f"  {count} {state}", style=COLORS.get(state, ""))
    return line


def _worst(records: Records, room: int) -> list[str]:
    """Return the `room` VMs with the worst states and the least available memory, ordered by name."""
    names = sorted(records.states)

    def health(name: str) -> tuple[bool, float]:
        newest = records.samples.get(name, [])[-1:]
        values: Mapping[str, int] = newest[0]["statistics"] if newest else {}
        share = values.get("available_memory", 0) / max(values.get("total_memory", 0), 1)
        return records.states[name]["state"] == "reporting", share

    return sorted(sorted(names, key=health)[:room])


def _newest(samples: Sequence[Document], narrow: bool) -> list[str]:
    names = ("free_memory", "available_memory", "total_memory")
    if not samples:
        return ["-"] * (len(names) + (1 if narrow else 2))
    values: Mapping[str, int] = samples[0]["statistics"]
    sizes = [f"{values[name] / 2**20:.1f} MiB" if name in values else "-" for name in names]
    age = f"{max(time.time() - samples[0]['last_update'], 0):.0f} s ago"
    return [age, *sizes, *([] if narrow else [str(values.get("minor_faults", "-"))])]


def render_entry(entry: Entry, began_ms: float) -> Text:
    """Return one line of the timeline."""
    style = COLORS.get(entry.state, "dim") if entry.state else "bold"
    seconds = max(entry.at_ms - began_ms, 0) / 1000
    return Text(f"{seconds:5.1f} s  {entry.vm}: {entry.text}", style=style, no_wrap=True, overflow="ellipsis")


def lags_ms(shown: Sequence[Shown], samples: Sequence[Document]) -> tuple[list[float], list[float]]:
    """Return how long after each update the agent read it: steady lags, then lags while learning the cadence.

    The agent learns during a VM's first updates, and again after each unsolicited one: a driver that has
    just been loaded answers at another cadence. The very first update is left out, since it may be older
    than the agent: the driver sends one when it is loaded.
    """
    first: dict[int, float] = {}
    for update in shown:
        first.setdefault(update.last_update_s, update.first_seen_ms)
    steady: list[float] = []
    learning: list[float] = []
    since = 0
    for sample in samples[1:]:
        since = 0 if sample["origin"] == "unsolicited" else since + 1
        if sample["last_update"] in first:
            lag_ms = sample["observed_at_ms"] - first[sample["last_update"]]
            (steady if since >= STEADY_AFTER else learning).append(lag_ms)
    return steady, learning


def summary(
    console: Console,
    records: Records,
    shown: Mapping[str, Sequence[Shown]],
    until_ms: float,
    *,
    ends_ms: Mapping[str, Sequence[float]] = MappingProxyType({}),
    unreadable_from_ms: Mapping[str, float] = MappingProxyType({}),
    impossible: Sequence[str] = (),
) -> int:
    """Print a table of each VM's updates and the samples received; return the number of faulty samples.

    A sample is faulty if it was lost, repeated or wrong.

    Args:
        console: to print on.
        records: received.
        shown: the updates, by VM.
        until_ms: later updates are not counted; Unix milliseconds.
        ends_ms: by VM, when an action may have removed its last update; Unix milliseconds.
        unreadable_from_ms: by VM, from when its monitor could not be read; Unix milliseconds.
        impossible: VMs that report impossible values, which the agent leaves out of its samples.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("VM")
    for name in ("updates", "samples", "lost", "repeated", "wrong", "lag p50", "p99", "learning"):
        table.add_column(name, justify="right")
    rows = {
        name: _row(
            [each for each in updates if each.last_update_s],
            records.samples.get(name, []),
            until_ms,
            ends_ms.get(name, ()),
            unreadable_from_ms.get(name, math.inf),
            some_left_out=name in impossible,
        )
        for name, updates in shown.items()
    }
    for name, row in rows.items():
        if len(rows) <= _ALL_ROWS_MAX or row.faults:
            table.add_row(name, *row.cells())
    every = sum(rows.values(), _Row())
    if len(rows) > 1:
        table.add_row("all", *every.cells(), style="bold")
    console.print(table)
    if every.not_expected:
        console.print(
            f"not counted: {count_of(every.not_expected, 'update')} visible for less than half a second, "
            "or on a monitor that could not be read",
            style="dim",
        )
    console.print(
        "lag: time from an update in QEMU until the agent read it, once the agent knew the VM's cadence.\n"
        "learning: the longest lag before that. A silent VM is read once per polling interval, so the\n"
        "first update after a silence can be that late.\n",
        style="dim",
    )
    return every.faults


class _Row:
    """One VM's figures, or the sum of several."""

    def __init__(self, counts: Sequence[int] = (0, 0, 0, 0, 0, 0)) -> None:
        self.counts = counts  # updates, samples, lost, repeated, wrong, updates not expected to arrive
        self.steady: list[float] = []
        self.learning: list[float] = []

    @property
    def faults(self) -> int:
        return sum(self.counts[2:5])

    @property
    def not_expected(self) -> int:
        return self.counts[5]

    def cells(self) -> list[str]:
        lags = (_ms(self.steady, 0.5), _ms(self.steady, 0.99), _ms(self.learning, 1, "≤ "))
        return [*map(str, self.counts[:5]), *lags]

    def __add__(self, other: "_Row") -> "_Row":
        both = _Row([a + b for a, b in zip(self.counts, other.counts, strict=True)])
        both.steady, both.learning = self.steady + other.steady, self.learning + other.learning
        return both


def _row(
    updates: Sequence[Shown],
    samples: Sequence[Document],
    until_ms: float,
    ends_ms: Sequence[float],
    unreadable_from_ms: float,
    *,
    some_left_out: bool,
) -> _Row:
    late = {each.last_update_s for each in updates if each.first_seen_ms >= until_ms}
    samples = [each for each in samples if each["last_update"] not in late]
    found = compare(
        updates, [_arrived(each) for each in samples], until_ms=until_ms, some_left_out=some_left_out
    )
    unreadable = {each.last_update_s for each in updates if each.first_seen_ms >= unreadable_from_ms}
    lost = set(found.lost) - short_lived(updates, ends_ms) - unreadable
    wrong = len(found.wrong) + len(found.invented) + found.disordered
    not_expected = len(found.lost) - len(lost)
    counts = (
        found.updates - not_expected,
        found.samples,
        len(lost),
        len(found.repeated),
        wrong,
        not_expected,
    )
    row = _Row(counts)
    row.steady, row.learning = lags_ms(updates, samples)
    return row


def _arrived(sample: Document) -> Arrived:
    return Arrived(sample["last_update"], sample["observed_at_ms"], sample["sequence"], sample["statistics"])


def _ms(values: Sequence[float], share: float, before: str = "") -> str:
    return f"{before}{quantile(values, share):.0f} ms" if values else "-"


def readings(records: Records, from_ms: float) -> str:
    """Return a line on how often the agent read QEMU for each sample, by its own counters.

    A record leaves out the counters that are 0.
    """
    states: list[Mapping[str, Any]] = records.agent
    last: Mapping[str, int] = states[-1]["counters"] if states else {}
    total = f"{count_of(last.get('readings', 0), 'reading')} for {count_of(last.get('samples', 0), 'sample')}"
    later = [each["counters"] for each in states if each["observed_at_ms"] >= from_ms]
    count, samples = (
        last.get(name, 0) - later[0].get(name, 0) if later else 0 for name in ("readings", "samples")
    )
    if not samples:
        return f"{total} in total"
    ratio = count / samples
    known = f"{ratio:.2f} readings per sample once the cadence was known ({count_of(samples, 'sample')})"
    return f"{known}; {total} in total"


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 record" or "2 records"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
