"""Tests of how owners of libvirt daemons share the threads for calls that do not end."""

from agent.core.held_threads import OWNERS_FACTOR, HeldThreads


def test_threads_of_very_many_owners_are_bounded() -> None:
    held = HeldThreads(8, 64)
    for owner in range(5_000):
        if held.refusal(f"{owner}", owner) is None:
            held.hold(f"{owner}", owner)
    refused = [held.refusal(f"{owner}", owner) for owner in range(5_000)]

    assert (
        refused.count("too many libvirt daemons do not answer: 256 calls have not ended; restart the daemons")
        == 5_000
    )
    held.release("0", 0)
    assert held.refusal("0", 0) is None
    assert OWNERS_FACTOR * 64 == 256


def test_a_daemon_is_refused_at_its_own_bound() -> None:
    held = HeldThreads(2)
    held.hold("a", 1)
    assert held.refusal("a", 1) is None
    held.hold("a", 1)

    assert held.refusal("a", 1) == "the daemon does not answer: 2 calls have not ended; restart it"
    assert held.refusal("b", 1) is None


def test_over_the_total_bound_an_owner_below_its_share_still_gets_threads() -> None:
    held = HeldThreads(8, 4)
    for number in range(4):
        held.hold(f"{number}", 1)
    held.hold("mine", 2)  # one of four: each of two owners has a share of two

    assert held.refusal("4", 1) is not None
    assert held.refusal("mine", 2) is None
