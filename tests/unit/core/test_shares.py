from hypothesis import given
from hypothesis import strategies as st

from agent.core.shares import ROOT, FairQueue, Owner, equal_shares, owner_below

ITEMS = st.lists(st.tuples(st.sampled_from([0, 1, 2, "pod x"]), st.integers(0, 99)), unique=True)


def queue_of(items: list[tuple[Owner, int]]) -> FairQueue[tuple[Owner, int]]:
    queue = FairQueue[tuple[Owner, int]]()
    for item in items:
        queue.put(item[0], item)
    return queue


@given(ITEMS)
def test_each_owner_has_its_turn_before_any_has_another(items: list[tuple[Owner, int]]) -> None:
    queue = queue_of(items)
    taken = [queue.take() for _ in items]

    assert not queue

    assert sorted(taken, key=str) == sorted(items, key=str)
    turns: dict[Owner, int] = {}
    for number, (owner, _) in enumerate(taken):
        turns[owner] = turns.get(owner, 0) + 1
        waiting = {each for each, _ in taken[number + 1 :]}
        assert all(turns.get(each, 0) >= turns[owner] - 1 for each in waiting)
    for owner in turns:
        assert [each for each in taken if each[0] == owner] == [each for each in items if each[0] == owner]


@given(ITEMS, st.integers(1, 3))
def test_a_late_owner_waits_for_at_most_one_turn_of_each_other(
    items: list[tuple[Owner, int]], served: int
) -> None:
    queue = queue_of(items)
    for _ in range(min(served, len(items))):
        queue.take()
    late: tuple[Owner, int] = (77, 0)

    queue.put(77, late)

    waiting = {owner for owner, _ in items}
    taken = [queue.take() for _ in range(len(waiting) + 1) if queue]
    assert late in taken


@given(ITEMS)
def test_a_discarded_item_is_not_taken(items: list[tuple[Owner, int]]) -> None:
    queue = queue_of(items)
    for item in items[::2]:
        queue.discard(item[0], item)
        queue.discard(item[0], item)

    assert sorted((queue.take() for _ in items[1::2]), key=str) == sorted(items[1::2], key=str)
    assert not queue


def test_an_owner_is_the_topmost_that_is_not_root() -> None:
    pod = "/var/lib/kubelet/pods/0a1b2c3d-0000-4000-8000-000000000001"

    assert owner_below(ROOT, "/home", 0) == ROOT
    assert owner_below(ROOT, "/home/a", 1000) == 1000
    assert owner_below(1000, "/home/a/b", 1001) == 1000, "another user's directory in a user's own"
    assert owner_below(1000, "/home/a/b", 0) == 1000
    assert owner_below(ROOT, pod, 0) == "pod 0a1b2c3d-0000-4000-8000-000000000001"
    assert owner_below("pod x", f"{pod}/volumes", 107) == "pod x"
    assert owner_below(1000, "/home/a/pods/0a1b2c3d-0000-4000-8000-000000000001", 1000) == 1000


def test_over_the_bound_owners_have_equal_shares_and_items_named_first_stay() -> None:
    owners = {"a1": 1, "a2": 1, "a3": 1, "b1": 2}

    assert equal_shares(owners, ["a3", "ended"], 2) == {"a3", "b1"}
    assert equal_shares(owners, [], 9) == set(owners)
