"""One value of a VM for each day of `last_update` (UTC), the newest days only."""

from collections.abc import Callable, Sequence

from msgspec import Struct

DAY_S = 86_400


class Day(Struct, array_like=True, frozen=True):
    """The extreme value of a day, and the sample that had it."""

    day: int  # since 1970
    value: int
    at_s: int


def add(
    days: Sequence[Day], at_s: int, value: int, *, choose: Callable[[int, int], int], kept: int
) -> tuple[Day, ...]:
    """Return the days with one more sample.

    Args:
        days: in the order of arrival.
        at_s: the sample's `last_update`.
        value: of the sample.
        choose: `min` or `max`.
        kept: how many days, the newest by arrival.
    """
    day = Day(at_s // DAY_S, value, at_s)
    if not days or days[-1].day != day.day:
        return (*days, day)[-kept:]
    last = days[-1]
    if choose(last.value, value) == last.value:
        return tuple(days)
    return (*days[:-1], day)
