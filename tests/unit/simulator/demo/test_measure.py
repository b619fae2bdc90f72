from simulator.demo.measure import PROMISED_MS, Arrived, Shown, compare, short_lived

BEGIN_S = 1795404000


def shown(*at_ms: float) -> list[Shown]:
    return [Shown(BEGIN_S + int(at // 1000), BEGIN_S * 1000 + at, {"free_memory": int(at)}) for at in at_ms]


def test_an_update_visible_until_the_next_one_is_not_short_lived() -> None:
    assert short_lived(shown(0, 1000, 2000), []) == frozenset()


def test_an_update_overwritten_within_the_promised_time_is_short_lived() -> None:
    assert short_lived(shown(900, 1100, 2100), []) == {BEGIN_S}
    assert short_lived(shown(900, 900 + PROMISED_MS), []) == frozenset()


def test_a_second_is_not_short_lived_if_one_of_its_updates_stays_visible() -> None:
    assert short_lived(shown(0, 100, 2000), []) == frozenset()


def test_an_action_on_the_vm_ends_the_update_before_it() -> None:
    ends_ms = [BEGIN_S * 1000 + 1300.0]

    assert short_lived(shown(0, 1000, 2000), ends_ms) == {BEGIN_S + 1}


def test_a_sample_may_lack_impossible_values_but_the_others_must_match() -> None:
    truth = [Shown(BEGIN_S, BEGIN_S * 1000, {"free_memory": 9, "total_memory": 5})]

    def wrong(some_left_out: bool, **statistics: int) -> tuple[int, ...]:
        arrived = [Arrived(BEGIN_S, BEGIN_S * 1000 + 1, 1, statistics)]
        found = compare(truth, arrived, until_ms=BEGIN_S * 1000 + 1000, some_left_out=some_left_out)
        return found.wrong

    assert wrong(True, total_memory=5) == ()
    assert wrong(True, total_memory=6) == (BEGIN_S,)
    assert wrong(False, total_memory=5) == (BEGIN_S,)
