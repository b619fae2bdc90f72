"""Tests of domains through libvirt, compared with a second monitor of their QEMUs."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.domains import DomainLines, path_of, watch, with_bindings
from tests.integration.watching import conserved
from tests.lab.agent import agent
from tests.lab.bench import arrived, readings_per_sample
from tests.lab.kafka import RealKafka, Received, consume
from tests.lab.libvirt import Daemon, Domain, libvirtd
from tests.lab.measure import STEADY_AFTER, Arrived, Shown, compare, quantile
from tests.lab.observer import Observer

pytestmark = [
    pytest.mark.guest,
    pytest.mark.alone,
    pytest.mark.paired,
    pytest.mark.usefixtures("real_libvirt"),
    pytest.mark.timeout(900),
]

SIZES = ("swap_in", "swap_out", "free_memory", "total_memory", "available_memory", "disk_caches")
PASSED_ON = {*SIZES, "major_faults", "minor_faults", "htlb_pgalloc", "htlb_pgfail"}


def as_libvirt_says(shown: Sequence[Shown]) -> list[Shown]:
    """Return the updates with only the statistics that libvirt passes on, sizes rounded down to KiB."""

    def told(statistics: Mapping[str, int]) -> dict[str, int]:
        return {
            name: value >> 10 << 10 if name in SIZES else value
            for name, value in statistics.items()
            if name in PASSED_ON
        }

    return [replace(each, statistics=told(each.statistics)) for each in shown]


def samples_of(records: Sequence[Received], name: str) -> list[Arrived]:
    documents = [json.loads(record.value) for record in records if record.topic.endswith("samples")]
    assert {each["via"] for each in documents} == {"libvirt"}
    return [
        Arrived(each["last_update"], each["observed_at_ms"], each["sequence"], each["statistics"])
        for each in documents
        if each["vm"]["name"] == name
    ]


def run_into_kafka(folder: Path, kafka: RealKafka, seconds: float) -> tuple[list[float], float]:
    """Return the lags and the readings per sample."""
    topics = [f"{folder.name}.samples", f"{folder.name}.states"]
    for topic in topics:
        kafka.create_topic(topic)
    with ExitStack() as stack:
        daemon = stack.enter_context(libvirtd(folder, "one"))
        domains = [daemon.domain(f"g{number}", booted=False) for number in range(3)]
        for domain in domains:
            domain.wait_until_booted()
        domains[1].order("churn")
        observer = stack.enter_context(Observer([domain.truth for domain in domains], folder))
        env = with_bindings(
            BAROGRAPH_KAFKA__SAMPLES_TOPIC=topics[0],
            BAROGRAPH_KAFKA__STATES_TOPIC=topics[1],
            BAROGRAPH_POLLING__HEARTBEAT="2s",
            BAROGRAPH_LINES__ENABLED="true",
        )
        words = [*watch(daemon), "--kafka", kafka.bootstrap]
        process = stack.enter_context(agent(folder / "a", *words, env=env))
        lines = DomainLines(process)
        for domain in domains:
            lines.wait_until(path_of(domain), "reporting")
        time.sleep(STEADY_AFTER)
        steady_ms = time.time() * 1000
        time.sleep(max(seconds - STEADY_AFTER, 5))
        until_ms = time.time() * 1000 - 500
        time.sleep(1)  # time to read the last update
        assert process.stop() == 0
        conserved(process)
        seen = observer.stop()

    records = consume(kafka.bootstrap, topics)
    lags: list[float] = []
    for domain in domains:
        ours = samples_of(records, domain.name)
        found = compare(as_libvirt_says(seen[domain.truth]), ours, until_ms=until_ms)
        lags += found.lags_ms
        assert (found.lost, found.invented, found.repeated, found.wrong) == ((), (), (), ())
        assert not found.disordered
        assert [each.sequence for each in ours] == list(range(1, len(ours) + 1))
    assert len({record.headers["ce_id"] for record in records}) == len(records)
    per_sample = readings_per_sample(process.stdout.read_text().splitlines(), steady_ms)
    p50_ms, p99_ms = quantile(lags, 0.5), quantile(lags, 0.99)
    print(f"lag p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms; {per_sample:.3f} readings per sample")
    return lags, per_sample


def test_every_update_of_a_domain_is_a_sample_in_kafka(folder: Path, shared_kafka: RealKafka) -> None:
    run_into_kafka(folder, shared_kafka, 25)


@pytest.mark.long
def test_for_a_minute_each_update_costs_one_reading_and_is_read_at_once(
    folder: Path, shared_kafka: RealKafka
) -> None:
    lags, per_sample = run_into_kafka(folder, shared_kafka, 60)

    assert quantile(lags, 0.5) <= 30
    assert quantile(lags, 0.99) <= 150
    assert per_sample <= 1.05


def lags_of_the_others(folder: Path, daemon: Daemon, domains: Sequence[Domain], *, stop: bool) -> list[float]:
    """Return the lags of every third domain, from the second on; with `stop`, the first is stopped meanwhile.

    Observing all 20 every 5 ms would take more CPU than everything else together.
    """
    run = folder / f"run-{stop}"
    run.mkdir()
    observed = domains[1::3]
    with (
        Observer([domain.truth for domain in observed], run) as observer,
        agent(run, *watch(daemon), env=with_bindings()) as process,
    ):
        lines = DomainLines(process)
        for domain in domains:
            lines.wait_until(path_of(domain), "reporting")
        time.sleep(STEADY_AFTER)
        from_ms = time.time() * 1000
        if stop:
            domains[0].freeze()
        time.sleep(60)
        until_ms = time.time() * 1000 - 500
        if stop:
            assert lines.said(path_of(domains[0]))[-1] == ("unreachable", "no_answer")
            domains[0].thaw()
            lines.wait_until(path_of(domains[0]), "reporting")
        assert process.stop() == 0
        seen = observer.stop()
    ours = arrived(process.stdout.read_text().splitlines())
    lags: list[float] = []
    for domain in observed:
        early = sum(each.observed_at_ms < from_ms for each in ours[domain.name])
        shown = as_libvirt_says(seen[domain.truth])
        found = compare(shown, ours[domain.name], until_ms=until_ms, steady_after=early)
        assert (found.lost, found.wrong, found.repeated) == ((), (), ())
        lags += found.lags_ms
    return lags


@pytest.mark.long
@pytest.mark.timeout(900)
def test_one_stopped_qemu_among_twenty_domains_costs_the_others_nothing(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domains = [daemon.domain(f"g{number}") for number in range(20)]
        undisturbed = quantile(lags_of_the_others(folder, daemon, domains, stop=False), 0.99)
        disturbed = quantile(lags_of_the_others(folder, daemon, domains, stop=True), 0.99)

    print(f"the others' lag p99: {undisturbed:.1f} ms undisturbed, {disturbed:.1f} ms with one stopped")
    assert disturbed <= 1.1 * undisturbed + 5
