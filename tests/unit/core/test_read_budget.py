"""Tests of which monitors are read while all of them together send more than the budget."""

from collections import Counter

from agent.core.read_budget import FILL_S, READ_COST, TURN_COST, UNUSED_FACTOR, Budget, LeastUsedFirst
from agent.core.shares import Owner

Link = tuple[Owner, int]

PER_S = 1000 * UNUSED_FACTOR
OTHER = (1003, (1003, 0))


def used_up() -> Budget[Link]:
    budget = Budget[Link](messages_per_s=1000)
    budget.fill(7.0)
    budget.use(*OTHER, PER_S * FILL_S)
    return budget


def flood(budget: Budget[Link], links: list[Link], seconds: float) -> list[Link]:
    """Let links send without end, each as much as a turn allows; return the links read, in order."""
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
            budget.use(link[0], link, TURN_COST)
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


def test_monitors_are_read_at_the_rate_of_the_budget() -> None:
    read = flood(used_up(), [(1001, number) for number in range(700)], 2.0)

    assert 0.9 <= len(read) * (TURN_COST + READ_COST) / (2.0 * PER_S) <= 1.01


def test_a_monitor_of_another_owner_is_next_even_if_many_monitors_wait() -> None:
    budget = used_up()
    for number in range(700):
        budget.wait(1001, (1001, number))
    budget.fill(7.1)
    assert budget.take_turn() == (1001, 0)
    budget.wait(107, (107, 0))

    assert [budget.take_turn(), budget.take_turn()] == [(107, 0), (1001, 1)]


def test_long_messages_of_one_owner_do_not_delay_the_many_monitors_of_another() -> None:
    """One owner sends 64 KiB again and again; the other has a thousand VMs, each read every ten seconds."""
    budget = Budget[Link]()
    hostile = [(1001, number) for number in range(12)]
    for link in hostile:
        budget.wait(1001, link)
    turns, waits_s = Counter[Link](), list[float]()
    for now_ms in range(3_000):
        budget.fill(now_ms / 1000)
        if now_ms % 10 == 0:
            budget.wait(107, (107, now_ms))
        link = budget.take_turn()
        if link is None:
            continue
        turns[link] += 1
        if link in hostile:
            budget.use(1001, link, 65 * UNUSED_FACTOR)
            budget.wait(1001, link)
        else:
            waits_s.append(now_ms / 1000 - link[1] / 1000)

    assert len(waits_s) >= 298
    assert max(waits_s) < 0.03
    assert min(turns[link] for link in hostile) >= 10  # they get the rest


def test_a_link_that_sends_long_messages_does_not_delay_the_others_of_its_owner() -> None:
    budget = used_up()
    links = [(107, number) for number in range(10)]
    for link in links:
        budget.wait(107, link)
    now_s, turns = 7.0, Counter[Link]()
    for _ in range(2_000):
        now_s += 0.001
        budget.fill(now_s)
        link = budget.take_turn()
        if link is not None:
            turns[link] += 1
            budget.use(107, link, 650 if link[1] == 0 else 5)
            budget.wait(107, link)

    assert min(turns[link] for link in links[1:]) > 20 * turns[links[0]] > 0


def test_use_while_no_link_waited_is_not_counted_later() -> None:
    budget = Budget[Link]()
    budget.use(107, (107, 0), 10_000)
    budget.wait(107, (107, 0))
    budget.wait(1001, (1001, 0))
    budget.fill(60.0)

    assert [budget.take_turn(), budget.take_turn()] == [(107, 0), (1001, 0)]


def test_an_owner_that_did_not_wait_has_saved_nothing() -> None:
    budget = Budget[Link]()
    budget.wait(1001, (1001, 0))
    for second in range(60):
        budget.wait(1001, (1001, second + 1))
        budget.fill(float(second))
        assert budget.take_turn() == (1001, second)
        budget.use(1001, (1001, second), 100)
    for number in range(100):
        budget.wait(107, (107, number))
    budget.fill(60.0)
    taken = [budget.take_turn() for _ in range(30)]

    assert (1001, 60) in taken


def test_keys_that_wait_no_longer_are_forgotten() -> None:
    queue = LeastUsedFirst[int]()
    queue.put(0)
    for key in range(1, 5_000):
        queue.put(key)
        queue.use(key, 1.0)
        queue.discard(key)
        queue.use(0, 1.0)
        assert queue.next() == 0

    assert len(queue._used) < 1_500  # pyrefly: ignore[protected-access]


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


def test_the_savings_and_the_overdraft_of_a_budget_are_bounded() -> None:
    budget = used_up()
    budget.fill(1000.0)
    assert budget.is_free
    budget.use(*OTHER, PER_S * FILL_S)
    assert not budget.is_free

    budget.use(*OTHER, PER_S * 60)
    budget.fill(1000.2)

    assert budget.is_free
