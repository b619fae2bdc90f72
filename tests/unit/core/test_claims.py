"""Tests of which owner may take a VM's id from another; tests/model/test_fleet_model.py has sequences."""

import pytest

from agent.core import claims
from agent.core.address import MonitorPath
from agent.core.claims import SETTLED_NS, Claims
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


def test_the_id_of_an_active_vm_is_not_taken() -> None:
    held = Claims().claim(VM, FIRST, owner=1000).claims

    assert held.claim(VM, SECOND, owner=0).other == FIRST


def test_an_id_belongs_to_its_first_owner_and_returns_to_the_vm_of_that_owner() -> None:
    first = Claims().claim(VM, FIRST, owner=107).claims
    taken = first.disclaim(FIRST).claims.claim(VM, SECOND, owner=1001)
    assert (taken.other, taken.owner) == (None, None)

    returned = taken.claims.claim(VM, FIRST, owner=107)

    assert (returned.other, returned.displaced, returned.owner) == (None, SECOND, 107)
    assert returned.claims.claim(VM, SECOND, owner=1001).other == FIRST


@pytest.mark.parametrize(("late", "taken_back"), [(SETTLED_NS - 1, True), (SETTLED_NS, False)])
def test_an_owner_keeps_an_id_that_it_has_held_for_long(late: int, taken_back: bool) -> None:
    other = Claims().knowing([(VM, 107)]).claim(VM, SECOND, owner=1001, now_ns=5).claims

    claimed = other.claim(VM, FIRST, owner=107, now_ns=5 + late)

    assert (claimed.displaced == SECOND) is taken_back
    assert (claimed.other == SECOND) is not taken_back


def test_the_owner_of_an_id_is_known_from_an_earlier_run() -> None:
    held = Claims().knowing([(VM, 107)]).claim(VM, SECOND, owner=1001).claims

    assert held.claim(VM, FIRST, owner=1002).other == SECOND
    assert held.claim(VM, FIRST, owner=None).other == SECOND
    assert held.claim(VM, FIRST, owner=107, active=False).other == SECOND
    assert held.claim(VM, FIRST, owner=107).displaced == SECOND


@pytest.mark.parametrize(("owner", "contested"), [(0, True), (107, True), (1001, False), (None, False)])
def test_only_a_claim_that_may_be_of_the_same_vm_causes_a_check_of_the_holder(
    owner: Owner, contested: bool
) -> None:
    """Each check visits the holder's monitor, so another user could keep that monitor busy with claims."""
    held = Claims().claim(VM, FIRST, owner=107).claims

    assert held.claim(VM, SECOND, owner=owner).contested is contested
    assert not held.claim(VM, SECOND, owner=owner, active=False).contested


def test_ids_with_an_owner_are_bounded_and_the_owner_with_the_most_loses_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "OWNERS_MAX", 4)
    known = Claims().knowing([(VM, 107), *((VmId(f"{n}"), 1001) for n in range(4))])

    known = known.claim(VmId("4"), SECOND, owner=1001).claims

    assert known.owners == {VM: 107, "2": 1001, "3": 1001, "4": 1001}
