"""Gives back the intervals that are still ours, to the very processes we changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import anyio

from agent.core.ownership import IntervalChange, is_ours_to_restore
from agent.errors import Declined, LinkFault, QmpError, Unreachable
from agent.runtime.links import Opener
from agent.spool.ledger import Ledger
from agent.telemetry import Count, Counters

_PROCESS_GONE = frozenset({LinkFault.MISSING, LinkFault.REFUSED})


class Outcome(StrEnum):
    """What became of one debt."""

    GIVEN_BACK = "given-back"  # the interval is what it was before us
    PROCESS_GONE = "process-gone"  # QEMU has quit or was replaced: its interval went with it
    NOT_OURS = "not-ours"  # somebody set another value since: left alone
    KEPT = "kept"  # could not be reached: still owed


@dataclass(frozen=True, slots=True)
class Settlement:
    """One debt, and what became of it."""

    change: IntervalChange
    outcome: Outcome
    detail: str


async def give_back(
    ledger: Ledger,
    changes: Sequence[IntervalChange],
    open_link: Opener,
    counters: Counters,
    *,
    answer_within_s: float,
) -> list[Settlement]:
    """Settle each of `changes` that can be settled, side by side; each that is settled is forgotten.

    Raises:
        StateFileError: the ledger could not be written; what was given back stays in it, and is found
            to be settled next time.
    """
    settlements: list[Settlement] = []

    async def settle(change: IntervalChange) -> None:
        settlement = await _settle(change, open_link, answer_within_s)
        settlements.append(settlement)
        if settlement.outcome is Outcome.GIVEN_BACK:
            counters.add(Count.INTERVALS_GIVEN_BACK)
        if settlement.outcome is not Outcome.KEPT:
            await ledger.forget(change.address, change.mark)

    async with anyio.create_task_group() as group:
        for change in changes:
            group.start_soon(settle, change)
    return sorted(settlements, key=lambda each: str(each.change.address))


async def _settle(change: IntervalChange, open_link: Opener, answer_within_s: float) -> Settlement:
    try:
        async with open_link(change.address, look_first=False) as link:
            if link.mark != change.mark:
                return Settlement(change, Outcome.PROCESS_GONE, "another QEMU listens there now")
            with anyio.fail_after(answer_within_s):
                found = await link.check(change.balloon_path)
                same_device = found.balloon_path == change.balloon_path
                interval_s = found.interval_s if same_device else None
                if not is_ours_to_restore(change, mark=link.mark, interval_s=interval_s):
                    return Settlement(change, Outcome.NOT_OURS, f"the interval reads {interval_s}")
                await link.write_interval(change.balloon_path, change.interval_before_s)
            return Settlement(
                change, Outcome.GIVEN_BACK, f"the interval is {change.interval_before_s} s again"
            )
    except Unreachable as error:
        outcome = Outcome.PROCESS_GONE if error.fault in _PROCESS_GONE else Outcome.KEPT
        return Settlement(change, outcome, str(error))
    except (Declined, QmpError) as error:
        return Settlement(change, Outcome.KEPT, str(error))
    except TimeoutError:
        return Settlement(change, Outcome.KEPT, f"no answer within {answer_within_s} s")
