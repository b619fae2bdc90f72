from simulator.demo.records import MANY, Entry, merged
from simulator.demo.scenarios import SCENARIOS, Scenario, vms_of


def entry(vm: str, at_ms: float) -> Entry:
    return Entry(at_ms, vm, "connecting → reporting", "reporting")


def test_the_same_entry_of_many_vms_within_a_second_is_merged_into_one() -> None:
    timeline = [entry(f"vm{number}", 5000 + number) for number in range(MANY)]

    assert merged([*timeline, entry("late", 7000)]) == [entry(f"{MANY} VMs", 5000), entry("late", 7000)]


def test_the_same_entry_of_few_vms_is_kept_for_each() -> None:
    timeline = [entry(f"vm{number}", 5000 + number) for number in range(MANY - 1)]

    assert merged(timeline) == timeline


def test_every_scenario_makes_the_requested_number_of_vms_with_distinct_names() -> None:
    for scenario in Scenario:
        for vms in (1, 3, 300):
            made = vms_of(SCENARIOS[scenario], vms, "seed")

            assert len({vm.name for vm in made}) == len(made) == vms


def test_only_a_clone_shares_the_uuid_of_another_vm() -> None:
    vms = vms_of(SCENARIOS[Scenario.DAY], 12, "seed")

    uuids = [vm.spec["uuid"] for vm in vms]

    assert len(set(uuids)) == 11
    assert next(vm for vm in vms if vm.role.clone_of).spec["uuid"] == uuids[1]
