"""How a demo looks: the live picture, and the summary at its end."""

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
from simulator.demo.records import Document, Records, Told, gathered

COLOURS = {"reporting": "green", "stalled": "red", "waiting": "yellow", "gone": "red", "unreachable": "red"}
NARROW = 100
"""Characters; below, the columns that can be done without are left out."""

_AROUND = 9
"""Lines of the picture beside its VMs and its story."""

_STORY = 4
"""Lines of the story that always have room."""

_EACH = 20
"""VMs; of more than so many the summary has only those with a fault."""

LagMs = Callable[[str, Document], float | None]


def no_lag(_name: str, _sample: Document) -> float | None:
    """Where nobody tells while it runs when an update came."""
    return None


def picture(
    console: Console,
    records: Records,
    began_ms: float,
    title: str,
    *,
    where: str = "",
    lag_ms: LagMs = no_lag,
) -> Group:
    """Draw what is known now, as high as the terminal at most.

    Args:
        console: what it is for.
        records: what has arrived.
        began_ms: where the story's times begin, in Unix milliseconds.
        title: the first line.
        where: a line on where the newest sample is.
        lag_ms: how late a VM's sample was read.
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
    shown = _worst(records, max(console.height - _AROUND - _STORY, 3))
    for name in shown:
        state, samples = records.states[name], records.samples.get(name, [])
        cells = [name, Text(state["state"], style=COLOURS.get(state["state"], ""))]
        cells += [] if narrow else [state["reason"]]
        newest = _newest(samples[-1:], narrow)
        if lag_ms is not no_lag:
            lag = lag_ms(name, samples[-1]) if samples else None
            newest.insert(1, "-" if lag is None else f"{lag:.0f} ms")
        table.add_row(*cells, str(len(samples)), *newest)
    more = len(records.states) - len(shown)
    lines = [Text(f"  and {more} more VMs, better off", style="dim")] if more else []
    lines += [Text(where, style="dim", no_wrap=True, overflow="ellipsis")] if where else []
    room = max(console.height - _AROUND - len(shown) - len(lines), 3)
    story = [line(told, began_ms) for told in gathered(records.story())[-room:]]
    return Group(Text(title, style="italic"), _totals(records), table, *lines, *story)


def _totals(records: Records) -> Text:
    counts = Counter(state["state"] for state in list(records.states.values()))
    samples = sum(len(of_vm) for of_vm in list(records.samples.values()))
    words = Text(f"{len(records.states)} VMs, {samples} samples:", no_wrap=True, overflow="ellipsis")
    for state, count in counts.most_common():
        words.append(f"  {count} {state}", style=COLOURS.get(state, ""))
    return words


def _worst(records: Records, room: int) -> list[str]:
    """Return the VMs that there is room for: all, or those that need a look most; in order of their names."""
    names = sorted(records.states)

    def well_being(name: str) -> tuple[bool, float]:
        newest = records.samples.get(name, [])[-1:]
        values: Mapping[str, int] = newest[0]["statistics"] if newest else {}
        share = values.get("available_memory", 0) / max(values.get("total_memory", 0), 1)
        return records.states[name]["state"] == "reporting", share

    return sorted(sorted(names, key=well_being)[:room])


def _newest(samples: Sequence[Document], narrow: bool) -> list[str]:
    names = ("free_memory", "available_memory", "total_memory")
    if not samples:
        return ["-"] * (len(names) + (1 if narrow else 2))
    values: Mapping[str, int] = samples[0]["statistics"]
    sizes = [f"{values[name] / 2**20:.1f} MiB" if name in values else "-" for name in names]
    age = f"{max(time.time() - samples[0]['last_update'], 0):.0f} s ago"
    return [age, *sizes, *([] if narrow else [str(values.get("minor_faults", "-"))])]


def line(told: Told, began_ms: float) -> Text:
    """Draw one line of the story."""
    style = COLOURS.get(told.state, "dim") if told.state else "bold"
    seconds = max(told.at_ms - began_ms, 0) / 1000
    return Text(f"{seconds:5.1f} s  {told.vm}: {told.words}", style=style, no_wrap=True, overflow="ellipsis")


def lags_ms(shown: Sequence[Shown], samples: Sequence[Document]) -> tuple[list[float], list[float]]:
    """Return how late the agent read each update: steady ones, and those read while it learnt the rhythm.

    It learns over a VM's first updates, and again after each one that came unasked (`unsolicited`): when a
    driver is loaded, its answers have another rhythm than before. The first one of all was there already
    when the agent came (the driver answers once when it is loaded), so it tells nothing.
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
    liars: Sequence[str] = (),
) -> int:
    """Print what the guests did until `until_ms` against what was delivered; return how many went wrong.

    Args:
        console: where to.
        records: what was delivered.
        shown: each VM's updates.
        until_ms: of later updates none is counted, in Unix milliseconds.
        ends_ms: when something was done to a VM that may have taken its last update away.
        unreadable_from_ms: since when a VM's monitor could not be read.
        liars: VMs with impossible values, which the agent leaves out of its samples.
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
            lies=name in liars,
        )
        for name, updates in shown.items()
    }
    for name, row in rows.items():
        if len(rows) <= _EACH or row.faults:
            table.add_row(name, *row.cells())
    every = sum(rows.values(), _Row())
    if len(rows) > 1:
        table.add_row("all", *every.cells(), style="bold")
    console.print(table)
    if every.not_owed:
        console.print(
            f"{every.not_owed} updates more were not owed: they stood for less than half a second, "
            "or their monitor could not be read",
            style="dim",
        )
    console.print(
        "lag: how long an update stood in QEMU before the agent read it, once its rhythm was known;\n"
        "learning: the longest before that. A silent VM is read once an interval: so long may the first\n"
        "update after a silence wait.\n",
        style="dim",
    )
    return every.faults


class _Row:
    """One VM's figures, or the sum of several."""

    def __init__(self, counts: Sequence[int] = (0, 0, 0, 0, 0, 0)) -> None:
        self.counts = counts  # updates, samples, lost, repeated, wrong; not owed
        self.steady: list[float] = []
        self.learning: list[float] = []

    @property
    def faults(self) -> int:
        return sum(self.counts[2:5])

    @property
    def not_owed(self) -> int:
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
    lies: bool,
) -> _Row:
    late = {each.last_update_s for each in updates if each.first_seen_ms >= until_ms}
    samples = [each for each in samples if each["last_update"] not in late]
    found = compare(updates, [_arrived(each) for each in samples], until_ms=until_ms, some_left_out=lies)
    unreadable = {each.last_update_s for each in updates if each.first_seen_ms >= unreadable_from_ms}
    lost = set(found.lost) - short_lived(updates, ends_ms) - unreadable
    wrong = len(found.wrong) + len(found.invented) + found.disordered
    not_owed = len(found.lost) - len(lost)
    counts = (found.updates - not_owed, found.samples, len(lost), len(found.repeated), wrong, not_owed)
    row = _Row(counts)
    row.steady, row.learning = lags_ms(updates, samples)
    return row


def _arrived(sample: Document) -> Arrived:
    return Arrived(sample["last_update"], sample["observed_at_ms"], sample["sequence"], sample["statistics"])


def _ms(values: Sequence[float], share: float, before: str = "") -> str:
    return f"{before}{quantile(values, share):.0f} ms" if values else "-"


def readings(records: Records, from_ms: float) -> str:
    """Say how often the agent read for each sample, by its own count."""
    told: list[Mapping[str, Any]] = records.agent
    last: Mapping[str, int] = told[-1]["counters"] if told else {}
    whole = f"{last.get('readings', 0)} readings for {last.get('samples', 0)} samples in all"
    later = [each["counters"] for each in told if each["observed_at_ms"] >= from_ms]
    taken = last.get("samples", 0) - later[0].get("samples", 0) if later else 0
    if not taken:
        return whole
    ratio = (last["readings"] - later[0]["readings"]) / taken
    return f"{ratio:.2f} readings a sample once the rhythm was known ({taken} samples); {whole}"
