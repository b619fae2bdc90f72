"""How late the agent reads healthy guests, against a second monitor's truth."""

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
    """What happens where nothing is told to happen."""


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
    """Run an agent over all monitors in `folder`; return the lag of `vms`, but for their first samples.

    Every update of theirs must arrive, and be right.
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
        time.sleep(1)  # in which the last one is read
        before_the_end(lines)
        assert process.stop() == 0
        shown = observer.stop()
        samples = arrived(process.stdout.read_text().splitlines())
    found = [
        compare(shown[vm.truth], samples[vm.name], until_ms=until_ms, steady_after=steady_after) for vm in vms
    ]
    assert [(each.lost, each.wrong, each.repeated) for each in found] == [((), (), ())] * len(vms)
    assert samples.keys() == {vm.name for vm in vms}  # nothing that others say is a sample
    return quantile([lag for each in found for lag in each.lags_ms], 0.99)
