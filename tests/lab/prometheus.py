"""A real Prometheus 3 with its default settings and its OTLP receiver."""

import json
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import setup
from tests.lab.process import free_port, kill, start, wait_until

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the environment says


class Prometheus:
    """Takes OTLP at `otlp`, answers queries."""

    def __init__(self, folder: Path, scrape: str | None, host: str, rules: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self._url = f"http://{host}:{port}"
        self.otlp = f"{self._url}/api/v1/otlp"
        config = folder / "prometheus.yml"
        job = {
            "job_name": "scraped",
            "track_timestamps_staleness": True,
            "static_configs": [{"targets": [scrape]}],
        }
        jobs = [] if scrape is None else [job]
        files = [] if rules is None else [str(rules)]
        every = "15s" if scrape is None else "1s"
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

    def wait_until_ready(self, timeout_s: float = 90.0) -> None:
        """Return once it takes data."""
        wait_until(self._ready, "Prometheus", self.process, self.log, timeout_s)

    def _ready(self) -> bool:
        try:
            with _direct.open(f"{self._url}/-/ready", timeout=1):
                return True
        except OSError:
            return False

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Return the result of an instant query."""
        words = urllib.parse.urlencode({"query": promql})
        with _direct.open(f"{self._url}/api/v1/query?{words}", timeout=10) as answer:
            return json.load(answer)["data"]["result"]


@contextmanager
def prometheus(
    folder: Path, *, scrape: str | None = None, host: str = "127.0.0.1", rules: Path | None = None
) -> Generator[Prometheus]:
    """A Prometheus that runs, and ends with the block; it scrapes `HOST:PORT` each second, if told to."""
    running = Prometheus(folder, scrape, host, rules)
    try:
        running.wait_until_ready()
        yield running
    finally:
        kill(running.process)
