"""Tests that the host's memory is read from files, even broken ones, and recorded in each interval."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from agent.contract.encode import Mode
from agent.contract.payloads import Agent
from agent.core.host_memory import FileFault, HugePages, Ksm
from agent.core.memory import Memory
from agent.core.psi import Stall
from agent.core.reading import Record, RecordKind
from agent.host.memory_files import FILE_BYTES_MAX, HUGE_PAGE_SIZES_MAX, Contents, parsed, read_files
from agent.runtime import host_memory
from agent.runtime.host_memory import HostMemoryReporter
from agent.runtime.recorder import Recorder
from agent.telemetry import Count, Counters
from tests.unit.core.test_host_memory import HUGE
from tests.unit.core.test_psi import PSI

AGENT = Agent("host-1", "one", "0199f2ff-1234-7abc-8def-0123456789ab", "1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the root of a host that has every file."""
    files = {
        "proc/meminfo": HUGE,
        "proc/pressure/memory": PSI,
        "sys/kernel/mm/ksm/run": b"1\n",
        "sys/kernel/mm/ksm/pages_shared": b"10\n",
        "sys/kernel/mm/ksm/pages_sharing": b"40\n",
        "sys/kernel/mm/ksm/pages_unshared": b"3\n",
        "sys/kernel/mm/ksm/general_profit": b"-64\n",
    }
    for size_kib, total in ((1048576, b"8\n"), (2048, b"512\n")):
        folder = f"sys/kernel/mm/hugepages/hugepages-{size_kib}kB"
        numbers = {
            "nr_hugepages": total, "free_hugepages": b"2\n", "resv_hugepages": b"1\n",
            "surplus_hugepages": b"0\n",
        }  # fmt: skip
        files |= {f"{folder}/{name}": text for name, text in numbers.items()}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text)
    return tmp_path


def read(root: Path) -> Contents:
    contents = Contents()
    read_files(contents, root)
    return contents


def test_every_file_is_read(root: Path) -> None:
    memory, faults = parsed(read(root), 4096)

    assert faults == {}
    assert memory.ram.total_bytes == 65862736 * 1024
    assert memory.huge_pages == (HugePages(2 << 20, 512, 2, 1, 0), HugePages(1 << 30, 8, 2, 1, 0))
    assert memory.pressure is not None
    assert memory.pressure.some == Stall(1.5, 0.25, 0.03, 123456789)
    assert memory.ksm == Ksm(1, 40960, 163840, 12288, -64)


def test_a_kernel_without_any_of_the_files_is_not_a_fault(tmp_path: Path) -> None:
    memory, faults = parsed(read(tmp_path), 4096)

    assert faults == {}
    assert (memory.ram.total_bytes, memory.huge_pages, memory.pressure, memory.ksm) == (None, (), None, None)


def test_without_sysfs_the_default_huge_pages_are_known(root: Path) -> None:
    (root / "sys/kernel/mm/hugepages").rename(root / "elsewhere")

    assert parsed(read(root), 4096)[0].huge_pages == (HugePages(2 << 20, 16384, 1024, 12, 0),)


def _too_large(path: Path) -> None:
    path.write_bytes(HUGE + b"\n" * (1 << 20))


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00" * 500)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("break_", "fault"),
    [
        (_too_large, FileFault.TOO_LARGE),
        (_garbage, FileFault.MALFORMED),
        (_directory, FileFault.UNREADABLE),
    ],
)
@pytest.mark.parametrize("name", ["proc/meminfo", "proc/pressure/memory", "sys/kernel/mm/ksm/run"])
def test_a_broken_file_is_reported_and_the_other_files_are_read(
    root: Path, name: str, break_: Callable[[Path], None], fault: FileFault
) -> None:
    whole = parsed(read(root), 4096)[0]
    break_(root / name)

    memory, faults = parsed(read(root), 4096)

    assert faults == {name: fault}
    assert (memory.ram == whole.ram) == (name != "proc/meminfo")
    assert (memory.pressure is None) == (name == "proc/pressure/memory")
    assert memory.ksm is not None
    assert (memory.ksm.run is None) == name.endswith("run")
    assert memory.ksm.sharing_bytes == 163840


def test_the_sizes_of_huge_pages_and_of_files_are_bounded(root: Path) -> None:
    for number in range(100):
        folder = root / f"sys/kernel/mm/hugepages/hugepages-{number + 5_000_000}kB"
        folder.mkdir()
        (folder / "nr_hugepages").write_bytes(b"1\n")

    contents = read(root)

    assert len(parsed(contents, 4096)[0].huge_pages) <= HUGE_PAGE_SIZES_MAX
    assert max(map(len, contents.texts.values())) <= FILE_BYTES_MAX


# --- the reporter ---


class Kept:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, record: Record | None, memory: Memory | None) -> None:
        assert record is not None
        self.records.append(record)

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(each.value) for each in self.records]


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not holds():  # noqa: ASYNC110 - nothing reports it
            await anyio.sleep(0.01)


async def test_a_record_is_made_at_once_and_in_each_interval(root: Path) -> None:
    kept, counters = Kept(), Counters()
    recorder = Recorder(AGENT, Mode.BINARY, [kept], counters)
    reporter = HostMemoryReporter(recorder, counters, 1, root=root)
    async with anyio.create_task_group() as group:
        group.start_soon(reporter.run)
        await until(lambda: len(kept.records) >= 2)
        group.cancel_scope.cancel()

    first, second = kept.documents[:2]
    assert {(each.kind, each.key) for each in kept.records} == {(RecordKind.HOST_MEMORY, "host-1")}
    assert (first["sequence"], second["sequence"]) == (1, 2)
    assert first["interval_s"] == 1
    assert first["memory"]["total_bytes"] == 65862736 * 1024
    assert first["vms"] == {"count": 0, "reporting": 0}
    assert counters.total(Count.MEMORY_RECORDS) == len(kept.records)
    assert recorder.newest_host_memory() is not None


async def test_a_hanging_file_is_logged_once_and_the_record_has_the_rest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "READ_TIMEOUT_S", 0.5)
    hangs, calls = threading.Event(), 0

    def hanging(contents: Contents) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            contents.texts["proc/meminfo"] = HUGE
            contents.reading = "proc/pressure/memory"
            hangs.wait(60)
        else:
            read_files(contents, root)

    kept, counters = Kept(), Counters()
    recorder = Recorder(AGENT, Mode.BINARY, [kept], counters)
    with capture_logs() as logs:
        async with anyio.create_task_group() as group:
            group.start_soon(HostMemoryReporter(recorder, counters, 1, hanging).run)
            await until(lambda: len(kept.records) == 2)
            assert calls == 1  # there is no second thread
            hangs.set()
            await until(lambda: "pressure" in kept.documents[-1])
            group.cancel_scope.cancel()

    first, second = kept.documents[:2]
    assert first["memory"]["total_bytes"] == 65862736 * 1024
    assert "pressure" not in first
    assert "memory" not in second
    assert counters.total(Count.HOST_FILES_REFUSED, "hung") >= 2
    assert [each["event"] for each in logs] == ["host file unusable", "host file usable again"]
    assert logs[0]["path"] == "/proc/pressure/memory"
