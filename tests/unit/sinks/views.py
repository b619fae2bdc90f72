"""Values of the board for tests."""

from collections.abc import Mapping

from agent.contract.payloads import Agent
from agent.core.address import Address, MonitorPath
from agent.core.pressure import PressureComponent, PressureLevel, Run, VmPressure
from agent.core.psi import Psi, Stall
from agent.core.reading import (
    Balloon,
    CgroupMemory,
    Configured,
    EpochEnd,
    Origin,
    ProcessMemory,
    Sample,
    State,
    StateEvent,
    VmId,
    VmIdentity,
    VmMemory,
    VmView,
)

AGENT = Agent(host_id="host-1", host_name="node-7", run="run-1", version="1.2.3")
SECOND_NS = 1_000_000_000
ADDRESS = MonitorPath("/run/vm/1.sock")
T0_S = 1_795_404_000


def vm(id: str = "vm-1", name: str | None = "web-3", labels: Mapping[str, str] | None = None) -> VmIdentity:
    """Return a VM with a uuid."""
    return VmIdentity(VmId(id), "uuid", id, name, labels or {})


def sample(
    at_s: int = T0_S,
    *,
    sequence: int = 1,
    epoch: str = "epoch-1",
    epoch_start_s: int = T0_S,
    previous: EpochEnd | None = None,
    of: VmIdentity | None = None,
    address: Address = ADDRESS,
    statistics: Mapping[str, int] | None = None,
) -> Sample:
    """Return a sample with `last_update` at `at_s`."""
    return Sample(
        vm=of or vm(),
        address=address,
        epoch=epoch,
        epoch_start_s=epoch_start_s,
        sequence=sequence,
        previous=previous,
        last_update_s=at_s,
        observed_at_ms=at_s * 1000 + 3,
        origin=Origin.POLL,
        missed_at_most=0,
        interval_s=10,
        run_state="running",
        balloon=None,
        statistics=statistics or {"free_memory": 1, "major_faults": 2},
    )


def view(
    newest: Sample | None = None,
    *,
    of: VmIdentity | None = None,
    unknown: bool = False,
    path: str = "/run/vm/1.sock",
    address: Address | None = None,
    state: State = State.REPORTING,
    since_ms: int = 0,
    interval_s: int | None = 10,
    last_update_s: int | None = None,
    balloon: Balloon | None = None,
) -> VmView:
    """Return what the board shows of one VM; with `unknown`, of one that is not identified yet."""
    who = None if unknown else of or (newest.vm if newest else vm())
    event = StateEvent(
        vm=who,
        address=address or MonitorPath(path),
        sequence=1,
        state=state,
        reason="",
        detail="",
        since_ms=since_ms,
        observed_at_ms=0,
        previous_state=None,
        heartbeat=False,
        next_heartbeat_by_ms=0,
        epoch=None,
        last_sequence=None,
        last_update_s=last_update_s,
        interval_s=interval_s,
        run_state=None,
    )
    return VmView(event, newest, balloon)


def pressure(
    newest: Sample,
    level: PressureLevel = PressureLevel.PRESSURE,
    score: float | None = 0.75,
    components: Mapping[PressureComponent, float] | None = None,
) -> VmPressure:
    """Return the pressure of a VM after its newest sample."""
    return VmPressure(
        level=level,
        since_s=newest.last_update_s - 60,
        score=score,
        components=components or {},
        last_update_s=newest.last_update_s,
        epoch=newest.epoch,
        statistics=newest.statistics,
        low=Run(),
        pressure=Run(),
        oom_at_s=None,
    )


def memory(observed_at_ms: int, *, cgroup: str = "/a.scope", total_us: int = 0) -> VmMemory:
    """Return the memory of `vm()`: 5 GiB configured 7 s before, 3 GiB resident, a cgroup with pressure."""
    return VmMemory(
        vm=vm(),
        address=MonitorPath("/run/vm/web-3.qmp"),
        sequence=1,
        observed_at_ms=observed_at_ms,
        interval_s=60,
        state=State.REPORTING,
        configured=Configured(4 << 30, 1 << 30, observed_at_ms - 7_000),
        balloon=None,
        deflate_on_oom=True,
        process=ProcessMemory(3 << 30, 0, None, observed_at_ms),
        cgroup=CgroupMemory(
            cgroup, 3 << 30, None, 0, Psi(Stall(0.0, 0.0, 0.0, total_us), None), observed_at_ms
        ),
    )
