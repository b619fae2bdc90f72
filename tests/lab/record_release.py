"""Record what a release leaves and accepts: `python -m tests.lab.record_release`.

It writes tests/data/releases/VERSION/, which is never changed afterwards: every later version must read it.
tests/contract/recordings.py compares it with the checked-out tree. `make release-commit` calls this.

- `state/`: a state directory with queued records, dead letters, VMs and changed intervals; `contents.json`
  lists them.
- `settings/`: configurations that use every setting.
- `chart/`: values of the chart.
- `topics.json`: the topics as `barograph topics create` creates them.
- `metrics.yaml`, `metrics-manifest.yaml`: the metrics over OTLP.
- `command-line.txt`: the commands and their flags.
"""

import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from agent import __version__
from agent.config import Flags, load
from agent.core.topic_commands import NewTopics
from agent.core.topic_facts import partitions_for, retention_for
from agent.once import sending_of
from agent.spool.dead_letters import dead_letters
from agent.spool.ledger_format import decode_owed
from agent.spool.queues import Queue
from agent.spool.store import Bounds, open_store
from tests.golden import command_line, state_directory

ROOT = Path(__file__).parents[2]
RELEASES = ROOT / "tests/data/releases"
SETTINGS = ROOT / "tests/data/settings"
CHART = ROOT / "helm/barograph"
METRICS = ROOT / "schemas/metrics"

BROKERS = 3
_ENVIRON = {"BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_STATE_DIRECTORY": "/var/lib/barograph"}


def record(folder: Path) -> None:
    """Write the recording of this tree into `folder`, which must not exist.

    Raises:
        FileExistsError: the folder exists.
    """
    folder.mkdir(parents=True)
    _state(folder)
    (folder / "settings").mkdir()
    for each in SETTINGS.glob("*.yaml"):
        shutil.copy(each, folder / "settings")
    (folder / "chart").mkdir()
    shutil.copy(CHART / "values.yaml", folder / "chart/defaults.yaml")
    for each in (CHART / "ci").glob("*-values.yaml"):
        shutil.copy(each, folder / "chart" / each.name.replace("-values", ""))
    for each in (CHART / "examples").glob("*/values.yaml"):
        shutil.copy(each, folder / "chart" / f"example-{each.parent.name}.yaml")
    (folder / "topics.json").write_text(json.dumps(topics(), indent=1) + "\n")
    shutil.copy(METRICS / "registry.yaml", folder / "metrics.yaml")
    shutil.copy(METRICS / "manifest.yaml", folder / "metrics-manifest.yaml")
    (folder / "command-line.txt").write_text(command_line.help_texts()["cli/parameters.txt"])


def _state(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "state"
        anyio.run(partial(state_directory.leave, directory))
        (folder / "state").mkdir()
        shutil.copy(directory / state_directory.LEDGER, folder / "state")
        (folder / "state/spool.sql").write_text(state_directory.logical(directory / state_directory.SPOOL))
        (folder / "contents.json").write_text(json.dumps(contents(directory), indent=1) + "\n")


def contents(directory: Path) -> dict[str, Any]:
    """Return the contents of a state directory, in terms that do not depend on its format.

    Raises:
        SpoolError: the spool cannot be read.
        NotOurFormat: the ledger cannot be read.
    """
    path = directory / state_directory.SPOOL
    store = open_store(path, Bounds())
    try:
        queues = {
            queue.value: [each.id for _, each in store.read(queue, after=0, size_bytes_max=1 << 30)]
            for queue in Queue
        }
        memories, problems = store.memories()
    finally:
        store.close()
    return {
        "queues": queues,
        "dead_letters": sorted(f"{each.id} {each.reason}" for each in dead_letters(path)),
        "vms": {
            str(address): {
                "id": memory.vm_id,
                "epoch": memory.history.epoch,
                "sequence": memory.history.sequence,
                "last_update": memory.history.watermark_s,
            }
            for address, memory in memories.items()
        },
        "unreadable_vms": list(problems),
        "intervals": [
            f"{each.address} from {each.interval_before_s} s to {each.interval_set_s} s"
            for each in decode_owed((directory / state_directory.LEDGER).read_bytes())
        ],
    }


def topics() -> dict[str, Any]:
    """Return the topics of a default configuration, with the settings of new topics."""
    config = load(Flags(monitor=("/run/vm/*.qmp",), kafka="kafka:9092"), _ENVIRON)
    sending = sending_of(config, None)
    new = NewTopics(partitions=partitions_for(None), retention_ms=retention_for(sending.spool_age_s))
    wanted = new.wanted(BROKERS)
    return {
        each.kind: {
            "name": each.name,
            "partitions": wanted.partitions,
            "replicas": wanted.replicas,
            "config": dict(wanted.config),
        }
        for each in sending.topics
    }


if __name__ == "__main__":
    target = RELEASES / __version__
    if target.exists():
        sys.exit(f"{target.relative_to(ROOT)}: exists; a recording is never changed")
    record(target)
