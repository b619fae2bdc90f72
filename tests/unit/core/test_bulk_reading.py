from hypothesis import given
from hypothesis import strategies as st

from agent.core.bulk_reading import (
    LATE_MAX,
    PATIENCE_MAX_NS,
    PATIENCE_NS,
    PATIENCE_TIMES,
    PAUSE_MAX_NS,
    PAUSE_NS,
    TOGETHER_MAX,
    USUAL_NS,
    AskAgain,
    AskAlone,
    Patience,
    after_call,
    has_room,
    next_pause_ns,
)

MS = 1_000_000
VMS = st.integers(1, TOGETHER_MAX)
CALLS = st.lists(st.none() | st.tuples(st.integers(0, 10_000 * MS), VMS), max_size=50)
"""How calls end: `None` if given up, else the duration in ns and the number of VMs."""


def learned(calls: list[tuple[int, int] | None]) -> Patience:
    patience = Patience()
    for call in calls:
        patience = patience.given_up() if call is None else patience.answered(*call)
    return patience


@given(CALLS, VMS)
def test_the_limit_of_a_call_is_within_its_bounds(calls: list[tuple[int, int] | None], vms: int) -> None:
    assert PATIENCE_NS < learned(calls).limit_ns(vms) <= PATIENCE_MAX_NS


@given(st.integers(USUAL_NS, PATIENCE_MAX_NS // PATIENCE_TIMES), VMS)
def test_the_limit_adapts_to_a_host_that_answers_slowly(each_ns: int, vms: int) -> None:
    patience = Patience()
    for _ in range(20):
        took_ns = min(each_ns * vms, PATIENCE_MAX_NS)
        late = took_ns > patience.limit_ns(vms)
        patience = patience.given_up() if late else patience.answered(took_ns, vms)

    assert min(each_ns * vms, PATIENCE_MAX_NS) <= patience.limit_ns(vms)


@given(CALLS)
def test_the_limit_adapts_to_a_host_that_is_fast_again(calls: list[tuple[int, int] | None]) -> None:
    patience = learned(calls)
    for _ in range(50):
        patience = patience.answered(USUAL_NS, 1)

    assert patience.limit_ns(1) <= PATIENCE_NS + 2 * PATIENCE_TIMES * USUAL_NS


def test_a_call_that_was_given_up_is_repeated() -> None:
    assert after_call(["a", "b"], None) == AskAgain()


@given(st.lists(st.text("abcdef", min_size=1), unique=True), st.data())
def test_a_vm_that_is_missing_in_an_answer_is_asked_alone(uuids: list[str], data: st.DataObject) -> None:
    missing = data.draw(st.sets(st.sampled_from(uuids))) if uuids else set[str]()

    following = after_call(uuids, set(uuids) - missing)

    assert following == AskAlone(tuple(uuid for uuid in uuids if uuid in missing))


def test_the_pause_before_asking_alone_doubles_up_to_the_longest() -> None:
    pauses = [next_pause_ns(None)]
    while pauses[-1] < PAUSE_MAX_NS:
        pauses.append(next_pause_ns(pauses[-1]))

    assert pauses[:3] == [PAUSE_NS, 2 * PAUSE_NS, 4 * PAUSE_NS]
    assert pauses[-1] == next_pause_ns(pauses[-1]) == PAUSE_MAX_NS


def test_calls_that_were_given_up_leave_the_daemon_one_worker() -> None:
    assert has_room(LATE_MAX - 1)
    assert not has_room(LATE_MAX)
