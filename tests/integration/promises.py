"""Promises about time on a machine that does other things as well: the best of three tries counts.

What must hold in each try, such as that nothing is lost, stays an assertion.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec

P = ParamSpec("P")

_TRIES = 3


class TooSlow(AssertionError):
    """A promise was not kept in one try."""


def promised(kept: bool, what: str) -> None:
    """Return if a promise was kept.

    Raises:
        TooSlow: it was not; the message has `what`, the figures.
    """
    if not kept:
        raise TooSlow(what)


def best_of_three(test: Callable[Concatenate[Path, P], None]) -> Callable[Concatenate[Path, P], None]:
    """Run a test again, in another folder, where it was too slow."""

    @wraps(test)
    def tries(folder: Path, *args: P.args, **kwargs: P.kwargs) -> None:
        for number in range(1, _TRIES + 1):
            place = folder / f"{number}"
            place.mkdir()
            try:
                test(place, *args, **kwargs)
            except TooSlow as slow:
                print(f"try {number} of {_TRIES}: {slow}")
                if number == _TRIES:
                    raise
            else:
                return

    return tries
