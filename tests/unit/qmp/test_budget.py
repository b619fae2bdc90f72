"""Which monitors are read while all together send more than the budget."""

from collections import Counter

from agent.core.shares import Owner
from agent.qmp.budget import FILL_S, READ_COST, TURN_COST, UNUSED_FACTOR, Budget

Link = tuple[Owner, int]

PER_S = 1000 * UNUSED_FACTOR


def used_up() -> Budget[Link]:
    budget = Budget[Link](messages_per_s=1000)
    budget.fill(7.0)
    budget.use(PER_S * FILL_S)
    return budget


def flood(budget: Budget[Link], links: list[Link], seconds: float) -> list[Link]:
    """Have links send without end, each as much as a turn allows; return those read, in order."""
    for link in links:
        budget.wait(link[0], link)
    read: list[Link] = []
    now_s = end_s = 7.0
    end_s += seconds
    while (after_s := budget.next_turn_s) is not None and now_s + after_s <= end_s:
        now_s += after_s + 0.0001
        budget.fill(now_s)
        link = budget.take_turn()
        if link is not None:
            read.append(link)
            budget.use(TURN_COST + READ_COST)
            budget.wait(link[0], link)
    return read


def test_owners_are_read_equally_often_and_so_are_the_links_of_each() -> None:
    monitors = {107: 1, 1001: 30, 1002: 100}
    links: list[Link] = [(owner, number) for owner, count in monitors.items() for number in range(count)]
    read = flood(used_up(), links, 0.5)

    of_owners = Counter(owner for owner, _ in read)
    assert max(of_owners.values()) - min(of_owners.values()) <= 1
    of_links = Counter(read)
    for owner, count in monitors.items():
        turns = [of_links[owner, number] for number in range(count)]
        assert max(turns) - min(turns) <= 1


def test_no_more_is_read_than_the_budget_and_no_less() -> None:
    read = flood(used_up(), [(1001, number) for number in range(700)], 2.0)

    assert 0.9 <= len(read) * (TURN_COST + READ_COST) / (2.0 * PER_S) <= 1.01


def test_a_monitor_of_another_owner_is_next_however_many_wait() -> None:
    budget = used_up()
    for number in range(700):
        budget.wait(1001, (1001, number))
    budget.fill(7.1)
    assert budget.take_turn() == (1001, 0)
    budget.wait(107, (107, 0))

    assert [budget.take_turn(), budget.take_turn()] == [(1001, 1), (107, 0)]


def test_while_links_wait_no_other_is_read_without_a_turn() -> None:
    budget = used_up()
    assert not budget.is_free
    budget.wait(1001, (1001, 0))
    assert budget.take_turn() is None

    budget.fill(7.0 + FILL_S)
    assert not budget.is_free
    assert budget.next_turn_s == 0.0
    assert budget.take_turn() == (1001, 0)

    assert budget.is_free
    assert budget.next_turn_s is None


def test_a_link_that_has_ended_waits_no_longer() -> None:
    budget = used_up()
    budget.wait(1001, (1001, 0))
    budget.discard(1001, (1001, 0))

    assert budget.next_turn_s is None


def test_what_is_saved_and_what_is_owed_are_bounded() -> None:
    budget = used_up()
    budget.fill(1000.0)
    assert budget.is_free
    budget.use(PER_S * FILL_S)
    assert not budget.is_free

    budget.use(PER_S * 60)
    budget.fill(1000.2)

    assert budget.is_free
