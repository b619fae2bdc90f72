"""Record troubles as Prometheus stores them: `python -m tests.lab.record_series KIND FOLDER [MINUTES]`.

| kind | records |
| --- | --- |
| `guests`, `agents` | agents, hosts and VMs in trouble; one Prometheus scrapes, another receives OTLP |
| `jobs` | stream jobs in trouble; one Prometheus scrapes them |
| `silent` | VMs without statistics for an hour; the metrics are read without a Prometheus |
| `stalls` | a guest whose programs wait for memory; the metrics are read without a Prometheus |

Each Prometheus evaluates the rules of monitoring/. FOLDER gets a file for each, with the series in promtool's
notation and the alerts that fired. No times are scaled: they are those of the rules.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab import agent_troubles, guest_troubles, job_troubles
from tests.lab.lone_troubles import Silent, Stalls
from tests.lab.process import no_child_left

KINDS = {
    "guests": guest_troubles,
    "agents": agent_troubles,
    "jobs": job_troubles,
    "silent": Silent,
    "stalls": Stalls,
}


def main(words: Sequence[str]) -> int:
    """Record for as long as the troubles last, or for the minutes of the third argument."""
    kind = KINDS[words[0]]
    into = Path(words[1])
    into.mkdir(parents=True, exist_ok=True)
    minutes = float(words[2]) if len(words) > 2 else kind.MINUTES
    with no_child_left(), tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as folder:
        kind.record(Path(folder), into, minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
