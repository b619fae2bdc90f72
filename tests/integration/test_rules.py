"""promtool checks the rules for Prometheus, and runs their unit tests."""

import subprocess

from tests.contract.generate_rules import ROOT, RULES
from tests.integration.conftest import need
from tests.lab import setup


def test_every_alert_fires_and_clears_with_its_texts() -> None:
    need("promtool")
    for words in (["check", "rules", RULES], ["test", "rules", ROOT / "monitoring/tests/alerts.yaml"]):
        done = subprocess.run(
            [setup.promtool(), *words], capture_output=True, text=True, timeout=120, check=False
        )

        assert done.returncode == 0, done.stdout + done.stderr
