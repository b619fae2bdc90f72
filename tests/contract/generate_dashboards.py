"""Generates the Grafana dashboards: `python -m tests.contract.generate_dashboards`.

The source is monitoring/dashboards.yaml.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.contract.generate_rules import IN_THE_CHART, ROOT

SOURCE = ROOT / "monitoring/dashboards.yaml"
FOLDER = ROOT / "monitoring/dashboards"

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_HOST = 'cluster=~"$cluster",host_name=~"$host"'
_OF_A_VM = f'{_HOST},qemu_vm_name=~"$vm"'
_AGENT = 'cluster=~"$cluster"'
_JOIN = '* on (cluster, job, instance) group_left (host_name) barograph:agent:info{host_name=~"$host"}'


def source() -> Mapping[str, Mapping[str, Any]]:
    """Return the dashboards by name.

    Each has a `title`, and `panels` of title, unit, description and queries by legend.
    """
    return yaml.safe_load(SOURCE.read_text())


def query(text: str) -> str:
    """Return a query of the source with the matchers of the variables."""
    for word, matchers in (("{HOST}", _HOST), ("{VM}", _OF_A_VM), ("{AGENT}", _AGENT)):
        text = text.replace(word, f"{{{matchers}}}")
    return text.replace("JOIN", _JOIN)


def queries() -> Iterator[tuple[str, str]]:
    """Yield each query, with the names of its dashboard and panel."""
    for name, board in source().items():
        for title, _, _, by_legend in board["panels"]:
            yield from ((f"{name}: {title}", query(text)) for text in by_legend.values())


@cache
def made() -> Mapping[Path, str]:
    """Return the content of every generated file."""
    texts = {name: json.dumps(_dashboard(name, board), indent=1) + "\n" for name, board in source().items()}
    return {
        folder / f"{name}.json": text for folder in (FOLDER, IN_THE_CHART) for name, text in texts.items()
    }


def _dashboard(name: str, board: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "uid": f"barograph-{name}",
        "title": board["title"],
        "tags": ["barograph"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables(name))},
        "links": [
            {
                "title": "Barograph",
                "type": "dashboards",
                "tags": ["barograph"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "panels": [_panel(number, *panel) for number, panel in enumerate(board["panels"])],
    }


def _variables(name: str) -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "type": "datasource", "query": "prometheus"}
    yield _variable("cluster", "label_values(barograph_readings_total, cluster)")
    yield _variable("host", 'label_values(target_info{cluster=~"$cluster"}, host_name)')
    if name == "vm":
        yield _variable("vm", f"label_values(qemu_vm_state{{{_HOST}}}, qemu_vm_name)")


def _variable(name: str, values: str) -> dict[str, Any]:
    # `.*` also matches series without the label, unlike a list of all values.
    return {
        "name": name,
        "label": {"vm": "VM"}.get(name, name.capitalize()),
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": values, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(
    number: int, title: str, unit: str, description: str, by_legend: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": _DATASOURCE,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {"defaults": {"unit": unit, "custom": {"spanNulls": False}}, "overrides": []},
        "options": {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]}},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _DATASOURCE,
                "expr": query(text),
                "legendFormat": legend,
            }
            for place, (legend, text) in enumerate(by_legend.items())
        ],
    }


def main() -> None:
    """Write all generated files."""
    for path, text in made().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
