"""Scrape a running agent continuously, and check at each scrape that its counters add up."""

import re
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from prometheus_client import Metric
from prometheus_client.openmetrics import parser

from tests.lab.agent import AgentProcess
from tests.lab.local_http import NO_ANSWER, OPENER

WEB = {"BAROGRAPH_WEB__ENABLED": "true", "BAROGRAPH_WEB__LISTEN": "127.0.0.1:0"}
_EVERY_S = 0.1  # on two cores with three guests and an agent
_parse = cast("Callable[[str], list[Metric]]", parser.text_string_to_metric_families)  # it has no types


def url_of(process: AgentProcess) -> str | None:
    """Return the URL of the agent's web server, or `None` if the agent has not logged it yet."""
    said = re.search(r" web .*url=(http://127\.0\.0\.1:\d+/)", process.stderr.read_text())
    return None if said is None else said[1]


def ask(url: str, path: str, host: str | None = None) -> tuple[int, str]:
    """Return status and text of an answer of any status; `host` replaces the Host header of the URL."""
    headers = {} if host is None else {"Host": host}
    try:
        with OPENER.open(urllib.request.Request(url + path, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def read(text: str) -> list[Metric]:
    """Return the metric families of an OpenMetrics text."""
    return list(_parse(text))


def unbalanced(text: str) -> list[str]:
    """Return the equations that do not hold in one scrape. Without one, nothing was lost uncounted."""
    totals: Counter[tuple[str, str]] = Counter()  # by name and sink, over all reasons
    for family in read(text):
        for sample in family.samples:
            if sample.name.startswith("barograph_"):
                name = sample.name.removeprefix("barograph_").removesuffix("_total")
                totals[name, sample.labels.get("barograph_sink", "")] += int(sample.value)

    def total(name: str, sink: str = "") -> int:
        return totals[name, sink]

    sinks = {sink for _, sink in totals if sink}
    equations = [
        ("readings", total("readings"), total("samples") + total("repeats") + total("coalesced")),
    ]
    for sink in sinks:
        out = sum(total(name, sink) for name in ("delivered", "queue_size", "dropped", "dead_lettered"))
        equations.append((sink, total("queued", sink) + total("carried", sink), out))
    if "kafka.samples" in sinks:
        states = total("state_events") + total("agent_events")
        equations.append(("samples recorded", total("queued", "kafka.samples"), total("samples")))
        equations.append(("states recorded", total("queued", "kafka.states"), states))
        equations.append(("memory recorded", total("queued", "kafka.memory"), total("memory_records")))
    return [
        f"{what}: {left} is not {right}: {dict(totals)}" for what, left, right in equations if left != right
    ]


class Audit:
    """Scrapes an agent in a separate thread until the block or the agent ends."""

    def __init__(self, process: AgentProcess) -> None:
        self.scrapes = 0
        self.problems: list[str] = []
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit")

    def __enter__(self) -> "Audit":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            url = url_of(self._process)
            if url is None:
                continue
            try:
                _, text = ask(url, "metrics")
            except (*NO_ANSWER, ValueError):  # the agent ended, perhaps in the middle of an answer
                continue
            if not text.endswith("# EOF\n"):
                continue
            self.scrapes += 1
            self.problems += unbalanced(text)


@contextmanager
def audited(process: AgentProcess) -> Generator[None]:
    """Assert that the agent's counters add up at each scrape during the block."""
    with Audit(process) as audit:
        yield
    assert audit.problems == []
    assert audit.scrapes > 0


def documented(page: Path) -> set[str]:
    """Return the Prometheus names that a page of the docs lists."""
    return set(re.findall(r"^\|(?:[^|]*\|)?[^|]*\| `([a-z0-9_]+)` \| `", page.read_text(), re.M))
