"""Compare the host's memory as a running agent records and shows it with /proc."""

import json
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.integration.audit import WEB, ask, read, url_of
from tests.integration.watching import Lines
from tests.lab import qemu
from tests.lab.agent import agent

EVERY_SECOND = {"BAROGRAPH_MEMORY__INTERVAL": "1s", "BAROGRAPH_LINES__ENABLED": "true"}


def records(output: Path) -> list[dict[str, Any]]:
    """Return the host's memory records in the complete lines."""
    whole = output.read_text().rpartition("\n")[0].splitlines()
    found = [json.loads(line) for line in whole]
    return [each for each in found if each["schema"].startswith("barograph.host.memory/")]


def meminfo() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * (1024 if len(words) > 2 else 1) for words in lines}


@pytest.mark.guest
@pytest.mark.usefixtures("real_qemu")
def test_the_record_the_status_and_the_metrics_agree_with_proc(folder: Path) -> None:
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    before = meminfo()
    with qemu.guest(folder, "g") as vm, agent(folder, *words, env={**WEB, **EVERY_SECOND}) as process:
        lines = Lines(process)
        lines.wait_for_state(vm.qmp, "reporting")
        lines.wait(
            lambda: any(each["vms"].get("actual_vms") for each in records(process.stdout)),
            "a record with the VM",
        )
        url = url_of(process)
        assert url is not None
        shown = {
            (each.name, *each.labels.values()): each.value
            for family in read(ask(url, "metrics")[1])
            for each in family.samples
        }
        status = json.loads(ask(url, "status")[1])
        assert process.stop() == 0
    after = meminfo()

    found = records(process.stdout)
    newest = next(each for each in found if each["vms"].get("actual_vms"))
    assert [each["sequence"] for each in found] == list(range(1, len(found) + 1))
    assert before["MemTotal"] == after["MemTotal"] == newest["memory"]["total_bytes"]
    assert 0 < newest["memory"]["free_bytes"] < newest["memory"]["total_bytes"]
    assert 0 < newest["memory"]["available_bytes"] < newest["memory"]["total_bytes"]
    assert newest["swap"]["total_bytes"] == after["SwapTotal"]
    assert ("pressure" in newest) == Path("/proc/pressure/memory").exists()
    assert ("ksm" in newest) == Path("/sys/kernel/mm/ksm").exists()
    assert newest["vms"]["count"] == newest["vms"]["actual_vms"] == 1
    assert newest["vms"]["actual_bytes"] > 32 << 20
    assert status["host"]["memory"]["total_bytes"] == after["MemTotal"]
    assert shown[("qemu_host_memory_limit_bytes",)] == after["MemTotal"]
    assert shown[("qemu_host_memory_vms_actual_bytes",)] == newest["vms"]["actual_bytes"]
    if "pressure" in newest:
        total_us = newest["pressure"]["some"]["total_us"]
        assert shown[("qemu_host_memory_pressure_some_seconds_total",)] >= 0
        text = Path("/proc/pressure/memory").read_text()
        assert 0 <= total_us <= int(re.findall(r"total=(\d+)", text)[0])


@pytest.mark.usefixtures("tracing")
def test_no_file_is_opened_more_than_once_an_interval(folder: Path) -> None:
    trace = folder / "trace"
    within = ("strace", "-f", "-qq", "-e", "trace=openat", "-o", str(trace))
    with agent(folder, "--monitor", f"{folder}/*.qmp", env=EVERY_SECOND, within=within) as process:
        Lines(process).wait(lambda: len(records(process.stdout)) >= 3, "three records")
        recorded = len(records(process.stdout))
        os.kill(int(trace.read_text().split()[0]), signal.SIGTERM)  # strace forwards no signal
        assert process.process.wait(60) == 0

    opened = Counter(
        re.findall(r'openat\([^"]*"(/(?:proc/meminfo|proc/pressure|sys/kernel/mm)[^"]*)"', trace.read_text())
    )
    recorded = max(recorded, len(records(process.stdout)))
    assert opened["/proc/meminfo"] >= 3
    # One more reading may have begun after the last record.
    assert {path: count for path, count in opened.items() if count > recorded + 1} == {}
