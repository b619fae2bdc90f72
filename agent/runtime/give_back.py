"""Restores the polling intervals that the agent changed, on the QEMU processes it changed them on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import anyio

from agent.core.ownership import IntervalChange, is_ours_to_restore
from agent.errors import Declined, LinkFault, QmpError, SocketReplaced, StateFileError, Unreachable
from agent.runtime.links import Opener
from agent.spool.ledger import Ledger
from agent.telemetry import Count, Counters

_PROCESS_GONE = frozenset({LinkFault.MISSING, LinkFault.REFUSED})


class Outcome(StrEnum):
    """The result of restoring one interval."""

    GIVEN_BACK = "given-back"  # restored
    PROCESS_GONE = "process-gone"  # QEMU has ended or was replaced, and the interval with it
    NOT_OURS = "not-ours"  # another value was set since: left unchanged
    KEPT = "kept"  # QEMU could not be reached: still to be restored


@dataclass(frozen=True, slots=True)
class Settlement:
    """One changed interval, and the result."""

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
    """Restore the intervals of `changes` concurrently, and remove from the ledger those that need no more.

    If the ledger cannot be written, an interval that was restored stays in it. The detail of its settlement
    has the reason, and the next attempt finds that it is restored.
    """
    settlements: list[Settlement] = []

    async def settle(change: IntervalChange) -> None:
        settlement = await _settle(change, open_link, answer_within_s)
        if settlement.outcome is Outcome.GIVEN_BACK:
            counters.add(Count.INTERVALS_GIVEN_BACK)
        if settlement.outcome is not Outcome.KEPT:
            try:
                await ledger.remove(change.address, change.mark)
            except StateFileError as error:
                settlement = replace(settlement, detail=f"{settlement.detail}; it stays recorded: {error}")
        settlements.append(settlement)

    async with anyio.create_task_group() as group:
        for change in changes:
            group.start_soon(settle, change)
    return sorted(settlements, key=lambda each: str(each.change.address))


async def _settle(change: IntervalChange, open_link: Opener, answer_within_s: float) -> Settlement:
    try:
        async with open_link(change.address, look_first=False, mark=change.mark) as link:
            if link.mark != change.mark:
                return Settlement(change, Outcome.PROCESS_GONE, "another QEMU process uses this address now")
            with anyio.fail_after(answer_within_s):
                found = await link.check(change.balloon_path)
                same_device = found.balloon_path == change.balloon_path
                interval_s = found.interval_s if same_device else None
                if not is_ours_to_restore(change, mark=link.mark, interval_s=interval_s):
                    now = (
                        "the balloon is another device"
                        if interval_s is None
                        else f"the interval is {interval_s} s"
                    )
                    return Settlement(change, Outcome.NOT_OURS, f"{now} now")
                await link.write_interval(change.balloon_path, change.interval_before_s)
            return Settlement(
                change, Outcome.GIVEN_BACK, f"the interval is {change.interval_before_s} s again"
            )
    except SocketReplaced:
        return Settlement(change, Outcome.PROCESS_GONE, "another QEMU process uses this address now")
    except Unreachable as error:
        outcome = Outcome.PROCESS_GONE if error.fault in _PROCESS_GONE else Outcome.KEPT
        return Settlement(change, outcome, str(error))
    except (Declined, QmpError) as error:
        return Settlement(change, Outcome.KEPT, str(error))
    except TimeoutError:
        return Settlement(change, Outcome.KEPT, f"no answer within {answer_within_s} s")
