"""Tests that `barograph doctor` reports about VMs only what their states show."""

import pytest

from agent.core.doctor.codes import Code
from agent.core.doctor.sockets import VmFact, judge_vms
from agent.core.findings import Level

REPORTING = VmFact("a", "reporting", "advancing", "receiving updates")
GUEST = {Code.VM_DRIVER, Code.VM_STATISTICS, Code.VM_UPDATES}
TRIED = {Code.VM_CONTENDED, Code.VM_INTERVAL}


def passed(*vms: VmFact, by_agent: bool = True) -> dict[str, str]:
    """Return the detail of each check of the VMs that found no problem."""
    found = judge_vms(vms, by_agent=by_agent).in_order()
    return {
        each.code: each.detail for each in found if each.level is Level.OK and each.code.startswith("vm-")
    }


def test_a_reporting_vm_answers_all_checks_but_those_that_need_the_agent() -> None:
    assert passed(REPORTING).keys() >= GUEST | TRIED
    assert passed(REPORTING, by_agent=False).keys() >= GUEST
    assert not passed(REPORTING, by_agent=False).keys() & TRIED


@pytest.mark.parametrize(
    ("state", "reason", "answered"),
    [
        ("off", "polling_disabled", {Code.VM_UNIQUE, Code.VM_BALLOON, Code.VM_POLLING}),
        ("paused", "paused", {Code.VM_UNIQUE, Code.VM_BALLOON}),
        ("unreachable", "denied", set[Code]()),
        ("connecting", "settling", set[Code]()),
        ("later", "of_another_version", set[Code]()),
    ],
)
def test_a_vm_that_sends_no_updates_shows_nothing_of_its_guest(
    state: str, reason: str, answered: set[Code]
) -> None:
    vm = VmFact("b", state, reason, "why", agent_sets=True)

    assert passed(vm, by_agent=False).keys() == answered


def test_a_check_that_only_some_vms_answer_has_their_number() -> None:
    found = passed(REPORTING, VmFact("b", "paused", "paused", "the VM is not running: paused"))

    assert found[Code.VM_BALLOON] == "each VM has a virtio balloon"
    assert found[Code.VM_DRIVER] == "each guest has a balloon driver: known of 1 of 2 VMs"
