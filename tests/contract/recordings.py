"""Compares the recording of a release with this tree, which must accept what the release left or accepted.

tests/lab/record_release.py makes the recordings. Each function returns the problems of an upgrade.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import jsonschema
import yaml

from agent.config import Flags, load
from agent.core.findings import Level
from agent.core.topic_audit import audit
from agent.core.topic_commands import Cluster
from agent.core.topic_facts import ClusterFacts, TopicFacts
from agent.errors import ConfigError
from agent.once import sending_of
from agent.spool.disk import Settings, open_spool
from agent.spool.ledger import open_ledger
from agent.telemetry import Counters
from tests.contract.generate import attributes_of, metrics_of
from tests.golden import command_line, state_directory
from tests.golden.documents import FAR_MS
from tests.lab.record_release import BROKERS, CHART, METRICS, contents, topics

_TLS = Path(__file__).parents[1] / "data/tls"
_ENVIRON = {"BAROGRAPH_HOST__NAME": "one", "BAROGRAPH_STATE_DIRECTORY": "/var/lib/barograph"}
_BROKER_CONFIG = {
    "compression.type": "producer",
    "max.message.bytes": "1048588",
    "message.timestamp.type": "CreateTime",
    "retention.bytes": "-1",
}
"""Defaults of a broker (kafka.apache.org, Topic Configs)."""


async def state_problems(recording: Path, directory: Path) -> list[str]:
    """Open the recorded state directory as the agent does, and return what is missing from it afterwards.

    Args:
        recording: the folder of the release.
        directory: where to restore the state directory; must not exist.
    """
    state_directory.restore(recording / "state", directory)
    async with (
        open_ledger(str(directory), FAR_MS),
        open_spool(Settings(directory=directory), Counters(), lambda: FAR_MS),
    ):
        pass
    left = _set_aside(directory)
    found = contents(directory) if not left else {}
    expected: dict[str, Any] = json.loads((recording / "contents.json").read_text())
    return [f"state: set aside: {name}" for name in left] + [
        f"state: {name}: {wanted!r} became {found.get(name)!r}"
        for name, wanted in expected.items()
        if not _contained(wanted, found.get(name))
    ]


def _set_aside(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir() if each.name.endswith(".bad"))


def _contained(wanted: object, found: object) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        there = cast("dict[str, object]", found)
        return all(
            _contained(each, there.get(name)) for name, each in cast("dict[str, object]", wanted).items()
        )
    return wanted == found


def settings_problems(recording: Path, folder: Path) -> list[str]:
    """Validate the recorded configurations as `check-config` does.

    Args:
        recording: the folder of the release.
        folder: where to put the files that a configuration names; must exist.
    """
    for name in ("ca.pem", "cert.pem", "key.pem"):
        shutil.copy(_TLS / name, folder)
    for name in ("kafka-password", "client-secret", "token"):
        (folder / name).write_text("secret\n")
    (folder / "headers").write_text("x-other: two\n")
    (folder / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    problems: list[str] = []
    for path in sorted((recording / "settings").glob("*.yaml")):
        text = path.read_text().replace("/etc/barograph/", f"{folder}/")
        document = yaml.safe_load(text.replace("/etc/machine-id", f"{folder}/machine-id"))
        variables: dict[str, str] = {}
        if "variables" in document:
            document, variables = document["file"], document["variables"]
        file = folder / path.name
        file.write_text(yaml.safe_dump(document))
        try:
            load(Flags(config=str(file)), _ENVIRON | variables)
        except ConfigError as error:
            problems += [f"settings/{path.name}: {each}" for each in error.problems]
    return problems


def values_problems(recording: Path) -> list[str]:
    """Validate the recorded values with the schema of the chart, as Helm does."""
    validator: Any = jsonschema.Draft202012Validator(json.loads((CHART / "values.schema.json").read_text()))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    return [
        f"chart/{path.name}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
        for path in sorted((recording / "chart").glob("*.yaml"))
        for error in validator.iter_errors(_over(defaults, yaml.safe_load(path.read_text()) or {}))
    ]


def _over(lower: object, upper: object) -> object:
    """Merge as Helm does: maps by key, null removes."""
    if not isinstance(lower, dict) or not isinstance(upper, dict):
        return upper
    below, above = cast("dict[str, object]", lower), cast("dict[str, object]", upper)
    merged = below | {name: _over(below.get(name), value) for name, value in above.items()}
    return {name: value for name, value in merged.items() if value is not None}


def topics_problems(recording: Path) -> list[str]:
    """Check the recorded topics as `barograph topics check` does."""
    recorded: dict[str, Any] = json.loads((recording / "topics.json").read_text())
    now = topics()
    problems = [
        f"topics: {kind}: {each['name']} became {now.get(kind, {}).get('name')}"
        for kind, each in recorded.items()
        if each["name"] != now.get(kind, {}).get("name")
    ]
    config = load(
        Flags(monitor=("/run/vm/*.qmp",), kafka="kafka:9092"), _ENVIRON | {"BAROGRAPH_HOST__ID": "host-1"}
    )
    facts = {
        each["name"]: TopicFacts(
            replicas=[each["replicas"]] * each["partitions"],
            in_sync=[each["replicas"]] * each["partitions"],
            may_write=True,
            config=_BROKER_CONFIG | each["config"],
        )
        for each in recorded.values()
    }
    sending = sending_of(config, None)
    cluster = Cluster(["kafka:9092"], is_secured=False, principal=None)
    return problems + [
        f"topics: {each.subject}: {each.detail}"
        for each in audit(sending, ClusterFacts(brokers=BROKERS, topics=facts), cluster)
        if each.level is Level.ERROR and each.subject in facts
    ]


def metrics_problems(recording: Path) -> list[str]:
    """Compare the metrics by the rules of schemas/README.md."""
    before, after = _metrics(recording / "metrics.yaml"), _metrics(METRICS / "registry.yaml")
    old, new = _version(recording / "metrics-manifest.yaml"), _version(METRICS / "manifest.yaml")
    problems = [
        f"metrics: {name}: {before[name]} became {after[name]}"
        for name in before.keys() & after.keys()
        if before[name] != after[name]
    ]
    if new[0] == old[0]:
        problems += [f"metrics: {name}: gone within a major version" for name in before.keys() - after.keys()]
    if new <= old:
        problems += [f"metrics: {name}: added, but not the version" for name in after.keys() - before.keys()]
    return sorted(problems)


def _metrics(path: Path) -> Mapping[str, tuple[object, ...]]:
    groups = yaml.load(path.read_text(), yaml.CSafeLoader)["groups"]  # SafeLoader needs ten times the CPU
    return {
        str(each["metric_name"]): (each["instrument"], each["unit"], *sorted(attributes_of(each)))
        for each in metrics_of(groups)
    }


def _version(path: Path) -> tuple[int, ...]:
    return tuple(
        int(part) for part in yaml.safe_load(path.read_text())["schema_url"].split("/")[-1].split(".")
    )


def command_line_problems(recording: Path) -> list[str]:
    """Compare commands and flags."""
    before = set(_flags((recording / "command-line.txt").read_text()))
    after = set(_flags(_parameters()))
    return [f"command line: {command} {flag}: gone" for command, flag in sorted(before - after)]


@cache
def _parameters() -> str:
    return command_line.help_texts()["cli/parameters.txt"]


def _flags(text: str) -> Iterator[tuple[str, str]]:
    command = ""
    for line in text.splitlines():
        if line.startswith("Usage: "):
            command = line.removeprefix("Usage: ").partition(" [")[0]
        else:
            for name in re.findall(r"(?:^|[ ,/])(--?[a-z][a-z-]*|[a-z][a-z-]*)", line):
                yield command, name
