"""Tests of a full disk, and of a spool file that is deleted, damaged, or unusable at the start."""

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.audit import WEB, audited
from tests.integration.watching import Lines, conserved
from tests.lab import qemu
from tests.lab.agent import AgentProcess, agent
from tests.lab.embedded_kafka import EmbeddedKafka
from tests.lab.kafka import consume

pytestmark = [
    pytest.mark.guest,
    pytest.mark.usefixtures("real_qemu"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own: needs root"),
]

SPOOL = "spool.sqlite"
LINES = {**WEB, "BAROGRAPH_LINES__ENABLED": "true"}


@pytest.fixture
def disk(folder: Path) -> Generator[Path]:
    """Yield a directory with a file system of 4 MiB."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def watched(
    folder: Path, disk: Path, kafka: EmbeddedKafka, *, preset_s: int = 0
) -> Generator[tuple[Lines, AgentProcess]]:
    """Run a guest, and an agent with its state on `disk`. Every sample must reach Kafka, in order.

    Args:
        folder: of the guest.
        disk: of the state.
        kafka: the broker.
        preset_s: the interval that the guest's QEMU already has.
    """
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", kafka.bootstrap)
    with (
        _guest(folder, preset_s),
        agent(folder, *words, state=disk, env=LINES) as process,
        audited(process),
    ):
        lines = Lines(process)
        lines.wait(lambda: len(lines.samples("g")) >= 2, "two samples")
        yield lines, process
        assert process.stop() == 0
        samples = lines.samples("g")
    sent = [json.loads(each.value) for each in consume(kafka.bootstrap, ["barograph.samples"])]
    assert [each["last_update"] for each in sent] == [each["last_update"] for each in samples]
    assert [each["sequence"] for each in sent] == list(range(1, len(sent) + 1))
    conserved(process)


@contextmanager
def _guest(folder: Path, preset_s: int) -> Generator[None]:
    with qemu.guest(folder, "g") as vm:
        if preset_s:
            with vm.monitor() as monitor:
                monitor.set_interval(preset_s)
        yield


def degraded(lines: Lines) -> bool:
    said = [each for each in lines.all() if each["schema"].startswith("barograph.agent.state/")]
    return said[-1]["state"] == "degraded"


def more_samples(lines: Lines, count: int = 2) -> None:
    have = len(lines.samples("g"))
    lines.wait(lambda: len(lines.samples("g")) >= have + count, f"{count} more samples")


def fill(disk: Path) -> Callable[[], None]:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:  # so that `close` has nothing left to write
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            pass
    return ballast.unlink


def test_a_full_disk_loses_nothing_and_is_reported(
    folder: Path, disk: Path, embedded_kafka: EmbeddedKafka
) -> None:
    with watched(folder, disk, embedded_kafka) as (lines, process):
        empty = fill(disk)
        process.wait_for_log("spool cannot be written")
        lines.wait(lambda: degraded(lines), "degraded")
        more_samples(lines, 3)
        empty()
        process.wait_for_log("spool writable again")
        lines.wait(lambda: not degraded(lines), "no longer degraded")
        more_samples(lines)
    assert process.stderr.read_text().count("] spool cannot be written") == 1


def test_a_disk_that_is_full_at_the_start_loses_nothing_and_is_reported(
    folder: Path, disk: Path, embedded_kafka: EmbeddedKafka
) -> None:
    empty = fill(disk)
    with watched(folder, disk, embedded_kafka, preset_s=1) as (lines, process):
        process.wait_for_log("state directory cannot be written")
        process.wait_for_log("spool cannot be written")
        lines.wait(lambda: degraded(lines), "degraded")
        empty()
        process.wait_for_log("spool writable again")
        lines.wait(lambda: not degraded(lines), "no longer degraded")
        more_samples(lines)
    assert (disk / SPOOL).exists()


def test_a_deleted_file_is_written_again(folder: Path, disk: Path, embedded_kafka: EmbeddedKafka) -> None:
    with watched(folder, disk, embedded_kafka) as (lines, process):
        for each in disk.glob(f"{SPOOL}*"):
            each.unlink()
        process.wait_for_log("spool file was deleted")
        more_samples(lines)
    assert (disk / SPOOL).exists()


def test_damaged_pages_stop_neither_collection_nor_the_next_start(
    folder: Path, disk: Path, embedded_kafka: EmbeddedKafka
) -> None:
    with watched(folder, disk, embedded_kafka) as (lines, process):
        for name in (SPOOL, f"{SPOOL}-wal"):
            with (disk / name).open("r+b") as file:
                file.write(b"\xa5" * (disk / name).stat().st_size)
        more_samples(lines, 4)  # SQLite may still have every page in memory
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", embedded_kafka.bootstrap)
    with qemu.guest(folder, "g") as vm, agent(folder / "2", *words, state=disk, env=LINES) as process:
        Lines(process).wait_for_state(vm.qmp, "reporting")
        assert process.stop() == 0
        conserved(process)


def _text(path: Path) -> None:
    path.write_text("dear diary\n" * 1000)


def _foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()


@pytest.mark.parametrize("make", [_text, _foreign])
def test_a_file_that_is_not_a_spool_is_set_aside_at_the_start(
    folder: Path, disk: Path, embedded_kafka: EmbeddedKafka, make: Callable[[Path], None]
) -> None:
    make(disk / SPOOL)
    content = (disk / SPOOL).read_bytes()
    with watched(folder, disk, embedded_kafka) as (_, process):
        process.wait_for_log("spool set aside")
    (aside,) = disk.glob(f"{SPOOL}.2*.bad")
    assert aside.read_bytes() == content
