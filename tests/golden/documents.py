"""The agent's output as documents: records, commands to QEMU, memories and entries of the ledger."""

import json
from collections.abc import Sequence
from dataclasses import replace

from agent.contract.encode import (
    Mode,
    encode_agent_state,
    encode_host_memory,
    encode_sample,
    encode_state,
    encode_vm_memory,
)
from agent.contract.headers import decode_headers
from agent.core.address import MonitorPath, parse_address
from agent.core.agent_state import AgentEvent, AgentPhase
from agent.core.events import (
    Ask,
    CloseLink,
    CountReading,
    Disclaim,
    Effect,
    EmitSample,
    EmitState,
    Forget,
    OpenLink,
    Retire,
)
from agent.core.host_memory import (
    HostMemory,
    HostMemoryEvent,
    HugePages,
    Ksm,
    Ram,
    VmShare,
    sums_of,
)
from agent.core.memory import Memory
from agent.core.ownership import IntervalChange
from agent.core.psi import Psi, Stall
from agent.core.reading import (
    Balloon,
    CgroupMemory,
    Configured,
    ProcessMemory,
    Record,
    SocketMark,
    State,
    VmId,
    VmIdentity,
    VmMemory,
)
from agent.runtime.fleet import path_id
from agent.runtime.vm import Emissions
from agent.spool.format import decode_memory, encode_memory
from agent.spool.ledger_format import decode_owed, encode_owed
from tests.golden.scenarios import (
    AGENT,
    DOMAIN,
    DOMAIN_MARK,
    HOST_ID,
    MONITOR,
    STORIES,
    STRUCTURED,
    Told,
)
from tests.golden.texts import Texts

HOST_MEMORY_EVENT = HostMemoryEvent(
    sequence=3,
    observed_at_ms=1_795_400_100_000,
    interval_s=60,
    memory=HostMemory(
        Ram(
            total_bytes=67_430_000_000,
            free_bytes=2_000_000_000,
            available_bytes=30_000_000_000,
            swap_total_bytes=0,
            swap_free_bytes=0,
        ),
        (HugePages(2 << 20, 512, 100, 12, 0), HugePages(1 << 30, 8, 2, 0, 0)),
        Psi(Stall(1.5, 0.25, 0.0, 1_234_567), Stall(0.5, 0.1, 0.0, 234_567)),
        Ksm(1, 4096, 8192, 40960, -512),
    ),
    vms=sums_of(
        [VmShare(True, 1 << 30), VmShare(True, 2 << 30), VmShare(False), None],
    ),
)

VM_MEMORY = VmMemory(
    vm=VmIdentity(VmId("11111111-2222-4333-8444-555555555555"), "uuid", None, "a"),
    address=MonitorPath(MONITOR),
    sequence=7,
    observed_at_ms=1_795_400_060_004,
    interval_s=60,
    state=State.STALLED,
    configured=Configured(8 << 30, 2 << 30, 1_795_400_001_000),
    balloon=Balloon(6 << 30, 1_795_400_050_002),
    deflate_on_oom=True,
    process=ProcessMemory(5_368_709_120, 1_048_576, 2_097_152, 1_795_400_060_001),
    cgroup=CgroupMemory(
        "/machine.slice/a.scope",
        5_476_083_302,
        None,
        4096,
        Psi(Stall(2.5, 1.0, 0.5, 9_876_543), Stall(1.25, 0.5, 0.25, 876_543)),
        1_795_400_060_002,
    ),
)

FAR_MS = 4_000_000_000_000
"""A time in 2096: no record is too old, whenever the tests run."""

CHANGES = (
    IntervalChange(parse_address(DOMAIN), DOMAIN_MARK, "balloon0", 0, 10, FAR_MS + 2),
    IntervalChange(
        MonitorPath(MONITOR),
        SocketMark(8, 17, 1_795_400_000_123_456_789),
        "/machine/peripheral/balloon0",
        0,
        10,
        FAR_MS,
    ),
    IntervalChange(
        MonitorPath("/run/vm/\u00e4 b.qmp"),
        SocketMark(8, 18, 5),
        "/machine/peripheral-anon/device[0]",
        30,
        10,
        FAR_MS + 1,
    ),
)
SET_TWICE = replace(CHANGES[1], interval_set_s=20)
RESTORED = replace(CHANGES[1], address=MonitorPath("/run/vm/gone.qmp"))


def record_of(effect: Effect, mode: Mode = Mode.BINARY) -> Record | None:
    """Return the record of an effect, or `None` if it has none."""
    match effect:
        case EmitSample(sample):
            return encode_sample(sample, AGENT, mode)
        case EmitState(event):
            return encode_state(event, AGENT, mode)
        case _:
            return None


def retell(story: Told, emissions: Emissions) -> None:
    """Pass a story's samples and states to `emissions`, as the tasks of VMs do."""
    for _, effect, memory in story.told:
        match effect:
            case EmitSample(sample):
                emissions.sample(sample, memory)
            case EmitState(event):
                emissions.state(event, memory)
            case _:
                pass


def records(story: Told, mode: Mode = Mode.BINARY) -> list[Record]:
    """Return all records of a story."""
    made = (record_of(effect, mode) for _, effect, _ in story.told)
    return [each for each in made if each is not None]


def agent_record(mode: Mode = Mode.BINARY) -> Record:
    """Return a record of the agent's own state."""
    event = AgentEvent(
        sequence=7,
        state=AgentPhase.RUNNING,
        detail="found 3 monitors",
        since_ms=1_795_400_000_000,
        observed_at_ms=1_795_400_300_000,
        previous_state=AgentPhase.STARTING,
        heartbeat=True,
        next_heartbeat_by_ms=1_795_400_600_000,
        vms={State.REPORTING: 2, State.STALLED: 1},
        counters={"samples": 12, "link_failures/hung_up": 1},
    )
    return encode_agent_state(event, AGENT, mode)


def record_document(record: Record) -> dict[str, object]:
    """Return a record as a document; all of its bytes are UTF-8."""
    return {
        "kind": str(record.kind),
        "key": record.key,
        "id": record.id,
        "timestamp_ms": record.timestamp_ms,
        "headers": {name: value.decode() for name, value in decode_headers(record.headers)},
        "value": record.value.decode(),
    }


def memory_document(memory: Memory) -> dict[str, object]:
    """Return a memory as the spool stores it, with its unordered fields sorted."""
    document = json.loads(encode_memory(memory))
    for holder, name in ((document["history"], "given"), (document["history"]["last"], "unset")):
        if holder:
            holder[name] = sorted(holder[name])
    return document


def change_document(change: IntervalChange) -> dict[str, object]:
    """Return an interval that the agent changed."""
    return {
        "path": str(change.address),
        "mark": _mark(change.mark),
        "balloon_path": change.balloon_path,
        "interval_before_s": change.interval_before_s,
        "interval_set_s": change.interval_set_s,
        "set_at_ms": change.set_at_ms,
    }


def _mark(mark: SocketMark) -> list[int]:
    return [mark.device, mark.inode, mark.mtime_ns]


def _command(effect: Effect) -> dict[str, object]:
    match effect:
        case OpenLink(look_first):
            return {"do": "open", "look_first": look_first}
        case CloseLink():
            return {"do": "close"}
        case Ask():
            asked: dict[str, object] = {
                "balloon_path": effect.balloon_path,
                "interval_s": effect.interval_s,
                "change": None if effect.change is None else change_document(effect.change),
                "id": effect.id,
            }
            return {"do": f"ask {effect.question.value}"} | {
                name: value for name, value in asked.items() if value is not None
            }
        case Disclaim():
            return {"do": "disclaim"}
        case Forget(mark):
            return {"do": "forget", "mark": _mark(mark)}
        case CountReading(counted, amount):
            return {"do": "count", "what": counted.value, "amount": amount}
        case Retire():
            return {"do": "retire"}
        case _:
            raise AssertionError(effect)


def told(story: Told, mode: Mode, texts: Texts) -> str:
    """Return a story as JSON lines: each effect with its time in µs, and the memory at the end."""
    lines: list[dict[str, object]] = []
    for at_ns, effect, _ in story.told:
        record = record_of(effect, mode)
        if record is not None:
            lines.append({"at_us": at_ns // 1000, "record": _texts_out(record_document(record), texts)})
        else:
            lines.append({"at_us": at_ns // 1000, **_command(effect)})
    lines.append({"memory": memory_document(story.memory)})
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines)


def _texts_out(document: dict[str, object], texts: Texts) -> dict[str, object]:
    return document | {"value": texts.out_of(str(document["value"]))}


def made() -> dict[str, str]:
    """Return the recorded files."""
    files: dict[str, str] = {}
    for tell in STORIES:
        modes = (Mode.BINARY, Mode.STRUCTURED) if tell in STRUCTURED else (Mode.BINARY,)
        for mode in modes:
            name = f"scenarios/{tell.__name__}" + (".structured" if mode is Mode.STRUCTURED else "")
            texts = Texts()
            files[f"{name}.jsonl"] = told(tell(), mode, texts)
            files[f"texts/{name}.txt"] = texts.file()
    texts = Texts()
    documents = [_texts_out(record_document(agent_record(mode)), texts) for mode in Mode]
    files["scenarios/agent.jsonl"] = "".join(json.dumps(each) + "\n" for each in documents)
    files["texts/scenarios/agent.txt"] = texts.file()
    documents = [record_document(encode_host_memory(HOST_MEMORY_EVENT, AGENT, mode)) for mode in Mode]
    files["scenarios/host_memory.jsonl"] = "".join(json.dumps(each) + "\n" for each in documents)
    documents = [record_document(encode_vm_memory(VM_MEMORY, AGENT, mode)) for mode in Mode]
    files["scenarios/vm_memory.jsonl"] = "".join(json.dumps(each) + "\n" for each in documents)
    ids = {path: path_id(HOST_ID, parse_address(path)) for path in (MONITOR, DOMAIN)}
    files["scenarios/path_ids.json"] = json.dumps(ids, indent=1) + "\n"
    return files


def read_memory(content: bytes) -> Memory:
    """Return a memory from the bytes in the spool."""
    return decode_memory(content)


def write_changes(changes: Sequence[IntervalChange]) -> bytes:
    """Return the content of the ledger's file."""
    return encode_owed(changes)


def read_changes(content: bytes) -> Sequence[IntervalChange]:
    """Return the entries of the ledger's file."""
    return decode_owed(content)
