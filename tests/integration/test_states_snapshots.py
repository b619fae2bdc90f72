"""Test of snapshots saved and loaded under a running agent: time continues, values and counters go back.

It runs on the installed QEMU (Debian 12's 7.2 in CI) and on a newer one (10), shown by the test's id.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from tests.integration.watching import Lines, watch
from tests.lab import qemu
from tests.lab.agent import agent

pytestmark = pytest.mark.guest


def make_disk(monitor: qemu.Monitor, path: Path) -> None:
    """Have QEMU create an unattached disk for its snapshots: qemu-img is in another package."""
    _create(monitor, driver="file", filename=str(path), size=0)
    monitor.command("blockdev-add", **{"node-name": "file", "driver": "file", "filename": str(path)})
    _create(monitor, driver="qcow2", file="file", size=64 << 20)
    monitor.command("blockdev-add", **{"node-name": "disk", "driver": "qcow2", "file": "file"})


def _create(monitor: qemu.Monitor, **options: object) -> None:
    monitor.command("blockdev-create", **{"job-id": "create", "options": options})
    deadline_s = time.monotonic() + 120
    while True:
        job = cast(list[dict[str, str]], monitor.command("query-jobs"))[0]
        if job["status"] == "concluded":
            break
        assert time.monotonic() < deadline_s, job
        time.sleep(0.01)
    assert "error" not in job, job
    monitor.command("job-dismiss", id="create")


def test_a_loaded_snapshot_begins_a_new_epoch_only_where_counters_fall(
    folder: Path, each_qemu: Sequence[str]
) -> None:
    with (
        qemu.guest(folder, "g", command=each_qemu) as vm,
        qemu.Monitor(vm.hands) as monitor,
        agent(folder, *watch(folder)) as process,
    ):
        make_disk(monitor, folder / "disk.qcow2")
        lines = Lines(process)
        lines.wait_for_samples("g", 3)

        monitor.human("savevm one")
        saved = lines.wait_for_samples("g", len(lines.samples("g")) + 2)
        vm.order("dirty 8")  # makes the guest's faults grow
        used = lines.wait_for_samples("g", len(lines.samples("g")) + 2)
        monitor.human("loadvm one")
        loaded = lines.wait_for_samples("g", len(lines.samples("g")) + 3)

        assert {each["epoch"] for each in used} == {saved[0]["epoch"]}  # saving does not end the epoch
        assert [each["sequence"] for each in used] == list(range(1, len(used) + 1))
        epochs = list(dict.fromkeys(each["epoch"] for each in loaded))
        assert len(epochs) == 2
        old = [each for each in loaded if each["epoch"] == epochs[0]]
        new = [each for each in loaded if each["epoch"] == epochs[1]]
        faults = "minor_faults"
        assert new[0]["statistics"][faults] < old[-1]["statistics"][faults]
        assert new[0]["last_update"] >= old[-1]["last_update"]  # time continues
        assert new[0]["previous"] == {"epoch": epochs[0], "sequence": old[-1]["sequence"]}
        assert [each["sequence"] for each in new] == list(range(1, len(new) + 1))
        assert new[0]["origin"] == "unsolicited"
        # QEMU does not answer while it saves or loads: on a busy machine that may exceed the deadline.
        seen = {state for state, _ in lines.words(vm.qmp)}
        assert seen <= {"connecting", "reporting", "paused", "unreachable"}
        assert "rebooted" not in {reason for _, reason in lines.words(vm.qmp)}  # QEMU sends no RESET
        assert max(each["missed_at_most"] for each in loaded) <= 2, "more than a busy machine causes"
