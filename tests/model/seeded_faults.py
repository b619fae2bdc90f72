"""Faults of one line, seeded on purpose: the tests must catch every one.

`python -m tests.model.seeded_faults [MODEL...]` seeds each in a copy of the tree, runs the model's tests
there until one fails, and prints a table row with that test. `integration/test_seeded_faults.py` asserts that
every fault is caught.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]

POLLING = (
    (
        "// (interval_s * SECOND_NS) - 1, 0)",
        "// (interval_s * SECOND_NS), 0)",
    ),
    (
        "return replace(p, phase=replace(p.phase, overdue=True))",
        "return replace(p, phase=Idle())",
    ),
    ("if wish.set_to_s is None and wish.ownership", "if wish.ownership"),
    (
        "Question.SET_INTERVAL if p.interval.recorded else Question.REMEMBER",
        "Question.SET_INTERVAL",
    ),
    (
        "  # the clock stops now; the check reads the run state\n            return replace(p, process=replace(p.process, run_state=None))",
        "\n            return p",
    ),
    (
        "silent_since_ns=p.observed.read(turn.mono_ns),\n        advancing=not first",
        "advancing=not first",
    ),
    ("sequence=history.sequence + 1", "sequence=history.sequence + 2"),
    ("went_back = last is not None and", "went_back = False and last is not None and"),
    ("if f.silent_s > f.deadline_s:", "if f.silent_s > 2 * f.deadline_s:"),
    ("if ownership.times_set >= 2:", "if ownership.times_set >= 3:"),
    ("told and len(witnesses) >= len(unexplained):", "told:"),
    (" and name not in SAME_AT_EACH_BOOT\n", "\n"),
    ("return any(wrap * 3 // 4 <= before < wrap and after < wrap // 4 for wrap in WRAPS)", "return False"),
    ("restarted=True, fell=fell | fell_before)", "restarted=True, fell=fell)"),
    ("if rises < GROWN_AGAIN}", "if True}"),
    ("guest_reset=True), no_counters=no_counters, fell", "guest_reset=True), fell"),
)
FLEET = (
    ("if running[address] is not None and", "if"),
    ("if running[address] is not None and", "if running[address] is None and"),
    ("is not None and address not in unknown:", "is not None:"),
    ("PathRefused() if address in refused else PathMissing()", "PathMissing()"),
    ("if fleet.watched[address] is None:", "if False:"),
    ("elif running[address] != mark:", "elif running[address] == mark:"),
    ("elif running[address] != mark:", "elif running[address] is None:"),
    ("sorted(running.keys() | seen.keys(), key=str)", "sorted(seen.keys(), key=str)"),
    (
        "sorted(running.keys() | seen.keys(), key=str)",
        "sorted(running.keys() & seen.keys(), key=str)",
    ),
    ("if holder is not None and holder.address != address:", "if holder is not None:"),
    ("shares = active and holder", "shares = holder"),
    ("if not (returns or (shares and not holder.active)):", "if True:"),
    ("if not (returns or (shares and not holder.active)):", "if not (shares and not holder.active):"),
    ("if not (returns or (shares and not holder.active)):", "if not (returns or shares):"),
    ("returns = active and owner", "returns = owner"),
    ("return owner in (ROOT, self.owner)", "return True"),
    ("contested=shares)", "contested=active)"),
    ("now_ns - holder.since_ns >= SETTLED_NS", "False"),
    ("elif first is not None or", "elif"),
    (
        "or (holder is not None and holder.address != address):\n            return self.owners",
        ":\n            return self.owners",
    ),
    ("{**left.claims.holders, id:", "{**self.holders, id:"),
    ("freed = freed if holder.active and not active else ()", "freed = ()"),
    (
        "for id, holder in self.holders.items() if holder.address != address}",
        "for id, holder in self.holders.items()}",
    ),
    ("        if limit is None:", "        if True:"),
    ("-most[kind][0][0] <= has[owner_of[address]]", "-most[kind][0][0] < has[owner_of[address]]"),
    ("        if number < waited_for:", "        if False:"),
    (".pop())\n        if held_by", ".pop(0))\n        if held_by"),
    ("if not left_out and not fleet.left_out:", "if not left_out:"),
    ("watched[following] = left_out.pop(following)", "watched[following] = left_out[following]"),
    ("if newest_mark not in (None, excluded_mark):", "if False:"),
    ("if seen.get(address) == mark or address in unknown", "if address in seen"),
)
DELIVERY = (
    (
        "if delivery.closing and (not queued or delivery.failures):",
        "if delivery.closing:",
    ),
    ("(not queued or delivery.failures)", "not queued"),
    (
        "if not queued:\n        return Wait(None)",
        "if not queued:\n        return Send()",
    ),
    ("if delivery.failures and now_ns < delivery.retry_at_ns:", "if now_ns < 0:"),
    ("return Wait(delivery.retry_at_ns)", "return Wait(None)"),
    ("replace(delivery, failures=0, retry_at_ns=0) if", "delivery if"),
    ("replace(delivery, output_closed=True)", "close(delivery)"),
    ("min(doubled_ns, settings.longest_retry_ns)", "doubled_ns"),
    ("// (1 << 53) // 2", "// (1 << 53)"),
    ("if now_ns < delivery.next_at_ns and not delivery.closing:", "if now_ns < 0:"),
    ("if now_ns < delivery.next_at_ns and not delivery.closing:", "if now_ns < delivery.next_at_ns:"),
    ("int(records * SECOND_NS / per_s)", "0"),
    ("BACKLOG_TIMES_NEW * delivery.arrivals_per_s", "0"),
    ("min(max(int(per_s), 2 * of_a_linger, 1), sink_max)", "sink_max"),
    (
        "min(max(pause_ns, retry_after_ns), settings.longest_retry_ns)",
        "max(pause_ns, retry_after_ns)",
    ),
    ("failures=delivery.failures + 1", "failures=1"),
)
GATHERING = (
    (
        "max(gathering.pending_since_ns, gathering.retry_at_ns)",
        "gathering.pending_since_ns",
    ),
    ("replace(gathering, pending_since_ns=None)", "gathering"),
    ("gathering if gathering.pending_since_ns is not None else replace", "replace"),
    ("if records < settings.enough_records:", "if True:"),
)


SIMULATED = (
    ("if value == self.interval_s:", "if False:"),
    (
        "            self.due_ms = clock_ms\n",
        "            self.due_ms = clock_ms + value * 1000\n",
    ),
    ("            self.due_ms = clock_ms + value * 1000\n", "            pass\n"),
    (
        "if value == 0:\n            self.due_ms = None",
        "if value == 0:\n            pass",
    ),
    ("if value > INTERVAL_MAX_S:", "if value >= INTERVAL_MAX_S:"),
    ("not -(2**63) <= value < 2**63", "False"),
    ("if type(value) is not int or", "if not isinstance(value, int) or"),
    (
        "            self.due_ms = clock_ms + self.interval_s * 1000\n            return False",
        "            return False",
    ),
    ("        self._buffer = buffer\n", "        pass\n"),
    ("self._buffer_to_reread = state.buffer", "self._buffer_to_reread = None"),
    ("NAMES[:10], False, True", "NAMES, False, True"),
    ("NAMES[:10], False, True", "NAMES[:10], True, True"),
    ("NAMES[:10], False, True", "NAMES[:10], False, False"),
    (
        "return now.mono_ns + self._clock_ns if self.running else self._clock_ns",
        "return now.mono_ns",
    ),
    ('self._emit("RESUME", now)\n            self._run(now)', "self._run(now)"),
    ('self.run_state = "prelaunch"\n        clock_ns', "pass\n        clock_ns"),
    (
        'self._emit("DEVICE_DELETED", now, {"path"',
        'self._emit("DEVICE_DELETED", now, {"device"',
    ),
    ('raise Refused("Only one balloon device is supported")', "pass"),
    ('self.run_state = "postmigrate"', 'self.run_state = "paused"'),
    ("self.guest = copy.deepcopy(saved.guest)", "pass"),
    ("elif mono_ns < self._limited_until_ns.get(name, 0):", "elif False:"),
    ("        self._qemu.events.subscribers.append(self._send)\n", ""),
    ("listener.listen(1)", "listener.listen(8)"),
    ("await process.may_accept.wait()", "pass"),
    ('raise Malformed("JSON parse error, duplicate key")', "pass"),
)


SPOOL = (
    (
        'self._delete(connection, "first <= ? AND last <= ?", position, position)',
        'self._delete(connection, "first <= ? AND last <= ? + 1", position, position)',
    ),
    ("        self.settled = position\n", ""),
    ("after = max(after, self.settled)", "pass"),
    ("self._remember(change)", "None if change.records else self._remember(change)"),
    ("self._keep_letters(change.refused)", "pass"),
    ("self._tables, self._letters = tables, letters", "pass"),
    (
        "queue.front.extendleft(reversed(queue.committing))",
        "queue.front.extendleft(queue.committing)",
    ),
    ("self.rows -= len(self._taken)", "pass"),
    ("await self._thread.run(partial(mark_stale, self._path))", "pass"),
    ("async with self._marking_stale:", "if True:"),
    ("if not self._is_current and not self._sent_from_memory:", "if not self._is_current:"),
    ("        self.rows += len(rows)\n", "        self.rows += len(self.front)\n"),
    ("self.settled = self._taken[-1][0]", "self.settled = self._known_to + 1"),
    ("len(batch) - len(refused) - sum", "len(batch) - sum"),
    (
        "except SinkUnavailable as error:\n",
        "except SinkUnavailable as error:\n            await self._queue.settle(())\n",
    ),
)
STREAMS = (
    (
        "sequence <= epoch.highest:\n        return Outcome.REPEAT",
        "sequence < epoch.highest:\n        return Outcome.REPEAT",
    ),
    ("epoch.first, epoch.highest = sequence, sequence - 1", "pass"),
    ("state.lost += _advance(ended, sample.previous.sequence)", "_advance(ended, sample.previous.sequence)"),
    ("elif is_new and epoch.first <= sequence <= epoch.highest:", "elif is_new:"),
    ("if epoch is None and sample.redelivered:", "if False:"),
    ("state.unopened.pop(sample.epoch, None) or _new_epoch()", "_new_epoch()"),
    ("    if to <= after:\n        return 0\n    epoch.highest", "    epoch.highest"),
    ("if next(reversed(epochs)) == sample.epoch else Outcome.SUPERSEDED", "if True else Outcome.SUPERSEDED"),
    ("if reading.outcome is Outcome.KEPT and sample.is_polled:", "if reading.outcome is Outcome.KEPT:"),
    ("_forget_oldest(epochs, EPOCHS_KEPT)", "pass"),
    ("is_gap = elapsed_s > GAP_MAX_S", "is_gap = False"),
    ("        if epoch == before.epoch:\n            *rises", "        if True:\n            *rises"),
    ("return document if key == document.vm.id else Outcome.KEY", "return document"),
    ("if known is not None and known.run == view.run and", "if known is not None and"),
    ("return self.state == GONE or now_ms", "return now_ms"),
    ("if now_ms - state.timer_ms > GRACE_MS:", "if False:"),
    ("state.judged_from_ms = 0 if view.is_valid(now_ms) else now_ms + GRACE_MS", "state.judged_from_ms = 0"),
    (
        "    for view in reversed(valid):\n        if view.state == REPORTING:",
        "    for view in valid[-1:]:\n        if view.state == REPORTING:",
    ),
    ("    if document.redelivered:\n", "    if False:\n"),
    ("if memory is None or memory.epoch != sample.epoch:", "if memory is None:"),
    ("leaking = rise >= RISE_MIN * total and", "leaking = rise > 0 and"),
    ("slope = median(slopes)", "slope = slopes[-1]"),
    ("0.5 ** max(0, newest - day.day)", "1.0"),
    ("used = after_oom(used)", "pass"),
    ("if memory.last_update_s - sample.last_update > DAY_S:", "if True:"),
)


@dataclass(frozen=True)
class Model:
    """A set of faults, where to seed them, and the tests that must catch them, in the order they run."""

    places: Sequence[str]
    tests: Sequence[str]
    faults: Sequence[tuple[str, str]]


CORE = ("agent/core",)
MODELS: Mapping[str, Model] = {
    "polling": Model(
        CORE,
        # The stories come first: if several tests fail, their names show which behavior is broken.
        (
            "tests/unit/core/test_stories.py",
            "tests/unit/core/test_falling.py",
            "tests/unit/core/test_ownership.py",
            "tests/unit/core/test_matrix.py",
            "tests/model/test_polling_model.py",
        ),
        POLLING,
    ),
    "fleet": Model(CORE, ("tests/unit/core/test_fleet.py", "tests/model/test_fleet_model.py"), FLEET),
    "delivery": Model(
        CORE, ("tests/unit/core/test_delivery.py", "tests/model/test_delivery_model.py"), DELIVERY
    ),
    "gathering": Model(CORE, ("tests/unit/core/test_gathering.py",), GATHERING),
    "spool": Model(("agent/spool", "agent/runtime"), ("tests/model/test_spool_model.py",), SPOOL),
    "streams": Model(
        ("streams",),
        (
            "tests/unit/streams/test_documents.py",
            "tests/unit/streams/test_reader.py",
            "tests/unit/streams/test_pressure.py",
            "tests/unit/streams/test_pressure_job.py",
            "tests/unit/streams/test_quality.py",
            "tests/unit/streams/test_leak.py",
            "tests/unit/streams/test_right_size.py",
            "tests/unit/streams/test_every_job.py",
            "tests/model/test_streams_model.py",
        ),
        STREAMS,
    ),
    "simulated": Model(
        ("simulator",),
        (
            "tests/integration/test_hypervisor_contract.py",
            "tests/integration/test_hypervisor_contract_monitor.py",
            "tests/integration/test_hypervisor_contract_devices.py",
            "tests/unit/simulator",  # last: they catch what no contract case reliably shows
            *("-k", "simulated or simulator", "-n", "3"),
        ),
        SIMULATED,
    ),
}
"""Each set of faults. A quote is the line to change; it must occur once in the model's places."""


def place_of(model: Model, old: str) -> Path:
    """Return the file, relative to the tree, that contains the quote.

    Raises:
        LookupError: no file contains it, or it occurs more than once.
    """
    files = [file for place in model.places for file in sorted((ROOT / place).rglob("*.py"))]
    counts = {file.relative_to(ROOT): file.read_text().count(old) for file in files}
    if sum(counts.values()) != 1:
        found = [str(file) for file, count in counts.items() if count]
        raise LookupError(f"{old!r} must occur once in {' or '.join(model.places)}; it is in {found}")
    return next(file for file, count in counts.items() if count)


def caught_by(model: Model, old: str, new: str) -> str | None:
    """Return the test that fails with the fault seeded, or `None` if all pass.

    Raises:
        LookupError: the quote does not occur once.
        RuntimeError: no test ran to an end, for example because the fault is not valid Python.
    """
    place = place_of(model, old)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
        for name in sorted(packages | {"docs", "schemas", "streams", "tests"}):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", copy)
        target = copy / place
        target.write_text(target.read_text().replace(old, new))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *model.tests],
            check=False,
            capture_output=True,
            text=True,
            cwd=copy,
            env=os.environ
            | {"BAROGRAPH_HYPOTHESIS": "seeded", "PYTHONHASHSEED": "0"},  # the same histories each time
            timeout=1800,
        )
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if failed:
        return failed[0].split("::", 1)[-1]
    if done.returncode:
        raise RuntimeError(
            f"no test failed, but pytest exited with {done.returncode}:\n{done.stdout[-2000:]}"
        )
    return None


def shown(old: str, new: str) -> str:
    """Return a change as a table shows it: the first line that differs, before and after."""
    pairs = zip_longest(old.splitlines(), new.splitlines(), fillvalue="")
    lines = next(pair for pair in pairs if pair[0] != pair[1])
    return " → ".join(f"`{line.strip()}`" if line else "nothing" for line in lines).replace("|", r"\|")


def main() -> int:
    """Print a table row for each fault; return how many are not caught."""
    missed = 0
    for name, model in MODELS.items():
        for old, new in model.faults if name in (sys.argv[1:] or MODELS) else ():
            test = caught_by(model, old, new)
            missed += test is None
            print(f"| {name} | {shown(old, new)} | {test or 'NOT CAUGHT'} |", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
