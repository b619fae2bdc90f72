"""Tests of which VMs have a record of their memory, and what it contains."""

import pytest
from msgspec.structs import replace

from agent.core import vm_memory
from agent.core.address import MonitorPath
from agent.core.events import BalloonChanged, Given, LinkFailed, PathMissing
from agent.core.poller import Poller
from agent.core.reading import (
    CgroupMemory,
    Configured,
    Peer,
    ProcessMemory,
    SocketMark,
    State,
    VmId,
    VmMemory,
)
from agent.core.shares import ROOT, Owner, owner_below
from agent.core.vm_memory import Amounts, HostView, Subject
from agent.errors import LinkFault
from tests.unit.core.driving import MIB, Story

SEEN = HostView(ProcessMemory(300 * MIB, 0, None, 7), CgroupMemory("/a.scope", 310 * MIB, None, 0, None, 7))


def described(poller: Poller, view: HostView = vm_memory.NOTHING_SEEN) -> VmMemory:
    seen = {poller.endpoint.address: view}
    return vm_memory.describe(poller, seen, sequence=3, interval_s=60, now=Story().now)


def test_a_record_has_the_configured_and_the_used_memory() -> None:
    story = Story(given=Given(512 * MIB, 64 * MIB, deflate_on_oom=True)).start()

    memory = described(story.poller, SEEN)

    assert memory.vm == story.poller.process.identity
    assert (memory.sequence, memory.interval_s) == (3, 60)
    assert memory.configured == Configured(512 * MIB, 64 * MIB, story.now.unix_ms)
    assert memory.balloon is not None
    assert memory.balloon.actual_bytes == 128 * MIB
    assert memory.deflate_on_oom is True
    assert (memory.process, memory.cgroup) == (SEEN.process, SEEN.cgroup)
    assert vm_memory.amounts(memory) == Amounts(576 * MIB, 128 * MIB, 300 * MIB)


def test_unknown_values_are_absent() -> None:
    memory = described(Story().start().poller)

    assert (memory.configured, memory.deflate_on_oom, memory.process, memory.cgroup) == (None,) * 4
    assert vm_memory.amounts(memory) == Amounts(None, 128 * MIB, None)


def test_a_vm_without_a_balloon_has_a_record_without_the_balloons_part() -> None:
    story = Story(given=Given(512 * MIB, 0))
    story.balloon_path = None
    story.start()

    memory = described(story.poller, SEEN)

    assert memory.state is State.NO_BALLOON
    assert (memory.balloon, memory.deflate_on_oom) == (None, None)
    assert list(vm_memory.chosen([story.poller]).values()) == [story.poller]
    assert vm_memory.amounts(memory) == Amounts(512 * MIB, None, 300 * MIB)


def test_a_vm_that_does_not_answer_keeps_what_is_known_and_one_that_is_gone_has_no_record() -> None:
    story = Story(given=Given(512 * MIB, 0)).start()

    story.mute = True
    story.feed(LinkFailed(LinkFault.DENIED, "permission denied"))
    assert described(story.poller).state is State.UNREACHABLE
    assert described(story.poller).configured is not None
    assert list(vm_memory.chosen([story.poller]).values()) == [story.poller]

    story.feed(PathMissing())
    assert vm_memory.chosen([story.poller]) == {}


def test_a_vm_that_is_not_known_yet_has_no_record_and_each_id_has_one() -> None:
    unknown = Story()
    unknown.mute = True
    known = Story().start().poller

    assert vm_memory.chosen([unknown.start().poller]) == {}
    assert list(vm_memory.chosen([known, known]).values()) == [known]


@pytest.mark.parametrize(
    ("vms", "interval_s", "slices", "lasts_s"),
    [
        (0, 60, 0, 0),
        (1, 60, 1, 0),
        (20, 60, 1, 0),
        (100, 60, 5, 2),
        (1_000, 60, 50, 20),
        (10_000, 60, 500, 30),
    ],
)
def test_a_round_is_made_in_slices_and_takes_at_most_half_of_the_interval(
    vms: int, interval_s: float, slices: int, lasts_s: float
) -> None:
    ids = [VmId(f"{number}") for number in range(vms)]

    made = list(vm_memory.slices(ids))

    assert [each for part in made for each in part] == ids
    assert len(made) == slices
    assert all(len(part) <= 20 for part in made)
    assert max(slices - 1, 0) * vm_memory.pause_s(vms, interval_s) == pytest.approx(lasts_s, rel=0.25)


def test_deflate_on_oom_is_that_of_the_device_until_another_one_comes() -> None:
    story = Story(given=Given(512 * MIB, 0, deflate_on_oom=True)).start()
    story.given = Given(512 * MIB, 0)

    story.pass_s(60)
    assert story.poller.process.deflate_on_oom is True

    story.balloon_path = "/machine/peripheral/other"
    story.pass_s(60)
    assert story.poller.process.balloon_path == story.balloon_path
    assert story.poller.process.deflate_on_oom is None


def test_sizes_that_a_later_check_does_not_have_are_absent_again() -> None:
    story = Story(given=Given(512 * MIB, 0)).start()
    story.given = Given()

    story.pass_s(60)

    assert described(story.poller).configured is None


@pytest.mark.parametrize("actual_bytes", [2**53, 2**63 - 1])
def test_an_actual_that_json_cannot_carry_is_absent(actual_bytes: int) -> None:
    story = Story().start()
    story.feed(BalloonChanged(actual_bytes))

    assert described(story.poller).balloon is None


def test_the_resident_memory_from_libvirt_has_its_own_time() -> None:
    story = Story().start()
    story.resident_bytes = 200 * MIB

    story.pass_s(15)

    resident = story.poller.process.resident
    assert resident is not None
    assert resident.resident_bytes == 200 * MIB
    assert described(story.poller).process == ProcessMemory(200 * MIB, None, None, resident.observed_at_ms)
    assert described(story.poller, SEEN).process == SEEN.process


def test_huge_pages_count_as_resident_in_the_sums() -> None:
    memory = described(Story().start().poller, HostView(ProcessMemory(1, 0, 2 * MIB, 7), None))

    assert vm_memory.amounts(memory).resident_bytes == 1 + 2 * MIB


UID = "5f0c1e4e-28a6-4f0e-9a5f-0123456789ab"


@pytest.mark.parametrize(
    ("owner", "uid"),
    [
        (owner_below(ROOT, f"/host/pods/{UID}", ROOT), UID),
        (f"qemu:///session?socket=/host/pods/{UID}/volumes/l/sock", UID),  # a URI that is configured
        ("qemu:///system", None),
        (1001, None),
        (None, None),
    ],
)
def test_the_pod_of_a_vm_is_the_owner_of_its_socket(owner: Owner, uid: str | None) -> None:
    assert vm_memory.subject(Story().start().poller, owner).pod_uid == uid


def test_a_users_directory_with_the_path_of_a_pods_volume_is_not_that_pods() -> None:
    poller = Story().start().poller
    address = MonitorPath(f"/home/a/pods/{UID}/volumes/x/a.qmp")
    endpoint = replace(poller.endpoint, address=address)
    owner = owner_below(1001, str(address), 1001)

    assert vm_memory.subject(replace(poller, endpoint=endpoint), owner).pod_uid is None


def test_the_subject_has_the_peer_and_what_it_must_map() -> None:
    story = Story(given=Given(512 * MIB, 64 * MIB), peer=Peer(7, 4711)).start()

    assert vm_memory.subject(story.poller, None) == Subject(
        MonitorPath("/run/vm/a.qmp"), Peer(7, 4711), None, 512 * MIB
    )


def test_another_process_at_the_same_path_is_another_peer() -> None:
    story = Story(given=Given(512 * MIB, 0), peer=Peer(7, 4711)).start()
    story.mark, story.peer, story.mute = SocketMark(1, 2, 99), None, False

    story.feed(LinkFailed(LinkFault.HUNG_UP, "hung up"))
    story.pass_s(10)

    assert story.poller.process.mark == story.mark
    assert story.poller.process.peer is None
