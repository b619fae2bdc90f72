"""One VM that hangs, floods or lies costs only itself."""

import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.watching import Lines
from tests.lab import qemu
from tests.lab.agent import agent
from tests.lab.bench import arrived
from tests.lab.hostile import hostile
from tests.lab.measure import compare, quantile
from tests.lab.observer import Observer

pytestmark = [
    pytest.mark.guest,
    pytest.mark.alone,
    pytest.mark.usefixtures("real_qemu"),
    pytest.mark.timeout(900),
]

LEARNT_S = 16


def lag_p99_ms(folder: Path, vms: list[qemu.Vm], seconds: float, *, disturbed: bool) -> float:
    """Run an agent over the guests, with or without bad neighbours; return the guests' lag."""
    run = folder / f"{time.monotonic_ns()}"
    run.mkdir()
    neighbours = ("frozen", "flood", "garbage") if disturbed else ()
    with ExitStack() as stack:
        frozen = stack.enter_context(qemu.bare(folder, "frozen")) if disturbed else None
        if disturbed:
            for kind in ("flood", "garbage"):
                stack.enter_context(hostile(kind, folder / f"{kind}.qmp"))
        observer = Observer([vm.truth for vm in vms], run)
        process = stack.enter_context(agent(run, "--monitor", f"{folder}/*.qmp", "--interval", "1s"))
        lines = Lines(process)
        for vm in vms:
            lines.wait_for_state(vm.qmp, "reporting")
        if frozen is not None:
            lines.wait_for_state(frozen.qmp, "no-balloon")
            frozen.freeze()
        time.sleep(LEARNT_S + seconds)
        until_ms = time.time() * 1000 - 300
        said = {name: lines.words(folder / f"{name}.qmp") for name in neighbours}
        if frozen is not None:
            frozen.thaw()
        assert process.stop() == 0
        shown = observer.stop()
        samples = arrived(process.stdout.read_text().splitlines())
    found = [compare(shown[vm.truth], samples[vm.name], until_ms=until_ms) for vm in vms]
    assert [(each.lost, each.wrong, each.repeated) for each in found] == [((), (), ())] * len(vms)
    if disturbed:
        assert ("unreachable", "flooding") in said["flood"]
        assert samples.keys() == {vm.name for vm in vms}  # nothing of what garbage says is a sample
        assert said["garbage"][-1][0] != "reporting"
    return quantile([lag for each in found for lag in each.lags_ms], 0.99)


def compare_runs(folder: Path, pairs: int, seconds: float) -> tuple[float, float]:
    with ExitStack() as stack:
        vms = [stack.enter_context(qemu.guest(folder, f"g{number}")) for number in range(2)]
        quiet: list[float] = []
        noisy: list[float] = []
        for _ in range(pairs):
            quiet.append(lag_p99_ms(folder, vms, seconds, disturbed=False))
            noisy.append(lag_p99_ms(folder, vms, seconds, disturbed=True))
    print(f"lag p99 undisturbed {quiet} ms, beside bad neighbours {noisy} ms")
    return statistics.median(quiet), statistics.median(noisy)


def test_bad_neighbours_do_not_hide_a_healthy_vm(folder: Path) -> None:
    quiet_ms, noisy_ms = compare_runs(folder, 1, 10)

    # One short pair: the p99 is its one worst sample. The figure itself is the long form's.
    assert noisy_ms <= 1.1 * quiet_ms + 150


@pytest.mark.long
def test_bad_neighbours_leave_the_lag_of_healthy_vms(folder: Path) -> None:
    quiet_ms, noisy_ms = compare_runs(folder, 5, 30)

    assert noisy_ms <= 1.1 * quiet_ms + 5
