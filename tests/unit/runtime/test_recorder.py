"""Tests of the board: what the recorder keeps of a VM from event to event."""

from dataclasses import replace

from agent.contract.encode import Mode
from agent.core.agent_state import AgentEvent, AgentPhase
from agent.core.epochs import History
from agent.core.history import VmHistories
from agent.core.memory import Memory
from agent.core.pressure import PressureLevel, VmPressure
from agent.core.reading import Balloon, Origin, Record, RecordKind, Sample, State, StateEvent, VmIdentity
from agent.core.tap import IDLE_S, Tap, Wanted
from agent.runtime.recorder import Recorder
from agent.telemetry import Counters
from tests.golden.documents import HOST_MEMORY_EVENT
from tests.unit.sinks.views import ADDRESS, AGENT, T0_S, memory, sample, view, vm

MEMORY = Memory(str(ADDRESS), None, None, History(), None)


class Kept:
    """A queue that keeps all records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, record: Record | None, memory: Memory | None) -> None:
        if record is not None:
            self.records.append(record)


class Board:
    """A recorder without sinks, and what it keeps of one VM."""

    def __init__(self) -> None:
        self.recorder = Recorder(AGENT, Mode.BINARY, (), Counters())
        self.state(State.REPORTING)

    def state(self, state: State, of: VmIdentity | None = None) -> None:
        event: StateEvent = view(state=state, of=of).state
        self.recorder.state(event, MEMORY)

    def sample(self, after_s: int, kills: int, of: VmIdentity | None = None) -> Sample:
        sequence = after_s + 1
        newest = sample(T0_S + after_s, sequence=sequence, of=of, statistics={"oom_kills": kills})
        self.recorder.sample(newest, MEMORY)
        return newest

    @property
    def pressure(self) -> VmPressure | None:
        """Return the current pressure of the VM."""
        return self.recorder.board[ADDRESS].pressure


def level(board: Board) -> PressureLevel | None:
    return None if board.pressure is None else board.pressure.level


def test_the_pressure_follows_the_samples_and_outlives_changes_of_state() -> None:
    board = Board()
    assert board.pressure is None

    board.sample(0, kills=0)
    board.sample(10, kills=1)
    assert level(board) is PressureLevel.OOM
    board.state(State.STALLED)
    board.state(State.REPORTING)
    assert level(board) is PressureLevel.OOM


def test_an_unsolicited_sample_leaves_the_pressure_as_it_was() -> None:
    board = Board()
    board.sample(0, kills=0)
    newest = replace(board.sample(10, kills=0), last_update_s=T0_S + 20, origin=Origin.UNSOLICITED)

    board.recorder.sample(replace(newest, statistics={"oom_kills": 5}), MEMORY)

    assert board.pressure is not None
    assert (board.pressure.level, board.pressure.last_update_s) == (PressureLevel.NONE, T0_S + 10)


def test_the_pressure_ends_with_the_process_and_with_the_vm() -> None:
    for end in (State.GONE, State.REPORTING):
        board = Board()
        board.sample(0, kills=0)
        board.sample(10, kills=1)

        board.state(end, of=vm("vm-2") if end is State.REPORTING else None)
        assert board.pressure is None

    board = Board()
    board.sample(0, kills=0)
    board.sample(10, kills=1, of=vm("vm-2"))
    assert level(board) is PressureLevel.NONE


def test_the_balloon_outlives_silence_and_ends_with_the_process_or_a_migration() -> None:
    for state, is_kept in ((State.STALLED, True), (State.GONE, False), (State.DUPLICATE, False)):
        board = Board()
        newest = board.sample(0, kills=0)
        board.recorder.sample(replace(newest, balloon=Balloon(1 << 30, 5)), MEMORY)

        board.state(state)

        assert (board.recorder.board[ADDRESS].balloon is not None) == is_kept, state


def test_the_history_of_a_vm_is_fed_with_the_board_and_forgotten_with_the_vm() -> None:
    histories = VmHistories()
    recorder = Recorder(AGENT, Mode.BINARY, (), Counters(), histories=histories)
    recorder.state(view().state, MEMORY)
    recorder.state(replace(view().state, heartbeat=True), MEMORY)
    recorder.sample(sample(T0_S), MEMORY)
    recorder.sample(sample(T0_S + 60, sequence=2), MEMORY)
    recorder.vm_memory(replace(memory(T0_S * 1000 + 120_000), address=ADDRESS))

    history = histories.get(ADDRESS)
    assert history is not None
    assert len(history.changes) == 1
    assert len(history.columns(0)[0]) == 3
    assert history.newest.resident_bytes == 3 << 30
    recorder.retire(ADDRESS)
    assert histories.get(ADDRESS) is None


def test_a_tap_that_is_open_gets_each_record_as_it_is_queued_and_no_log_record() -> None:
    kept, tap = Kept(), Tap()
    recorder = Recorder(AGENT, Mode.BINARY, [kept], Counters(), logs=True, tap=tap)
    state = view(state=State.REPORTING).state
    recorder.state(state, MEMORY)  # before the first reader
    tap.read(None, Wanted())
    recorder.sample(sample(T0_S), MEMORY)
    recorder.vm_memory(memory(T0_S * 1000))
    recorder.agent_state(AgentEvent(1, AgentPhase.RUNNING, "", 5, 6, None, False, 7, {}, {}))
    recorder.host_memory(HOST_MEMORY_EVENT)
    recorder.state(state, MEMORY)
    page = tap.read(0, Wanted())

    queued = [(each.kind, each.value) for each in kept.records if each.kind is not RecordKind.LOG]
    assert [(each.kind, each.value) for each in page.records] == queued[1:]
    assert page.skipped == 1
    assert [bool(each.names) for each in page.records] == [True, True, False, False, True]


def test_the_tap_closes_after_idle_seconds() -> None:
    tap = Tap()
    recorder = Recorder(AGENT, Mode.BINARY, (), Counters(), tap=tap)
    tap.read(None, Wanted())
    for _ in range(IDLE_S + 1):
        recorder.end_second()

    assert not tap.is_open
