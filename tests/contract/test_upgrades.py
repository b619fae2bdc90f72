"""Every release can be upgraded to this tree, and the check detects what breaks an upgrade.

There is a recording of each release, and one of this tree, so that making and comparing recordings is tested
even before the next release.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from agent.config.choice_sections import RuleConfig
from agent.config.libvirt_sections import LibvirtConfig, MetadataConfig
from agent.config.sections import MonitorConfig
from agent.config.tree import all_settings
from tests.contract import recordings
from tests.lab.record_release import RELEASES, SETTINGS, record

THIS_TREE = "this tree"
METRIC = "metric_name: qemu.vm.guest.memory.free\n"
RECORDED = sorted(path.name for path in RELEASES.glob("*"))


@pytest.fixture(scope="module")
def of_this_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording") / "made"
    record(folder)
    return folder


@pytest.fixture(params=[*RECORDED, THIS_TREE])
def recording(request: pytest.FixtureRequest, of_this_tree: Path) -> Path:
    return of_this_tree if request.param == THIS_TREE else RELEASES / request.param


@pytest.fixture
def copy(of_this_tree: Path, tmp_path: Path) -> Path:
    """A recording to be changed as if this tree had changed since."""
    return Path(shutil.copytree(of_this_tree, tmp_path / "recording"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for files that a configuration names, with libvirt's bindings, which are an extra."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "libvirt.py").touch()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


async def test_the_state_directory_of_every_release_is_read_whole(recording: Path, tmp_path: Path) -> None:
    assert await recordings.state_problems(recording, tmp_path / "state") == []


def test_the_configurations_of_every_release_are_valid(recording: Path, folder: Path) -> None:
    assert recordings.settings_problems(recording, folder) == []


def test_the_chart_accepts_the_values_of_every_release(recording: Path) -> None:
    assert recordings.values_problems(recording) == []


def test_the_topics_of_every_release_suit_the_agent(recording: Path) -> None:
    assert recordings.topics_problems(recording) == []


def test_the_metrics_of_every_release_keep_their_meaning(recording: Path) -> None:
    assert recordings.metrics_problems(recording) == []


def test_the_commands_and_flags_of_every_release_exist(recording: Path) -> None:
    assert recordings.command_line_problems(recording) == []


def test_a_recording_contains_something_of_each_kind(of_this_tree: Path) -> None:
    contents = json.loads((of_this_tree / "contents.json").read_text())

    assert contents["queues"]["samples"]
    assert contents["queues"]["states"]
    assert contents["dead_letters"]
    assert contents["intervals"]
    assert all(each["epoch"] for each in contents["vms"].values())
    assert json.loads((of_this_tree / "topics.json").read_text()).keys() == {"samples", "states", "memory"}
    assert len(list((of_this_tree / "chart").iterdir())) > 10


def test_the_recorded_configurations_use_every_setting() -> None:
    documents = [yaml.safe_load(path.read_text()) for path in sorted(SETTINGS.glob("*.yaml"))]
    used = {place for document in documents for place in _used(document.get("file", document))}
    variables = {name for each in documents for name in each.get("variables", ())}

    of_lists = {
        f"{place}[].{name}"
        for place, model in (
            ("monitors", MonitorConfig),
            ("libvirt", LibvirtConfig),
            ("vms.exclude", RuleConfig),
        )
        for name in model.model_fields
    } | {f"libvirt[].metadata.project.{name}" for name in MetadataConfig.model_fields}
    of_files = {each.dotted for each in all_settings() if not each.env_only}
    assert of_lists | of_files <= used, "add these to tests/data/settings/"
    assert {each.variable for each in all_settings() if each.env_only} <= variables


def _used(node: object, place: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, each in cast("dict[str, object]", node).items():
            yield from _used(each, f"{place}.{name}" if place else name)
    elif isinstance(node, list):
        for each in cast("list[object]", node):
            yield from _used(each, f"{place}[]")
    yield place


# --- what breaks an upgrade ---


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


async def test_a_format_that_is_no_longer_read_is_detected(copy: Path, tmp_path: Path) -> None:
    edit(copy / "state/spool.sql", "PRAGMA user_version = 3;", "PRAGMA user_version = 2;")

    (aside, *rest) = await recordings.state_problems(copy, tmp_path / "state")

    assert "set aside: spool.sqlite" in aside
    assert rest


async def test_a_lost_record_and_a_forgotten_interval_are_detected(copy: Path, tmp_path: Path) -> None:
    edit_json(copy / "contents.json", lambda each: each["queues"]["samples"].append("vm/1"))
    edit_json(copy / "contents.json", lambda each: each["intervals"].append("/run/vm/z.qmp from 0 s to 5 s"))

    problems = await recordings.state_problems(copy, tmp_path / "state")

    assert [each.split(":")[1] for each in problems] == [" queues", " intervals"]


def test_a_renamed_setting_is_detected(copy: Path, folder: Path) -> None:
    edit(copy / "settings/password.yaml", "set_again:", "set_again_after:")

    (problem,) = recordings.settings_problems(copy, folder)

    assert problem.startswith("settings/password.yaml: polling.set_again_after: unknown setting")


def test_a_renamed_value_of_the_chart_is_detected(copy: Path) -> None:
    edit(copy / "chart/defaults.yaml", "\npriorityClass:", "\nclassOfPriority:")

    (problem,) = recordings.values_problems(copy)

    assert "'classOfPriority' was unexpected" in problem


def test_a_renamed_topic_and_one_that_is_too_short_are_detected(copy: Path) -> None:
    edit_json(copy / "topics.json", lambda each: each["samples"].update(name="barograph.updates"))
    edit_json(copy / "topics.json", lambda each: each["states"]["config"].update({"retention.ms": "1000"}))

    renamed, short = recordings.topics_problems(copy)

    assert renamed == "topics: samples: barograph.updates became barograph.samples"
    assert short.startswith("topics: barograph.states: retention.ms")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('unit: "By"\n', 'unit: "KiBy"\n', "became"),
        (METRIC, "metric_name: qemu.vm.age\n", "gone within a major"),
        (METRIC, "metric_name: qemu.vm.age\n", "added, but not the version"),
    ],
)
def test_a_metric_of_another_meaning_is_detected(copy: Path, old: str, new: str, problem: str) -> None:
    edit(copy / "metrics.yaml", old, new)

    assert any(problem in each for each in recordings.metrics_problems(copy))


def test_a_removed_flag_is_detected(copy: Path) -> None:
    with (copy / "command-line.txt").open("a") as file:
        file.write("Usage: barograph give-back [OPTIONS]\n  --all\n")

    assert recordings.command_line_problems(copy) == ["command line: barograph give-back --all: gone"]
