"""Hypothesis strategies for everything that the agent decodes or encodes."""

from uuid import UUID

from hypothesis import strategies as st

from agent.contract.decode import EXACT_MAX, LAST_UPDATE_MAX_S
from agent.contract.payloads import Agent
from agent.contract.statistics import KNOWN_STATISTICS
from agent.core.address import Domain, MonitorPath
from agent.core.agent_state import AgentEvent, AgentPhase
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
)
from agent.core.states import Reason
from agent.errors import LinkFault

# --- answers of QEMU, or of a peer that claims to be QEMU ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)

WIRE_NAMES = st.sampled_from(
    [
        *(known.wire_name for known in KNOWN_STATISTICS.values()),
        "stat-psi-some-10",
        "psi-some-10",
        "stat-psi_some_10",
        "free-memory",
        "stat-free_memory",
        "stat-",
        "",
        "stat-Free",
        "stat-9",
        "stat-" + "n" * 64,
        "stat-" + "n" * 65,
        "\ud800",
    ]
)
VALUES = (
    st.sampled_from([0, 1, EXACT_MAX, EXACT_MAX + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, -(2**63)])
    | st.integers(0, 1 << 40)
    | JSON
)
LAST_UPDATES = (
    st.sampled_from([0, 1, 1795404146, LAST_UPDATE_MAX_S, LAST_UPDATE_MAX_S + 1, 2**64 - 1, 10**5000]) | JSON
)
ANSWERS = JSON | st.fixed_dictionaries(
    {},
    optional={
        "stats": st.dictionaries(WIRE_NAMES, VALUES, max_size=24) | JSON,
        "last-update": LAST_UPDATES,
        "else": JSON,
    },
)

# --- what the core emits ---

# Text from outside can be anything: with lone surrogates, control characters, or longer than any bound.
TEXT = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["\ud800", "\x00\x1b[2J", "n" * 5000, "\u2028"]
)
UUIDS = st.uuids().map(str)
MS = st.integers(0, LAST_UPDATE_MAX_S * 1000 + 999)
SECONDS = st.integers(1, LAST_UPDATE_MAX_S)
COUNTS = st.integers(0, EXACT_MAX)
SEQUENCES = st.integers(1, EXACT_MAX)
INTERVALS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(sorted(KNOWN_STATISTICS)) | st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True)

AGENTS = st.builds(
    Agent,
    host_id=st.uuids().map(lambda uuid: uuid.hex),
    host_name=st.text(min_size=1, max_size=64),
    run=UUIDS,
    version=st.just("0.1.0"),
)


def _vm(uuid: UUID | None, path_id: UUID, name: str | None, labels: dict[str, str]) -> VmIdentity:
    if uuid is None:
        return VmIdentity(VmId(str(path_id)), "path", None, name, labels)
    return VmIdentity(VmId(str(uuid)), "uuid", str(uuid), name, labels)


VMS = st.builds(
    _vm,
    st.none() | st.uuids(),
    st.uuids(),
    st.none() | TEXT,
    st.dictionaries(TEXT, TEXT, max_size=3),
)

ADDRESSES = st.builds(MonitorPath, TEXT.filter(bool)) | st.builds(Domain, TEXT, UUIDS)

SAMPLES = st.builds(
    Sample,
    vm=VMS,
    address=ADDRESSES,
    epoch=UUIDS,
    epoch_start_s=SECONDS,
    sequence=SEQUENCES,
    previous=st.none() | st.builds(EpochEnd, UUIDS, SEQUENCES),
    last_update_s=SECONDS,
    observed_at_ms=MS,
    origin=st.sampled_from(Origin),
    missed_at_most=COUNTS,
    interval_s=INTERVALS,
    run_state=st.none() | TEXT,
    balloon=st.none() | st.builds(Balloon, st.integers(0, 2**63 - 1), MS),
    statistics=st.dictionaries(NAMES, COUNTS, max_size=20),
    missing=st.frozensets(NAMES, max_size=5) | st.just(frozenset(f"n{number}" for number in range(300))),
)

STATE_EVENTS = st.builds(
    StateEvent,
    vm=st.none() | VMS,
    address=ADDRESSES,
    sequence=SEQUENCES,
    state=st.sampled_from(State),
    reason=st.sampled_from([*Reason, *LinkFault]) | TEXT,
    detail=TEXT,
    since_ms=MS,
    observed_at_ms=MS,
    previous_state=st.none() | st.sampled_from(State),
    heartbeat=st.booleans(),
    next_heartbeat_by_ms=MS,
    epoch=st.none() | UUIDS,
    last_sequence=st.none() | SEQUENCES,
    last_update_s=st.none() | st.just(0) | SECONDS,
    interval_s=st.none() | INTERVALS,
    run_state=st.none() | TEXT,
)

AGENT_EVENTS = st.builds(
    AgentEvent,
    sequence=SEQUENCES,
    state=st.sampled_from(AgentPhase),
    detail=TEXT,
    since_ms=MS,
    observed_at_ms=MS,
    previous_state=st.none() | st.sampled_from(AgentPhase),
    heartbeat=st.booleans(),
    next_heartbeat_by_ms=MS,
    vms=st.dictionaries(st.sampled_from(State), COUNTS),
    counters=st.dictionaries(st.sampled_from(["samples", "dropped/kafka:full"]), COUNTS),
)

SHARES = st.floats(0, 100)
STALLS = st.builds(Stall, SHARES, SHARES, SHARES, COUNTS)
PRESSURES = st.none() | st.builds(Psi, STALLS, st.none() | STALLS)
VM_MEMORIES = st.builds(
    VmMemory,
    vm=VMS,
    address=ADDRESSES,
    sequence=SEQUENCES,
    observed_at_ms=MS,
    interval_s=st.integers(1, 86_400),
    state=st.sampled_from(State),
    configured=st.none() | st.builds(Configured, SEQUENCES, COUNTS, MS),
    balloon=st.none() | st.builds(Balloon, COUNTS, MS),
    deflate_on_oom=st.none() | st.booleans(),
    process=st.none() | st.builds(ProcessMemory, COUNTS, st.none() | COUNTS, st.none() | COUNTS, MS),
    cgroup=st.none()
    | st.builds(
        CgroupMemory,
        TEXT.filter(bool),
        COUNTS,
        st.none() | COUNTS,
        st.none() | COUNTS,
        PRESSURES,
        MS,
    ),
)
