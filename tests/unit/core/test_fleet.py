"""Tests of how owners share the room for VMs; tests/model/test_fleet_model.py has sequences."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.address import Address, Domain, MonitorPath
from agent.core.events import PathRefused
from agent.core.fleet import Change, Crowded, Fleet, Notify, Room, Start, ended, room_within, scanned
from agent.core.reading import SocketMark
from agent.core.shares import Owner


def monitors(owner: Owner, count: int, first: str = "") -> dict[Address, Owner]:
    return {MonitorPath(f"/run/{first}{owner}/{number:04}.qmp"): owner for number in range(count)}


def take_in(fleet: Fleet, vms: Mapping[Address, Owner], room: Room) -> Change:
    return scanned(fleet, dict.fromkeys(vms, SocketMark(1, 1, 1)), owners=vms, room=room)


def settled(vms: Mapping[Address, Owner], room: Room, fleet: Fleet | None = None) -> Fleet:
    """Return the fleet once the VMs that make room have ended, and others have started."""
    fleet = take_in(fleet or Fleet(), vms, room).fleet
    while fleet.leaving:
        for address in fleet.leaving:
            fleet = ended(fleet, address, failed=False, room=room).fleet
        fleet = take_in(fleet, vms, room).fleet
    return fleet


def held(fleet: Fleet) -> Mapping[Owner, int]:
    return Counter(fleet.owners[address] for address in fleet.watched)


def test_vms_are_started_in_turn_by_owner() -> None:
    vms = monitors(1000, 3) | monitors(1001, 2) | monitors(0, 1)

    starts = [
        vms[effect.address] for effect in take_in(Fleet(), vms, Room()).effects if isinstance(effect, Start)
    ]

    assert starts == [0, 1000, 1001, 1000, 1001, 1000]


def test_the_newest_vms_of_the_owner_with_the_most_make_room_for_those_of_others() -> None:
    room = Room(vms=10_000, monitors=44)
    greedy = monitors(1000, 600)
    before = settled(greedy, room)
    change = take_in(before, greedy | monitors(1001, 3), room)

    refused = [effect.address for effect in change.effects if effect == Notify(effect.address, PathRefused())]

    assert held(before) == {1000: 44}
    assert refused == [MonitorPath(f"/run/1000/{number:04}.qmp") for number in (43, 42, 41)]
    assert Crowded(refused[0], 1000, 2) in change.effects
    assert held(settled(greedy | monitors(1001, 3), room, before)) == {1000: 41, 1001: 3}


def test_a_scan_asks_no_more_vms_to_leave_while_enough_of_them_make_room() -> None:
    room = Room(vms=10_000, monitors=44)
    vms = monitors(1000, 600) | monitors(1001, 3)
    crowded = take_in(settled(monitors(1000, 600), room), vms, room).fleet

    assert len(crowded.leaving) == 3
    assert take_in(crowded, vms, room) == Change(crowded, ())


def test_no_vm_leaves_for_an_owner_that_would_then_have_as_many() -> None:
    room = Room(vms=10_000, monitors=45)
    before = settled(monitors(1000, 23) | monitors(1001, 22), room)

    change = take_in(before, monitors(1000, 23) | monitors(1001, 30), room)

    assert held(before) == held(change.fleet) == {1000: 23, 1001: 22}
    assert not change.fleet.leaving


def test_domains_do_not_count_as_monitors() -> None:
    domains: dict[Address, Owner] = {Domain("qemu:///system", f"{n:03}"): "qemu:///system" for n in range(50)}

    fleet = settled(monitors(1000, 50) | domains, Room(vms=70, monitors=10))

    assert held(fleet) == {1000: 10, "qemu:///system": 50}


@given(
    st.dictionaries(st.sampled_from([0, 1, 2, 3, "pod"]), st.integers(1, 30)),
    st.dictionaries(st.sampled_from([0, 1, 2, 3, "pod"]), st.integers(1, 30)),
    st.integers(1, 40),
)
def test_no_owner_has_more_than_another_one_that_wants_more(
    first: dict[Owner, int], then: dict[Owner, int], most: int
) -> None:
    def vms(counts: Mapping[Owner, int]) -> dict[Address, Owner]:
        return {address: owner for each, n in counts.items() for address, owner in monitors(each, n).items()}

    room = Room(monitors=most)
    before = settled(vms(first), room)
    both = {owner: max(first.get(owner, 0), then.get(owner, 0)) for owner in first | then}

    fleet = settled(vms(both), room, before)

    assert sum(held(fleet).values()) == min(most, sum(both.values()))
    largest = max(held(fleet).values(), default=0)
    for owner, wanted in both.items():
        assert held(fleet)[owner] == wanted or held(fleet)[owner] >= largest - 1


@pytest.mark.parametrize(
    ("descriptors", "monitors_max"), [(None, 10_000), (1 << 20, 10_000), (4096, 3840), (300, 150), (1, 1)]
)
def test_the_room_for_monitors_fits_the_limit_of_open_files(
    descriptors: int | None, monitors_max: int
) -> None:
    assert room_within(descriptors) == Room(monitors=monitors_max)
