"""Pressure stall information (PSI) of the host and of cgroups: how long tasks waited for memory. Pure.

Source: Linux Documentation/accounting/psi.rst.
"""

import re
from dataclasses import dataclass

from agent.core.numbers import EXACT_MAX

_STALL = re.compile(
    rb"^(some|full) avg10=([0-9]{1,3}\.[0-9]{2}) avg60=([0-9]{1,3}\.[0-9]{2}) "
    rb"avg300=([0-9]{1,3}\.[0-9]{2}) total=([0-9]{1,16})$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Stall:
    """How long tasks waited for memory: shares of the last 10, 60 and 300 s in percent, and in all."""

    avg10: float
    avg60: float
    avg300: float
    total_us: int


@dataclass(frozen=True, slots=True)
class Psi:
    """At least one task waited (`some`), and all tasks waited at once (`full`)."""

    some: Stall
    full: Stall | None


def parse_psi(text: bytes) -> Psi | None:
    """Return the content of /proc/pressure/memory or of a memory.pressure; `None`: not of this form."""
    found: dict[bytes, Stall] = {}
    for kind, *averages, total in _STALL.findall(text):
        avg10, avg60, avg300 = map(float, averages)
        if max(avg10, avg60, avg300) <= 100 and int(total) <= EXACT_MAX:
            found.setdefault(kind, Stall(avg10, avg60, avg300, int(total)))
    some = found.get(b"some")
    return None if some is None else Psi(some, found.get(b"full"))
