"""Writes what follows from monitoring/alerts.yaml: the rules of Prometheus and docs/runbooks.md."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "monitoring/alerts.yaml"
RULES = ROOT / "monitoring/barograph.rules.yaml"
RUNBOOKS = ROOT / "docs/runbooks.md"
_COMMAND = "python -m tests.contract.generate_rules"


def source() -> dict[str, Any]:
    """Return the table: `records` and `alerts`."""
    return yaml.safe_load(SOURCE.read_text())


def rules() -> str:
    """Return the rule file of Prometheus."""
    table = source()
    groups = [
        {"name": "barograph.records", "rules": table["records"]},
        {"name": "barograph.alerts", "rules": [_rule(alert) for alert in table["alerts"]]},
    ]
    text = yaml.safe_dump({"groups": groups}, sort_keys=False, width=10_000)
    return f"# Generated from monitoring/alerts.yaml: `{_COMMAND}`.\n{text}"


def _rule(alert: dict[str, str]) -> dict[str, Any]:
    return {
        "alert": alert["alert"],
        "expr": alert["expr"],
        "for": alert["for"],
        "labels": {"severity": alert["severity"]},
        "annotations": {
            "summary": alert["summary"],
            "description": alert["description"],
            "runbook_url": f"docs/runbooks.md#{alert['alert'].lower()}",
        },
    }


def runbooks() -> str:
    """Return the page with a section for each alert."""
    head = (
        f"<!-- Generated from monitoring/alerts.yaml: `{_COMMAND}`. -->\n# Runbooks\n\n"
        "One section for each alert in `monitoring/barograph.rules.yaml`. The rules work with `/metrics`\n"
        "and with OTLP, since the names are the same. In a scrape configuration the name of the job must\n"
        "contain `barograph`. Set `track_timestamps_staleness: true` there, so that the values of a VM\n"
        "that is gone end at once.\n"
    )
    return head + "".join(_section(alert) for alert in source()["alerts"])


def _section(alert: dict[str, str]) -> str:
    delay = "at once" if alert["for"] == "0m" else f"after {alert['for']}"
    return (
        f"\n## {alert['alert']}\n\nSeverity `{alert['severity']}`, {delay}.\n\n"
        f"```promql\n{alert['expr']}\n```\n\n"
        f"- **Meaning**: {_plain(alert)}\n"
        f"- **Impact**: {alert['impact']}\n"
        f"- **Diagnosis**: {alert['diagnosis']}\n"
        f"- **Mitigation**: {alert['mitigation']}\n"
    )


def _plain(alert: dict[str, str]) -> str:
    return f"`{alert['description']}`" if "{{" in alert["description"] else alert["description"]


def main() -> None:
    """Write both files."""
    RULES.write_text(rules())
    RUNBOOKS.write_text(runbooks())


if __name__ == "__main__":
    main()
