"""Generates the rules of Prometheus and docs/runbooks.md from monitoring/alerts.yaml."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.contract.pressure_rules import STEP_S, pressure_records

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "monitoring/alerts.yaml"
RULES = ROOT / "monitoring/barograph.rules.yaml"
IN_THE_CHART = ROOT / "helm/barograph/files/monitoring"
RUNBOOKS = ROOT / "docs/runbooks.md"

_COMMAND = "python -m tests.contract.generate_rules"
_VM = "VM {{ or $labels.qemu_vm_name $labels.qemu_vm_id $labels.qemu_vm_monitor_path }}"
_HOST = "{{ $labels.host_name }}"


def source() -> dict[str, Any]:
    """Return the table: `records` and `alerts`."""
    return yaml.safe_load(SOURCE.read_text())


def expression(alert: Mapping[str, Any]) -> str:
    """Return the alert's expression. An alert about an agent is joined with the host's id and name."""
    if not alert.get("agent"):
        return alert["expr"]
    on = "on (cluster, job, instance) group_left (host_id, host_name) barograph:agent:info"
    return f"({alert['expr']}) * {on}"


def rules() -> str:
    """Return the rule file of Prometheus."""
    table = source()
    runbooks_url = table["runbooks"]
    groups = [
        {"name": "barograph.records", "rules": table["records"]},
        {"name": "barograph.pressure", "interval": f"{STEP_S}s", "rules": pressure_records()},
        {"name": "barograph.alerts", "rules": [_rule(alert, runbooks_url) for alert in table["alerts"]]},
    ]
    text = yaml.safe_dump({"groups": groups}, sort_keys=False, width=10_000)
    return f"# Generated from monitoring/alerts.yaml: `{_COMMAND}`.\n{text}"


def _rule(alert: Mapping[str, Any], runbooks_url: str) -> dict[str, Any]:
    return {
        "alert": alert["alert"],
        "expr": expression(alert),
        "for": alert["for"],
        "labels": {"severity": alert["severity"]},
        "annotations": {
            "summary": _named(alert["summary"], _VM, _HOST),
            "description": alert["description"],
            "runbook_url": f"{runbooks_url}#{alert['alert'].lower()}",
        },
    }


def _named(text: str, vm: str, host: str) -> str:
    return re.sub(r"\bHOST\b", lambda _: host, re.sub(r"\bVM\b", lambda _: vm, text))


def runbooks() -> str:
    """Return the page with a section for each alert."""
    head = (
        f"<!-- Generated from monitoring/alerts.yaml: `{_COMMAND}`. -->\n# Runbooks\n\n"
        "One section for each alert in `monitoring/barograph.rules.yaml`. [monitoring.md](monitoring.md) says"
        " how to\ninstall the rules. VM stands for the name of the VM; if it has none, for its id or the"
        " path of its\nmonitor. HOST stands for the name of the host.\n"
    )
    return head + "".join(_section(alert) for alert in source()["alerts"])


def _section(alert: Mapping[str, Any]) -> str:
    delay = "at once" if alert["for"] == "0m" else f"after {alert['for']}"
    summary = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"`\1`", alert["summary"])
    described = alert.get("meaning", alert["description"])
    meaning = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"`\1`", described)
    return (
        f"\n## {alert['alert']}\n\n{summary}. Severity `{alert['severity']}`, {delay}.\n\n"
        f"```promql\n{alert['expr']}\n```\n\n"
        f"- **Meaning**: {meaning}\n"
        f"- **Impact**: {alert['impact']}\n"
        f"- **Diagnosis**: {alert['diagnosis']}\n"
        f"- **Mitigation**: {alert['mitigation']}\n"
    )


@cache
def made() -> Mapping[Path, str]:
    """Return the content of every generated file."""
    return {RULES: rules(), IN_THE_CHART / RULES.name: rules(), RUNBOOKS: runbooks()}


def main() -> None:
    """Write all generated files."""
    for path, text in made().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
