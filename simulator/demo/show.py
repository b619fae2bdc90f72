"""Run the steps of a demo with a live screen; without a terminal, with a printed timeline."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live

from simulator.demo.records import Entry, Records, merged
from simulator.demo.screen import render_entry

_REFRESHES_PER_S = 4


@dataclass(frozen=True, slots=True)
class Step:
    """An action on a VM."""

    at_s: float  # since the start
    vm: str
    text: str  # for the timeline
    run: Callable[[], None]


def show(
    console: Console,
    records: Records,
    steps: Sequence[Step],
    *,
    began_ms: float,
    seconds: float,
    poll: Callable[[], None],
    draw: Callable[[str], Group],
) -> None:
    """Run the steps at their times and show what happens, for `seconds`.

    Args:
        console: a terminal gets the live screen; a file or a pipe gets the timeline only.
        records: filled by `poll` or by another thread.
        steps: in any order.
        began_ms: the start, in Unix milliseconds.
        seconds: the duration.
        poll: called several times a second; receives new records and raises if a process has ended.
        draw: returns the screen; its argument is the remaining time, for the title.
    """
    live_screen = console.is_terminal and not console.is_dumb_terminal
    printed: set[Entry] = set()
    remaining = sorted(steps, key=lambda step: step.at_s)
    with Live(console=console, refresh_per_second=_REFRESHES_PER_S) if live_screen else nullcontext() as live:
        while (passed_s := time.time() - began_ms / 1000) < seconds:
            poll()
            while remaining and remaining[0].at_s <= passed_s:
                step = remaining.pop(0)
                records.add_action(step.vm, step.text)
                step.run()
            if live is not None:
                live.update(draw(f" · {seconds - passed_s:.0f} s left"))
            else:
                new = [entry for entry in records.timeline() if entry not in printed]
                printed.update(new)
                for entry in merged(new):
                    console.print(render_entry(entry, began_ms), soft_wrap=True)
            time.sleep(1 / _REFRESHES_PER_S)
        if live is not None:
            live.update(draw(""))
