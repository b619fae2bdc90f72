"""A real Prometheus 3 with its default settings and its OTLP receiver."""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import setup
from tests.lab.kafka import free_port
from tests.lab.qemu import die_with_parent


class Prometheus:
    """Takes OTLP at `otlp`, answers queries."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self.otlp = f"{self._url}/api/v1/otlp"
        config = folder / "prometheus.yml"
        config.write_text("global: {scrape_interval: 15s}\n")
        with (folder / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    setup.prometheus(),
                    "--web.enable-otlp-receiver",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )

    def wait_until_ready(self, timeout_s: float = 30.0) -> None:
        """Return once it takes data."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with urllib.request.urlopen(f"{self._url}/-/ready", timeout=1):
                    return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError("Prometheus does not get ready") from None
                time.sleep(0.1)

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Return the result of an instant query."""
        words = urllib.parse.urlencode({"query": promql})
        with urllib.request.urlopen(f"{self._url}/api/v1/query?{words}", timeout=10) as answer:
            return json.load(answer)["data"]["result"]


@contextmanager
def prometheus(folder: Path) -> Generator[Prometheus]:
    """A Prometheus that runs, and ends with the block."""
    running = Prometheus(folder)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.process.kill()
        running.process.wait()
