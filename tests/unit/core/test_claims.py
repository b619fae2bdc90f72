"""Who takes a VM's id from whom; tests/model/test_fleet_model.py has the sequences."""

import pytest

from agent.core.address import MonitorPath
from agent.core.claims import Claims
from agent.core.reading import VmId
from agent.core.shares import Owner

VM = VmId("5f0c0000-0000-4000-8000-000000000001")
FIRST, SECOND = MonitorPath("/run/1/vm.qmp"), MonitorPath("/run/2/vm.qmp")
SYSTEM, SESSION = "qemu:///system", "qemu+unix:///session?socket=/run/pod/sock"


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [
        (1000, 1000, True),
        (1000, 0, True),
        (1000, 1001, False),
        (0, 1000, False),
        (None, 1000, False),
        (SYSTEM, SYSTEM, True),
        (SYSTEM, SESSION, False),
        (SYSTEM, 1000, False),
    ],
)
def test_only_root_and_the_same_owner_take_the_id_of_a_vm_that_is_not_active(
    before: Owner, after: Owner, taken: bool
) -> None:
    held = Claims().claim(VM, FIRST, active=False, owner=before).claims

    claimed = held.claim(VM, SECOND, active=True, owner=after)

    assert claimed.displaced == (FIRST if taken else None)
    assert claimed.other == (None if taken else FIRST)


def test_nobody_takes_the_id_of_an_active_vm() -> None:
    held = Claims().claim(VM, FIRST, owner=1000).claims

    assert held.claim(VM, SECOND, owner=0).other == FIRST
