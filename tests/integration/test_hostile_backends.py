"""A hostile Kafka and a hostile OTLP backend do not delay collection, compared with proper ones.

One agent observes simulated VMs. Within one run, rounds with proper answers alternate with rounds in which
one backend sends arbitrary answers, so that a busy machine disturbs both alike.
"""

import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import yaml

from tests.integration.audit import WEB, ask, read, unbalanced
from tests.integration.hostile_otlp import Numbers, grpc_backend, http_backend
from tests.integration.promises import best_of_three, promised
from tests.integration.test_web import url_when_told, wait_until
from tests.integration.watching import Lines, conserved, watch
from tests.lab import helm
from tests.lab.agent import AgentProcess, agent
from tests.lab.bench import arrived
from tests.lab.bench_fleet import LEARNT_S, MIB, peak_rss_bytes
from tests.lab.measure import compare, quantile
from tests.lab.odd_kafka import OddKafka
from tests.lab.scripted_kafka import Peer, scripted_kafka_thread
from tests.lab.sim import simulated

SEED = 15
ANSWERS_MIN = 15  # per round; after each, the agent may pause before it retries
BACKENDS = [pytest.param(http_backend, "http", id="http"), pytest.param(grpc_backend, "grpc", id="grpc")]
KINDS = ("proper", "kafka", "proper", "otlp")
Backend = Callable[[int, Numbers], AbstractContextManager[str]]


@dataclass
class Backends:
    """Both backends of an agent, and which of them is hostile at the moment."""

    peer: Peer = field(default_factory=lambda: Peer(topic=None))
    kafka: OddKafka = field(default_factory=lambda: OddKafka(SEED, 10**9))
    otlp: int = 0  # generated answers so far
    _otlp_is_hostile: bool = False

    @property
    def answers(self) -> int:
        """The number of answers that both have generated so far."""
        return self.kafka.answers + self.otlp

    @contextmanager
    def hostile(self, kind: str) -> Generator[None]:
        """Let one backend send arbitrary answers until the end of the block."""
        self._otlp_is_hostile = kind == "otlp"
        self.peer.send = self.kafka.send if kind == "kafka" else None
        try:
            yield
        finally:
            self._otlp_is_hostile, self.peer.send = False, None

    def numbers(self) -> Iterator[int | None]:
        """Yield the numbers of the OTLP backend's answers; `None` for a proper one."""
        for number in count():
            self.otlp += self._otlp_is_hostile
            yield number if self._otlp_is_hostile else None


@dataclass(frozen=True, slots=True)
class Round:
    """One round. `cpu` is the agent's share of one core; `answers` counts generated ones."""

    kind: str
    from_ms: float
    until_ms: float
    cpu: float
    rss_bytes: int
    answers: int


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run, with the lags of all updates in each round."""

    rounds: list[Round]
    lags_ms: Mapping[Round, list[float]]
    peak_bytes: int
    totals: Mapping[str, int]
    taken: int  # records that the broker accepted without an error

    def lag_ms(self, kind: str, share: float) -> float:
        """Return the median over the rounds of a kind of a quantile of the lag."""
        return statistics.median(
            quantile(self.lags_ms[each], share) for each in self.rounds if each.kind == kind
        )

    def show(self, protocol: str) -> str:
        """Return the figures as text."""
        lines = [f"Kafka and OTLP over {protocol}; peak memory {self.peak_bytes / MIB:.0f} MiB"]
        for kind in dict.fromkeys(KINDS):
            rounds = [each for each in self.rounds if each.kind == kind]
            each_p99 = ", ".join(f"{quantile(self.lags_ms[each], 0.99):.1f}" for each in rounds)
            lines.append(
                f"  {kind:7} lag p50 {self.lag_ms(kind, 0.5):.1f} ms, p99 {self.lag_ms(kind, 0.99):.1f} ms"
                f" (rounds: {each_p99}); CPU {statistics.median(each.cpu for each in rounds):.1%};"
                f" memory {max(each.rss_bytes for each in rounds) / MIB:.0f} MiB;"
                f" {sum(each.answers for each in rounds)} generated answers"
            )
        named = {
            name: total
            for name, total in self.totals.items()
            if name.startswith(("queued", "delivered", "dropped", "dead_lettered", "waiting"))
        }
        return "\n".join([*lines, f"  the broker accepted {self.taken} records; {named}"])


def chart_limit_bytes() -> int:
    """Return the memory limit of the chart's agent."""
    values = yaml.safe_load((helm.CHART / "values.yaml").read_text())
    return int(values["resources"]["limits"]["memory"].removesuffix("Mi")) * MIB


def measure(
    folder: Path, backend: Backend, protocol: str, vms: int, learning_s: float, rounds: int, seconds: float
) -> Figures:
    """Run an agent with backends that are proper and hostile in turn; check its counters."""
    both = Backends()
    windows: list[Round] = []
    env = {
        **WEB,
        "BAROGRAPH_LINES__ENABLED": "true",
        "BAROGRAPH_KAFKA__REQUEST_TIMEOUT": "500ms",  # how long a missing answer takes
        "BAROGRAPH_KAFKA__DELIVERY_TIMEOUT": "2s",
        "BAROGRAPH_MEMORY__INTERVAL": "10s",
        "BAROGRAPH_OTLP__PROTOCOL": protocol,
        "BAROGRAPH_OTLP__INTERVAL": "1s",
        "BAROGRAPH_OTLP__LOGS": "true",
        "BAROGRAPH_POLLING__HEARTBEAT": "2s",  # so that there are log records all the time
    }
    with simulated(folder, vms=vms) as hypervisor:
        with (
            scripted_kafka_thread(both.peer) as kafka,
            backend(SEED, both.numbers()) as otlp,
            agent(folder / "run", *watch(folder, "--kafka", kafka, "--otlp", otlp), env=env) as process,
        ):
            url, lines = url_when_told(process), Lines(process)
            for vm in hypervisor.vms:
                lines.wait_for_state(vm.qmp, "reporting")
            time.sleep(learning_s)
            for kind in KINDS * rounds:
                wait_until(lambda: queued(url) < 4 * vms, "the backlog of the last round is sent")
                with both.hostile(kind):
                    windows.append(watched(process, both, kind, seconds))
                assert unbalanced(ask(url, "metrics")[1]) == []
            wait_until(lambda: queued(url) < 4 * vms, "the backlog of the last round is sent")
            peak_bytes = peak_rss_bytes(process.process.pid)
            assert process.stop() == 0
            totals = conserved(process)
            log = process.stderr.read_text()
            samples = arrived(process.stdout.read_text().splitlines())
        shown = hypervisor.updates()
        names = {vm.truth: vm.name for vm in hypervisor.vms}
    assert "Traceback" not in log, log[-4000:]
    lags: dict[Round, list[float]] = {each: [] for each in windows}
    for truth, name in names.items():
        found = compare(shown[truth], samples[name], until_ms=windows[-1].until_ms)
        wrong = (found.invented, found.repeated, found.disordered, found.wrong)
        assert wrong == ((), (), False, ()), name
        # An agent without CPU for a second reads too late.
        promised(found.lost == (), f"{name} lost {found.lost}")
        for each in windows:
            inside = [one for one in samples[name] if each.from_ms <= one.observed_at_ms < each.until_ms]
            lags[each] += compare(shown[truth], inside, until_ms=each.until_ms, steady_after=0).lags_ms
    return Figures(windows, lags, peak_bytes, totals, both.peer.records)


def queued(url: str) -> int:
    """Return how many records are queued in all."""
    families = read(ask(url, "metrics")[1])
    return sum(
        int(sample.value)
        for family in families
        for sample in family.samples
        if sample.name == "barograph_queue_size"
    )


def watched(process: AgentProcess, both: Backends, kind: str, seconds: float) -> Round:
    """Wait for a round to pass; return its figures."""
    before = both.answers
    from_ms, begun_s, cpu_s = time.time() * 1000, time.monotonic(), process.cpu_s()
    time.sleep(seconds)
    if kind != "proper":
        wait_until(lambda: both.answers >= before + ANSWERS_MIN, f"{ANSWERS_MIN} generated answers")
    cpu = (process.cpu_s() - cpu_s) / (time.monotonic() - begun_s)
    process.must_be_running()
    until_ms = time.time() * 1000 - 500
    return Round(kind, from_ms, until_ms, cpu, process.resident_bytes(), both.answers - before)


def judge(figures: Figures) -> None:
    """Assert what must hold on any machine."""
    delivered = sum(total for name, total in figures.totals.items() if name.startswith("delivered.kafka"))
    assert 0 < delivered <= figures.taken
    assert not any(each.answers for each in figures.rounds if each.kind == "proper")
    assert figures.peak_bytes < chart_limit_bytes()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("backend", "protocol"), BACKENDS)
@best_of_three
def test_hostile_backends_cost_no_sample_and_every_record_is_accounted_for(
    folder: Path, backend: Backend, protocol: str
) -> None:
    figures = measure(folder, backend, protocol, vms=10, learning_s=0, rounds=1, seconds=5)

    print(figures.show(protocol))
    judge(figures)


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("backend", "protocol"), BACKENDS)
@best_of_three
def test_hostile_backends_do_not_delay_50_vms(folder: Path, backend: Backend, protocol: str) -> None:
    figures = measure(folder, backend, protocol, vms=50, learning_s=LEARNT_S, rounds=4, seconds=20)

    print(figures.show(protocol))
    judge(figures)
    for kind in ("kafka", "otlp"):
        assert figures.lag_ms(kind, 0.99) <= 1.1 * figures.lag_ms("proper", 0.99) + 5, kind
