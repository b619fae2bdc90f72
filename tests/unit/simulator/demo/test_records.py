from simulator.demo.records import MANY, Told, gathered
from simulator.demo.scenarios import SCENARIOS, Scenario, cast_of


def told(vm: str, at_ms: float, words: str = "connecting → reporting") -> Told:
    return Told(at_ms, vm, words, "reporting")


def test_what_many_vms_do_within_a_second_is_one_line() -> None:
    story = [told(f"vm{number}", 5000 + number) for number in range(MANY)]

    assert gathered([*story, told("late", 7000)]) == [told(f"{MANY} VMs", 5000), told("late", 7000)]


def test_what_few_do_is_told_of_each() -> None:
    story = [told(f"vm{number}", 5000 + number) for number in range(MANY - 1)]

    assert gathered(story) == story


def test_every_scenario_has_as_many_vms_as_are_asked_for_each_with_a_name_of_its_own() -> None:
    for scenario in Scenario:
        for vms in (1, 3, 300):
            cast = cast_of(SCENARIOS[scenario], vms, "seed")

            assert len({vm.name for vm in cast}) == len(cast) == vms


def test_a_clone_has_the_uuid_of_another_and_nobody_else_has() -> None:
    cast = cast_of(SCENARIOS[Scenario.DAY], 12, "seed")

    uuids = [vm.spec["uuid"] for vm in cast]

    assert len(set(uuids)) == 11
    assert next(vm for vm in cast if vm.role.clone_of).spec["uuid"] == uuids[1]
