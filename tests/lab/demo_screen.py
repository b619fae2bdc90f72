"""How the demo looks: the live picture, and the summary at its end."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tests.lab.demo_reader import Document, Reader, Told
from tests.lab.measure import STEADY_AFTER, Arrived, Shown, compare, quantile

COLOURS = {"reporting": "green", "stalled": "red", "waiting": "yellow", "gone": "red", "unreachable": "red"}
NARROW = 100
"""Characters; below, the columns that can be done without are left out."""

_AROUND_STORY = 9
"""Lines of the picture beside its three VMs and its story."""


def picture(console: Console, reader: Reader, began_ms: float, title: str) -> Group:
    """Draw what is known now, as high as the terminal at most."""
    narrow = console.width < NARROW
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, expand=True, padding=(0, 1, 0, 0))
    table.add_column("VM", no_wrap=True)
    table.add_column("state", no_wrap=True)
    if not narrow:
        table.add_column("reason", no_wrap=True)
    names = ("samples", "newest", "free", "available", "total") + (() if narrow else ("faults",))
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for name in sorted(reader.states):
        state, samples = reader.states[name], reader.samples.get(name, [])
        cells = [name, Text(state["state"], style=COLOURS.get(state["state"], ""))]
        cells += [] if narrow else [state["reason"]]
        table.add_row(*cells, str(len(samples)), *_newest(samples[-1:], narrow))
    where = Text(f"newest sample in {reader.newest_sample}", style="dim", no_wrap=True, overflow="ellipsis")
    room = max(console.height - _AROUND_STORY - len(reader.states), 3)
    story = [line(told, began_ms) for told in reader.story()[-room:]]
    return Group(table, *([where] if reader.newest_sample else []), *story)


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
    return Text(f"{seconds:5.1f} s  {told.words}", style=style, no_wrap=True, overflow="ellipsis")


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


def summary(console: Console, reader: Reader, shown: Mapping[str, Sequence[Shown]], until_ms: float) -> int:
    """Print what the guests did until `until_ms` against what was delivered; return how many went wrong."""
    console.print("\nwhat a second monitor saw, read every 5 ms, against what came from Kafka")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("VM")
    for name in ("updates", "samples", "lost", "twice", "wrong", "lag p50", "p99", "learning"):
        table.add_column(name, justify="right")
    faults = 0
    for name, updates in shown.items():
        late = {each.last_update_s for each in updates if each.first_seen_ms >= until_ms}
        samples = [each for each in reader.samples.get(name, []) if each["last_update"] not in late]
        found = compare(updates, [_arrived(each) for each in samples], until_ms=until_ms)
        wrong = len(found.wrong) + len(found.invented) + found.disordered
        faults += len(found.lost) + len(found.repeated) + wrong
        steady, learning = lags_ms(updates, samples)
        numbers = (found.updates, found.samples, len(found.lost), len(found.repeated), wrong)
        lags = (_ms(steady, 0.5), _ms(steady, 0.99), _ms(learning, 1, "≤ "))
        table.add_row(name, *map(str, numbers), *lags)
    console.print(table)
    console.print(
        "lag: how long an update stood in QEMU before the agent read it, once its rhythm was known;\n"
        "learning: the longest before that. A silent VM is read once an interval: so long may the first\n"
        "update after a silence wait.\n",
        style="dim",
    )
    return faults


def _arrived(sample: Document) -> Arrived:
    return Arrived(sample["last_update"], sample["observed_at_ms"], sample["sequence"], sample["statistics"])


def _ms(values: Sequence[float], share: float, before: str = "") -> str:
    return f"{before}{quantile(values, share):.0f} ms" if values else "-"


def readings(reader: Reader, from_ms: float) -> str:
    """Say how often the agent read for each sample, by its own count."""
    records: list[Mapping[str, Any]] = reader.agent
    last: Mapping[str, int] = records[-1]["counters"] if records else {}
    whole = f"{last.get('readings', 0)} readings for {last.get('samples', 0)} samples in all"
    later = [each["counters"] for each in records if each["observed_at_ms"] >= from_ms]
    taken = last.get("samples", 0) - later[0].get("samples", 0) if later else 0
    if not taken:
        return whole
    ratio = (last["readings"] - later[0]["readings"]) / taken
    return f"{ratio:.2f} readings a sample once the rhythm was known ({taken} samples); {whole}"
