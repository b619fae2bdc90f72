"""Compare the output of a tool with the updates that QEMU showed."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from simulator.demo.measure import Shown
from tests.lab.peers import Said

_SEEN_LATE_MS = 50.0  # how much later than a tool the observer may see an update, on a busy machine


@dataclass(frozen=True, slots=True)
class Figures:
    """The comparison of what one tool reported for one domain with what QEMU showed meanwhile."""

    said: int
    fresh: int  # values of an update that the tool had not reported before
    unseen: int  # updates that the tool never reported
    wrong: int  # values that QEMU did not show at that time
    ages_ms: tuple[float, ...]  # of each value, since QEMU first showed it

    @property
    def repeated(self) -> int:
        """Return the number of values with a new time whose update had been reported before."""
        return self.said - self.fresh - self.wrong


@dataclass(frozen=True, slots=True)
class Judged:
    """A value and its update, which is `None` if QEMU showed no such value at that time."""

    said: Said
    update: int | None  # index into the updates that QEMU showed
    fresh: bool


def updates_of(shown: Sequence[Shown], said: Sequence[Said]) -> list[Judged]:
    """Find the update of each value. Both arguments are in order of time."""
    starts = [each.first_seen_ms for each in shown]
    of_second = {each.last_update_s: at for at, each in enumerate(shown)}
    given: set[int] = set()
    judged: list[Judged] = []
    for each in said:
        if each.last_update_s is None:
            late_ms = (0.0, _SEEN_LATE_MS, -_SEEN_LATE_MS)
            near = [bisect_right(starts, each.at_ms + by_ms) - 1 for by_ms in late_ms]
        else:
            near = [of_second.get(each.last_update_s, -1)]
        found = next((at for at in near if at >= 0 and free_kib(shown[at]) == each.free_kib), None)
        judged.append(Judged(each, found, found is not None and found not in given))
        if found is not None:
            given.add(found)
    return judged


def judge(shown: Sequence[Shown], said: Sequence[Said], *, from_ms: float, until_ms: float) -> Figures:
    """Compare what a tool reported from `from_ms` to `until_ms` with what QEMU showed.

    Args:
        shown: the updates of one VM, in order.
        said: the values that the tool reported for this VM, in order, from before `from_ms` to an interval
            after `until_ms`.
        from_ms, until_ms: Unix milliseconds.
    """
    all_judged = updates_of(shown, said)
    judged = [each for each in all_judged if from_ms <= each.said.at_ms < until_ms]
    ages = tuple(
        max(each.said.at_ms - shown[each.update].first_seen_ms, 0.0)
        for each in judged
        if each.update is not None
    )
    reported = {each.update for each in all_judged}
    unseen = sum(
        at not in reported for at, each in enumerate(shown) if from_ms <= each.first_seen_ms < until_ms
    )
    return Figures(
        said=len(judged),
        fresh=sum(each.fresh for each in judged),
        unseen=unseen,
        wrong=sum(each.update is None for each in judged),
        ages_ms=ages,
    )


def together(figures: Sequence[Figures]) -> Figures:
    """Return the sum of the figures of several domains."""
    return Figures(
        said=sum(each.said for each in figures),
        fresh=sum(each.fresh for each in figures),
        unseen=sum(each.unseen for each in figures),
        wrong=sum(each.wrong for each in figures),
        ages_ms=tuple(age for each in figures for age in each.ages_ms),
    )


def shown_by_the_stand_in(said: Sequence[Said]) -> list[Shown]:
    """Return the updates of a stand-in's domain that a tool has read, in order."""
    updates = {each.updated_ms: each for each in said}
    return [
        Shown(at_ms // 1000, float(at_ms), {"free_memory": each.free_kib * 1024})
        for at_ms, each in sorted(updates.items())
    ]


def free_kib(shown: Shown) -> int:
    """Return the free memory of an update in KiB, as libvirt reports it."""
    return shown.statistics["free_memory"] // 1024
