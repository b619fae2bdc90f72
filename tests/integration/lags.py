"""Measure the agent's lag on healthy guests against what a second monitor shows."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.integration.watching import Lines
from tests.lab import qemu
from tests.lab.agent import agent
from tests.lab.bench import arrived
from tests.lab.measure import STEADY_AFTER, compare, quantile
from tests.lab.observer import Observer


def _nothing(_: Lines) -> None:
    """Do nothing: the default of the hooks."""


def lag_p99_ms(
    folder: Path,
    vms: Sequence[qemu.Vm],
    seconds: float,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    steady_after: int = STEADY_AFTER,
    once_reporting: Callable[[Lines], None] = _nothing,
    before_the_end: Callable[[Lines], None] = _nothing,
) -> float:
    """Run an agent on all monitors in `folder`; return the p99 lag of `vms`, without their first samples.

    Assert that every update of `vms` arrives and is right.
    """
    run = folder / f"{time.monotonic_ns()}"
    run.mkdir()
    observer = Observer([vm.truth for vm in vms], run)
    told = {"BAROGRAPH_LINES__ENABLED": "true", **(env or {})}
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", *arguments)
    with agent(run, *words, env=told) as process:
        lines = Lines(process)
        for vm in vms:
            lines.wait_for_state(vm.qmp, "reporting")
        once_reporting(lines)
        time.sleep(steady_after + 1 + seconds)
        until_ms = time.time() * 1000 - 300
        time.sleep(1)  # for the agent to read the last update
        before_the_end(lines)
        assert process.stop() == 0
        shown = observer.stop()
        samples = arrived(process.stdout.read_text().splitlines())
    found = [
        compare(shown[vm.truth], samples[vm.name], until_ms=until_ms, steady_after=steady_after) for vm in vms
    ]
    assert [(each.lost, each.wrong, each.repeated) for each in found] == [((), (), ())] * len(vms)
    assert samples.keys() == {vm.name for vm in vms}  # other monitors in the folder yield no samples
    return quantile([lag for each in found for lag in each.lags_ms], 0.99)
