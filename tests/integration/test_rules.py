"""promtool checks the rules for Prometheus, their unit tests, and the configuration in the docs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("page", ["first-alert", "monitoring"])
def test_the_configuration_of_prometheus_in_a_page_is_valid(page: str, tmp_path: Path) -> None:
    need("promtool")
    blocks = re.findall(
        r"^```yaml\n(rule_files: .*?)^```", (ROOT / f"docs/{page}.md").read_text(), re.S | re.M
    )
    file = tmp_path / "prometheus.yml"
    file.write_text("".join(blocks))
    shutil.copy(RULES, tmp_path)

    done = subprocess.run(
        [setup.promtool(), "check", "config", file], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(blocks) == 1
    assert "SUCCESS: 1 rule files found" in done.stdout
