"""A real Prometheus 3 with its default settings and its OTLP receiver."""

import json
import urllib.parse
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import setup
from tests.lab.local_http import NO_ANSWER, OPENER
from tests.lab.process import free_port, kill, start, wait_until


class Prometheus:
    """A running Prometheus that receives OTLP at `otlp` and answers queries."""

    def __init__(
        self,
        folder: Path,
        hosts: Mapping[str, str],
        host: str,
        rules: Path | None = None,
        every_s: int = 0,
        job: str = "barograph",
    ) -> None:
        """Start Prometheus.

        Args:
            folder: for its files.
            hosts: the targets: the label `instance` and the `HOST:PORT` of each agent.
            host: the address to listen on.
            rules: a rule file.
            every_s: the interval of scrapes and rules; 0 means 1 s with targets, otherwise 15 s.
            job: the label `job` of the targets.
        """
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self._url = f"http://{host}:{port}"
        self.otlp = f"{self._url}/api/v1/otlp"
        config = folder / "prometheus.yml"
        scraped = {
            "job_name": job,
            "track_timestamps_staleness": True,
            "static_configs": [
                {"targets": [target], "labels": {"instance": instance}} for instance, target in hosts.items()
            ],
        }
        jobs = [scraped] if hosts else []
        files = [] if rules is None else [str(rules)]
        every = f"{every_s or (1 if hosts else 15)}s"
        # JSON is YAML.
        config.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": every, "evaluation_interval": every},
                    "rule_files": files,
                    "scrape_configs": jobs,
                }
            )
        )
        self.log = folder / "prometheus.log"
        self.process = start(
            [
                setup.prometheus(),
                "--web.enable-otlp-receiver",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={host}:{port}",
            ],
            self.log,
        )

    def wait_until_ready(self, timeout_s: float = 180.0) -> None:
        """Return once it accepts data."""
        wait_until(self._ready, "Prometheus", self.process, self.log, timeout_s)

    def _ready(self) -> bool:
        try:
            with OPENER.open(f"{self._url}/-/ready", timeout=5):
                return True
        except NO_ANSWER:
            return False

    def query(self, promql: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """Return the result of an instant query, now or at a time."""
        time = {} if at_s is None else {"time": at_s}
        return self._get("query", query=promql, **time)["result"]

    def query_range(self, promql: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """Return the values at each step."""
        return self._get("query_range", query=promql, start=start_s, end=end_s, step=step_s)["result"]

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing."""
        return self._get("alerts")["alerts"]

    def _get(self, path: str, **arguments: object) -> dict[str, Any]:
        words = urllib.parse.urlencode(arguments)
        with OPENER.open(f"{self._url}/api/v1/{path}?{words}", timeout=60) as answer:
            return json.load(answer)["data"]


@contextmanager
def prometheus(
    folder: Path,
    *,
    scrape: str | None = None,
    hosts: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    rules: Path | None = None,
    every_s: int = 0,
    job: str = "barograph",
) -> Generator[Prometheus]:
    """Run a Prometheus until the block ends. With `scrape`, it scrapes this `HOST:PORT` every second.

    `hosts` gives several agents to scrape, as `instance` labels with their `HOST:PORT`.
    """
    targets = hosts or ({} if scrape is None else {scrape: scrape})
    running = Prometheus(folder, targets, host, rules, every_s, job)
    try:
        running.wait_until_ready()
        yield running
    finally:
        kill(running.process)
