"""Gives back the intervals that are still ours, to the very processes we changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import anyio

from agent.core.ownership import Owed, is_ours_to_give_back
from agent.core.reading import Via, via_of
from agent.errors import Declined, LinkFault, QmpError, Unreachable
from agent.runtime.vm import Opener
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

    owed: Owed
    outcome: Outcome
    detail: str


async def give_back(
    ledger: Ledger,
    debts: Sequence[Owed],
    openers: Mapping[Via, Opener],
    counters: Counters,
    *,
    answer_within_s: float,
) -> list[Settlement]:
    """Settle each of `debts` that can be settled, side by side; each that is settled is forgotten.

    Raises:
        StateFileError: the ledger could not be written; what was given back stays in it, and is found
            to be settled next time.
    """
    settlements: list[Settlement] = []

    async def settle(owed: Owed) -> None:
        settlement = await _settle(owed, openers[via_of(owed.path)], answer_within_s)
        settlements.append(settlement)
        if settlement.outcome is Outcome.GIVEN_BACK:
            counters.add(Count.INTERVALS_GIVEN_BACK)
        if settlement.outcome is not Outcome.KEPT:
            await ledger.forget(owed.path, owed.mark)

    async with anyio.create_task_group() as group:
        for owed in debts:
            group.start_soon(settle, owed)
    return sorted(settlements, key=lambda each: each.owed.path)


async def _settle(owed: Owed, open_link: Opener, answer_within_s: float) -> Settlement:
    try:
        async with open_link(owed.path, look_first=False) as link:
            if link.mark != owed.mark:
                return Settlement(owed, Outcome.PROCESS_GONE, "another QEMU listens there now")
            with anyio.fail_after(answer_within_s):
                found = await link.check(owed.balloon_path)
                same_device = found.balloon_path == owed.balloon_path
                interval_s = found.interval_s if same_device else None
                if not is_ours_to_give_back(owed, mark=link.mark, interval_s=interval_s):
                    return Settlement(owed, Outcome.NOT_OURS, f"the interval reads {interval_s}")
                await link.write_interval(owed.balloon_path, owed.interval_before_s)
            return Settlement(owed, Outcome.GIVEN_BACK, f"the interval is {owed.interval_before_s} s again")
    except Unreachable as error:
        outcome = Outcome.PROCESS_GONE if error.fault in _PROCESS_GONE else Outcome.KEPT
        return Settlement(owed, outcome, str(error))
    except (Declined, QmpError) as error:
        return Settlement(owed, Outcome.KEPT, str(error))
    except TimeoutError:
        return Settlement(owed, Outcome.KEPT, f"no answer within {answer_within_s} s")
