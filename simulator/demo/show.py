"""The minutes of a demo: what happens when, drawn as it happens; as a story where nothing can be drawn."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live

from simulator.demo.records import Records, Told, gathered
from simulator.demo.screen import line

_PER_S = 4


@dataclass(frozen=True, slots=True)
class Step:
    """Something done to a VM."""

    at_s: float  # from the beginning
    vm: str  # which
    words: str  # what the story says of it
    do: Callable[[], None]


def show(
    console: Console,
    records: Records,
    steps: Sequence[Step],
    *,
    began_ms: float,
    seconds: float,
    look: Callable[[], None],
    draw: Callable[[str], Group],
) -> None:
    """Follow the plan until it is over.

    Args:
        console: a terminal, or a file or a pipe, which gets the story only.
        records: what has arrived.
        steps: the plan.
        began_ms: its beginning, in Unix milliseconds.
        seconds: how long it takes.
        look: sees that all is well, and takes what has come.
        draw: the picture; it is given what to say of the time that is left.
    """
    moving = console.is_terminal and not console.is_dumb_terminal
    told: set[Told] = set()
    left = sorted(steps, key=lambda step: step.at_s)
    with Live(console=console, refresh_per_second=_PER_S) if moving else nullcontext() as live:
        while (passed_s := time.time() - began_ms / 1000) < seconds:
            look()
            while left and left[0].at_s <= passed_s:
                step = left.pop(0)
                records.tell(step.vm, step.words)
                step.do()
            if live is not None:
                live.update(draw(f" · {seconds - passed_s:.0f} s left"))
            else:
                new = [each for each in records.story() if each not in told]
                told.update(new)
                for each in gathered(new):
                    console.print(line(each, began_ms), soft_wrap=True)
            time.sleep(1 / _PER_S)
        if live is not None:
            live.update(draw(""))
