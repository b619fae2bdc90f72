"""One-line faults, each of which the tests must catch: `python -m tests.model.seeded_faults [MODEL…]`.

Each fault is made in a copy of the tree, and its tests are run there until one fails: for the models of the core
its unit and model tests, for the simulated hypervisor the cases that the real one passes, too.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

POLLING = (
    (
        "core/sampling.py",
        "// (interval_s * SECOND_NS) - 1, 0)",
        "// (interval_s * SECOND_NS), 0)",
    ),
    (
        "core/polling.py",
        "return replace(p, phase=replace(p.phase, overdue=True))",
        "return replace(p, phase=Idle())",
    ),
    ("core/device.py", "if wish.set_to_s is None and wish.ownership", "if wish.ownership"),
    (
        "core/asking.py",
        "Question.SET_INTERVAL if p.interval.recorded else Question.REMEMBER",
        "Question.SET_INTERVAL",
    ),
    (
        "core/polling.py",
        "  # the clock stops now; the check reads the run state\n            return replace(p, process=replace(p.process, run_state=None))",
        "\n            return p",
    ),
    (
        "core/sampling.py",
        "silent_since_ns=p.observed.read(turn.mono_ns),\n        advancing=not first",
        "advancing=not first",
    ),
    ("core/epochs.py", "sequence=history.sequence + 1", "sequence=history.sequence + 2"),
    ("core/epochs.py", "went_back = last is not None and", "went_back = False and last is not None and"),
    ("core/states.py", "if f.silent_s > f.deadline_s:", "if f.silent_s > 2 * f.deadline_s:"),
    ("core/ownership.py", "if ownership.times_set >= 2:", "if ownership.times_set >= 3:"),
)
FLEET = (
    ("core/fleet.py", "if running[address] is not None:", "if True:"),
    ("core/fleet.py", "if running[address] is not None:", "if running[address] is None:"),
    ("core/fleet.py", "elif running[address] != mark:", "elif running[address] == mark:"),
    ("core/fleet.py", "elif running[address] != mark:", "elif running[address] is None:"),
    ("core/fleet.py", "sorted(running.keys() | seen.keys(), key=str)", "sorted(seen.keys(), key=str)"),
    (
        "core/fleet.py",
        "sorted(running.keys() | seen.keys(), key=str)",
        "sorted(running.keys() & seen.keys(), key=str)",
    ),
    ("core/fleet.py", "if holder is not None and holder != address:", "if holder is not None:"),
    ("core/fleet.py", "if holder is not None and holder != address:", "if holder == address:"),
    (
        "core/fleet.py",
        "Claims({**self.disclaim(address).holders, id: address})",
        "Claims({**self.holders, id: address})",
    ),
    ("core/fleet.py", "if holder != address})", "if holder == address})"),
)
DELIVERY = (
    (
        "core/delivery.py",
        "if delivery.closing and (not queued or delivery.failures):",
        "if delivery.closing:",
    ),
    ("core/delivery.py", "(not queued or delivery.failures)", "not queued"),
    (
        "core/delivery.py",
        "if not queued:\n        return Wait(None)",
        "if not queued:\n        return Send()",
    ),
    ("core/delivery.py", "if delivery.failures and now_ns < delivery.retry_at_ns:", "if now_ns < 0:"),
    ("core/delivery.py", "return Wait(delivery.retry_at_ns)", "return Wait(None)"),
    ("core/delivery.py", "replace(delivery, failures=0, retry_at_ns=0) if", "delivery if"),
    ("core/delivery.py", "replace(delivery, output_closed=True)", "close(delivery)"),
    ("core/delivery.py", "min(doubled_ns, settings.longest_retry_ns)", "doubled_ns"),
    ("core/delivery.py", "// (1 << 53) // 4", "// (1 << 53)"),
    (
        "core/delivery.py",
        "min(max(pause_ns, retry_after_ns), settings.longest_retry_ns)",
        "max(pause_ns, retry_after_ns)",
    ),
    ("core/delivery.py", "failures=delivery.failures + 1", "failures=1"),
)
GATHERING = (
    (
        "core/gathering.py",
        "max(gathering.pending_since_ns, gathering.retry_at_ns)",
        "gathering.pending_since_ns",
    ),
    ("core/gathering.py", "replace(gathering, pending_since_ns=None)", "gathering"),
    ("core/gathering.py", "gathering if gathering.pending_since_ns is not None else replace", "replace"),
    ("core/gathering.py", "if records < settings.enough_records:", "if True:"),
)


SIMULATED = (
    ("balloon_device.py", "if value == self.interval_s:", "if False:"),
    (
        "balloon_device.py",
        "            self.due_ms = clock_ms\n",
        "            self.due_ms = clock_ms + value * 1000\n",
    ),
    ("balloon_device.py", "            self.due_ms = clock_ms + value * 1000\n", "            pass\n"),
    (
        "balloon_device.py",
        "if value == 0:\n            self.due_ms = None",
        "if value == 0:\n            pass",
    ),
    ("balloon_device.py", "if value > INTERVAL_MAX_S:", "if value >= INTERVAL_MAX_S:"),
    ("balloon_device.py", "not -(2**63) <= value < 2**63", "False"),
    ("balloon_device.py", "if type(value) is not int or", "if not isinstance(value, int) or"),
    (
        "balloon_device.py",
        "            self.due_ms = clock_ms + self.interval_s * 1000\n            return False",
        "            return False",
    ),
    ("balloon_device.py", "        self._buffer = buffer\n", "        pass\n"),
    ("balloon_device.py", "self._buffer_to_reread = state.buffer", "self._buffer_to_reread = None"),
    ("versions.py", "NAMES[:10], False, True", "NAMES, False, True"),
    ("versions.py", "NAMES[:10], False, True", "NAMES[:10], True, True"),
    ("versions.py", "NAMES[:10], False, True", "NAMES[:10], False, False"),
    (
        "qemu.py",
        "return now.mono_ns + self._clock_ns if self.running else self._clock_ns",
        "return now.mono_ns",
    ),
    ("qemu.py", 'self._emit("RESUME", now)\n            self._run(now)', "self._run(now)"),
    ("qemu.py", 'self.run_state = "prelaunch"\n        clock_ns', "pass\n        clock_ns"),
    (
        "qemu.py",
        'self._emit("DEVICE_DELETED", now, {"path"',
        'self._emit("DEVICE_DELETED", now, {"device"',
    ),
    ("qemu.py", 'raise Refused("Only one balloon device is supported")', "pass"),
    ("qemu.py", 'self.run_state = "postmigrate"', 'self.run_state = "paused"'),
    ("qemu.py", "self.guest = copy.deepcopy(saved.guest)", "pass"),
    ("qmp_events.py", "elif mono_ns < self._limited_until_ns.get(name, 0):", "elif False:"),
    ("qmp_session.py", "        self._qemu.events.subscribers.append(self._send)\n", ""),
    ("qemu_process.py", "listener.listen(1)", "listener.listen(8)"),
    ("host.py", "await process.may_accept.wait()", "pass"),
    ("json_stream.py", 'raise Malformed("JSON parse error, duplicate key")', "pass"),
)


SPOOL = (
    (
        "spool/store.py",
        'self._delete(queue, "position <= ?", position)',
        'self._delete(queue, "position <= ?", position + 1)',
    ),
    ("spool/store.py", "self._remember(change)", "None if change.records else self._remember(change)"),
    (
        "spool/store.py",
        "self._insert(DEAD_LETTERS, [_dead_letter_row(each) for each in change.refused])",
        "pass",
    ),
    ("spool/store.py", "self._rows = rows_before", "pass"),
    (
        "spool/disk.py",
        "queue.front.extendleft(reversed(queue.committing))",
        "queue.front.extendleft(queue.committing)",
    ),
    ("spool/disk_queue.py", "self.rows -= len(rows)", "pass"),
    ("spool/disk.py", "await self._thread.run(partial(mark_stale, self._path))", "pass"),
    ("spool/disk.py", "async with self._marking_stale:", "if True:"),
    ("spool/disk.py", "if not self._is_current and not self._sent_from_memory:", "if not self._is_current:"),
    (
        "spool/disk.py",
        "            queue.rows += len(queue.committing)\n",
        "            queue.rows += len(queue.front)\n",
    ),
    ("spool/disk_queue.py", "self.settled = self._taken[-1][0]", "self.settled = self._read_to + 1"),
    ("runtime/deliver.py", "len(batch) - len(refused), reason", "len(batch), reason"),
    (
        "runtime/deliver.py",
        "except SinkUnavailable as error:\n",
        "except SinkUnavailable as error:\n            await self._queue.settle(())\n",
    ),
)


MODELS = {
    "spool": SPOOL,
    "polling": POLLING,
    "fleet": FLEET,
    "delivery": DELIVERY,
    "gathering": GATHERING,
    "simulated": SIMULATED,
}

CORE_TESTS = ("tests/unit/core", "tests/model")
SPOOL_TESTS = ("tests/model/test_spool_model.py",)
SIMULATED_TESTS = (
    "tests/integration/test_hypervisor_contract.py",
    "tests/integration/test_hypervisor_contract_monitor.py",
    "tests/integration/test_hypervisor_contract_devices.py",
    *("-k", "simulated", "-n", "3"),
)
TESTS = {"spool": SPOOL_TESTS, "simulated": SIMULATED_TESTS}


def package(model: str) -> str:
    """Return the package that the paths of a model's faults are relative to."""
    return "simulator" if model == "simulated" else "agent"


def caught_by(file: Path, old: str, new: str, tests: Sequence[str]) -> str | None:
    """Return the test that fails with the fault in place; `None`: none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("agent", "simulator", "schemas", "tests"):
            shutil.copytree(
                ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "pyproject.toml", copy)
        target = copy / file
        text = target.read_text()
        if old not in text:
            raise SystemExit(f"{file} has no {old!r} any more: mend the list")
        target.write_text(text.replace(old, new, 1))
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-p",
                "no:cacheprovider",
                *tests,
            ],
            check=False,
            capture_output=True,
            text=True,
            cwd=copy,
            env=os.environ | {"BAROGRAPH_HYPOTHESIS": "seeded"},
            timeout=600,
        )
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split("::", 1)[-1] if failed else None


def main() -> int:
    """Print a line for each fault; return how many were not caught."""
    missed = 0
    for model, faults in MODELS.items():
        for file, old, new in faults if model in (sys.argv[1:] or MODELS) else ():
            test = caught_by(Path(package(model), file), old, new, TESTS.get(model, CORE_TESTS))
            missed += test is None
            print(
                f"| {model} | `{old.splitlines()[0]}` → `{new.partition(chr(10))[0]}` | {test or 'NOT CAUGHT'} |",
                flush=True,
            )
    return missed


if __name__ == "__main__":
    sys.exit(main())
