"""Memory records for the tests of jobs on hosts, and a driver of such a job with its steps and clock."""

import json
from typing import Any

from barograph_streams.core.documents import Outcome
from barograph_streams.core.jobs import Job, Steps
from barograph_streams.core.steps import Step
from tests.contract.schema_files import examples, load
from tests.unit.streams.making import AGENTS, T0_S, vm_id

T0_MS = T0_S * 1000
GIB = 1 << 30
INTERVAL_S = 60

HOSTS = [agent.host_id for agent in AGENTS]
RUN = "0199f2ff-1234-7abc-8def-0123456789ab"

_STATE: Any = next(load(path) for path in examples("state", "valid") if path.stem == "stalled")


def host_memory(host: int, round_: int, **more: Any) -> tuple[str, bytes]:
    """Return key and value of the memory record of a host in a round; `more` replaces fields."""
    document = {
        "schema": "barograph.host.memory/1.0",
        "host": {"id": HOSTS[host], "name": f"node-{host}"},
        "run": RUN,
        "sequence": round_ + 1,
        "observed_at_ms": T0_MS + round_ * INTERVAL_S * 1000,
        "interval_s": INTERVAL_S,
        "memory": {"total_bytes": 64 * GIB, "available_bytes": 8 * GIB},
        "vms": {"count": 0, "reporting": 0},
    }
    return HOSTS[host], json.dumps(document | more).encode()


def vm_memory(vm: int, host: int, round_: int, state: str = "reporting", **more: Any) -> tuple[str, bytes]:
    """Return key and value of the memory record of a VM in a round; `None` in `more` leaves a field out."""
    at_ms = T0_MS + round_ * INTERVAL_S * 1000
    document = {
        "schema": "barograph.vm.memory/1.0",
        "vm": {"id": vm_id(vm), "id_source": "uuid"},
        "host": {"id": HOSTS[host], "name": f"node-{host}"},
        "via": "qmp",
        "run": RUN,
        "sequence": round_ + 1,
        "observed_at_ms": at_ms,
        "interval_s": INTERVAL_S,
        "state": state,
        "configured": {"base_bytes": 8 * GIB, "plugged_bytes": 0, "observed_at_ms": at_ms},
        "balloon": {"actual_bytes": 8 * GIB, "observed_at_ms": at_ms, "deflate_on_oom": False},
        "process": {"resident_bytes": 6 * GIB, "observed_at_ms": at_ms},
    }
    kept = {name: value for name, value in (document | more).items() if value is not None}
    return vm_id(vm), json.dumps(kept).encode()


def vm_state(vm: int, host: int, round_: int, state: str, *, path: str = "/a") -> tuple[str, bytes]:
    """Return key and value of a state of a VM in a round."""
    document = _STATE | {
        "vm": {"id": vm_id(vm), "id_source": "uuid", "path": path},
        "host": {"id": HOSTS[host], "name": f"node-{host}"},
        "state": state,
        "sequence": round_ + 1,
        "observed_at_ms": T0_MS + round_ * INTERVAL_S * 1000,
    }
    return vm_id(vm), json.dumps(document).encode()


def pressed_round(round_: int) -> list[tuple[str, bytes]]:
    """Return the records of a host that waits for memory for half of the time, while the first VM grows.

    The host has two VMs. Its first rounds are calm.
    """
    grown = max(0, round_ - 5) * GIB // 8
    calm_us = 30_000_000 * max(0, round_ - 5)
    sizes = [{"resident_bytes": 2 * GIB + grown}, {"resident_bytes": GIB}]
    return [
        *(vm_memory(vm, 0, round_, process=size) for vm, size in enumerate(sizes)),
        host_memory(
            0,
            round_,
            memory={"total_bytes": 64 * GIB, "available_bytes": 16 * GIB - grown},
            pressure={"some": {"total_us": calm_us}},
        ),
    ]


class Fleet:
    """A job that a test drives."""

    def __init__(self, job: Job) -> None:
        self.job, self.now_ms = job, T0_MS
        self.kept: dict[str, bytes] = {}
        self.hosts: dict[str, bytes] = {}
        self.timers: dict[str, int] = {}
        self.written: list[dict[str, Any]] = []
        self.steps: list[Step] = []

    def read(self, record: tuple[str, bytes]) -> Outcome:
        """Let the job read a record."""
        key, value = record
        step = self.job.steps.step(self.kept.get(key), key, value, self.now_ms)
        self.kept |= {key: step.state} if step.state else {}
        self.steps.append(step)
        for sent in step.sent:
            kept = self.hosts.get(sent.key)
            self._keep(sent.key, self._by_host.step(kept, sent.key, sent.value, self.now_ms))
        return step.outcome

    def wait(self, ms: int, *, down: bool = False) -> None:
        """Let time pass; `down`: the job does not run meanwhile, and due timers fire at the end."""
        end_ms = self.now_ms + ms
        while due := [(at_ms, host) for host, at_ms in self.timers.items() if at_ms <= end_ms]:
            at_ms, host = min(due)
            del self.timers[host]
            self.now_ms = end_ms if down else max(self.now_ms, at_ms)
            self._keep(host, self._by_host.on_timer(self.hosts.get(host), host, self.now_ms))
        self.now_ms = end_ms

    def round(self, *records: tuple[str, bytes]) -> None:
        """Let the job read the records of a round, and let the time until the next round pass."""
        for record in records:
            self.read(record)
        self.wait(INTERVAL_S * 1000)

    @property
    def _by_host(self) -> Steps:
        assert self.job.by_host is not None
        return self.job.by_host

    def _keep(self, host: str, step: Step) -> None:
        assert step.state is not None
        self.hosts[host] = step.state
        if step.timer_ms is not None:
            assert host not in self.timers
            self.timers[host] = step.timer_ms
        self.steps.append(step)
        self.written += [json.loads(record.value) for record in step.records]
