"""Tests of links that wait for their turn to be read, on the event loop."""

import asyncio
import time

import anyio

from agent.core.read_budget import TURN_COST
from agent.qmp.turns import ReadTurns


async def _rounds(count: list[int]) -> None:
    while True:
        count[0] += 1
        await asyncio.sleep(0)


async def test_two_turns_never_begin_in_the_same_round_of_the_event_loop() -> None:
    turns, rounds, began = ReadTurns(), [0], list[int]()
    turns.budget.use(0, None, 1_000_000)

    async def link(number: int) -> None:
        owner = 1000 + number % 3
        for _ in range(3):
            await turns.turn(owner, number)
            began.append(rounds[0])
            turns.budget.use(owner, number, TURN_COST)

    with anyio.fail_after(60):
        async with asyncio.TaskGroup() as group:
            counter = group.create_task(_rounds(rounds))
            async with asyncio.TaskGroup() as links:
                for number in range(50):
                    links.create_task(link(number))
            counter.cancel()

    assert len(began) == 150
    assert len(set(began)) == 150


async def test_a_link_that_is_closed_while_it_waits_delays_no_other() -> None:
    turns, had_turn = ReadTurns(), list[str]()
    turns.budget.use(0, None, 1_000_000)

    async def link(name: str) -> None:
        await turns.turn(1001, name)
        had_turn.append(name)

    with anyio.fail_after(60):
        async with asyncio.TaskGroup() as group:
            closed = group.create_task(link("closed"))
            group.create_task(link("other"))
            await asyncio.sleep(0)
            closed.cancel()

    assert had_turn == ["other"]


async def test_a_used_budget_is_refilled_once_in_a_round_without_a_waiting_link() -> None:
    turns = ReadTurns()
    turns.fill()
    turns.budget.use(0, None, 1_000)
    await asyncio.sleep(0.05)
    turns.fill()
    assert turns.budget.is_free

    turns.budget.use(0, None, 1_000)
    time.sleep(0.05)  # noqa: ASYNC251 - a round that takes long
    turns.fill()
    assert not turns.budget.is_free
