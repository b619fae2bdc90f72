"""Ten one-line faults for each model, each of which the tests must catch: `python -m tests.model.seeded_faults`.

Each fault is made in a copy of the tree, and the core's unit and model tests are run there until one fails.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

POLLING = (
    (
        "core/polling.py",
        "missed = max(gap_ns // interval_ns - 1, 0)",
        "missed = max(gap_ns // interval_ns, 0)",
    ),
    (
        "core/polling.py",
        "return replace(p, phase=replace(p.phase, overdue=True))",
        "return replace(p, phase=Idle())",
    ),
    ("core/polling.py", "if wish.set_to_s is None and wish.ownership", "if wish.ownership"),
    (
        "core/asking.py",
        "Question.SET_INTERVAL if p.remembered else Question.REMEMBER",
        "Question.SET_INTERVAL",
    ),
    ("core/polling.py", "return replace(p, run_state=None)  #", "return p  #"),
    (
        "core/polling.py",
        "quiet_since_ns=p.watched.read(now.mono_ns),\n        advancing=not first",
        "advancing=not first",
    ),
    ("core/epochs.py", "sequence=history.sequence + 1", "sequence=history.sequence + 2"),
    ("core/epochs.py", "went_back = last is not None and", "went_back = False and last is not None and"),
    ("core/states.py", "if f.quiet_for_s > f.deadline_s:", "if f.quiet_for_s > 2 * f.deadline_s:"),
    ("core/ownership.py", "if ownership.times_set >= 2:", "if ownership.times_set >= 3:"),
)
FLEET = (
    ("core/fleet.py", "if running[path] is not None:", "if True:"),
    ("core/fleet.py", "if running[path] is not None:", "if running[path] is None:"),
    ("core/fleet.py", "elif running[path] != mark:", "elif running[path] == mark:"),
    ("core/fleet.py", "elif running[path] != mark:", "elif running[path] is None:"),
    ("core/fleet.py", "sorted(running.keys() | seen.keys())", "sorted(seen.keys())"),
    ("core/fleet.py", "sorted(running.keys() | seen.keys())", "sorted(running.keys() & seen.keys())"),
    ("core/fleet.py", "if holder is not None and holder != path:", "if holder is not None:"),
    ("core/fleet.py", "if holder is not None and holder != path:", "if holder == path:"),
    (
        "core/fleet.py",
        "Claims({**self.disclaim(path).holders, id: path})",
        "Claims({**self.holders, id: path})",
    ),
    ("core/fleet.py", "if holder != path})", "if holder == path})"),
)
DELIVERY = (
    (
        "core/delivery.py",
        "if delivery.closing and (not waiting or delivery.failures):",
        "if delivery.closing:",
    ),
    ("core/delivery.py", "(not waiting or delivery.failures)", "not waiting"),
    (
        "core/delivery.py",
        "if not waiting:\n        return Wait(None)",
        "if not waiting:\n        return Send()",
    ),
    ("core/delivery.py", "if delivery.failures and now_ns < delivery.retry_at_ns:", "if now_ns < 0:"),
    ("core/delivery.py", "return Wait(delivery.retry_at_ns)", "return Wait(None)"),
    ("core/delivery.py", "replace(delivery, failures=0, retry_at_ns=0)", "delivery"),
    ("core/delivery.py", "min(doubled_ns, settings.longest_retry_ns)", "doubled_ns"),
    ("core/delivery.py", "// (1 << 53) // 4", "// (1 << 53)"),
    (
        "core/delivery.py",
        "min(max(pause_ns, retry_after_ns), settings.longest_retry_ns)",
        "max(pause_ns, retry_after_ns)",
    ),
    ("core/delivery.py", "failures=delivery.failures + 1", "failures=1"),
)


def caught_by(file: str, old: str, new: str) -> str | None:
    """Return the test that fails with the fault in place; `None`: none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("agent", "schemas", "tests"):
            shutil.copytree(
                ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "pyproject.toml", copy)
        target = copy / "agent" / file
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
                "tests/unit/core",
                "tests/model",
            ],
            check=False,
            capture_output=True,
            text=True,
            cwd=copy,
            timeout=600,
        )
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split("::", 1)[-1] if failed else None


def main() -> int:
    """Print a line for each fault; return how many were not caught."""
    missed = 0
    for model, faults in (("polling", POLLING), ("fleet", FLEET), ("delivery", DELIVERY)):
        for file, old, new in faults:
            test = caught_by(file, old, new)
            missed += test is None
            print(
                f"| {model} | `{old.splitlines()[0]}` → `{new.splitlines()[0]}` | {test or 'NOT CAUGHT'} |",
                flush=True,
            )
    return missed


if __name__ == "__main__":
    sys.exit(main())
