"""The format of the files in tests/data/recorded_series: series in promtool's notation, and alerts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import yaml
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families,
)

_GUEST = (
    "memory_available_bytes memory_total_bytes paging_major_faults_total swap_in_bytes_total"
    " swap_out_bytes_total oom_kills_total allocation_stalls_total"
)
_VM = "pressure_level pressure_score"
_AGENT = (
    "component_health dropped_total readings_total spool_dead_letters queue_age_seconds spool_limit_bytes"
    " spool_used_bytes"
)
TIMED: Sequence[str] = (
    *(f"qemu_vm_guest_{name}" for name in _GUEST.split()),
    *(f"qemu_vm_{name}" for name in _VM.split()),
)
"""Series with the time of the guest's last update, in whole seconds."""

HELD: Sequence[str] = (
    "up",
    "target_info",
    "qemu_vm_state_reason",
    *(f"barograph_{name}" for name in _AGENT.split()),
)
"""Series with the time of the scrape. These are what the rules need, except for the lags and the host's
memory, which no step changes."""


STALE = "stale"


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert that fired, in seconds from the start of the recording. The texts are the last ones seen."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    first_s: float
    last_s: float


def held(steps: Mapping[int, str], step_s: int, count: int) -> dict[int, str]:
    """Return a value for each second from a value for each step. A series that ends becomes stale."""
    seconds: dict[int, str] = {}
    for step in range(count):
        if step in steps:
            seconds |= dict.fromkeys(range(step * step_s, (step + 1) * step_s), steps[step])
        elif step - 1 in steps:
            seconds[step * step_s] = STALE
    return seconds


def timed(points: Mapping[int, str], steps: Mapping[int, str], step_s: int, count: int) -> dict[int, str]:
    """Return the points at their seconds, and the seconds at which `steps` shows that the series ended."""
    ends = {step * step_s: STALE for step in range(1, count) if step - 1 in steps and step not in steps}
    return {**ends, **points}


def from_pages(
    pages: Sequence[str], labels: Mapping[str, str], start_s: float, step_s: int
) -> dict[str, str]:
    """Return the series that the rules need, from pages in OpenMetrics' format, one for each step.

    Args:
        pages: an empty one stands for a scrape that failed.
        labels: the labels of the target.
        start_s: the time of the first page; samples with an earlier time are left out.
        step_s: the time from one page to the next.
    """
    inside = ",".join(f'{name}="{value}"' for name, value in labels.items())
    steps: dict[str, dict[int, str]] = {f"up{{{inside}}}": {}}
    points: dict[str, dict[int, str]] = {}
    for step, text in enumerate(pages):
        steps[f"up{{{inside}}}"][step] = str(int(bool(text)))
        for family in text_string_to_metric_families(text) if text else ():
            for sample in family.samples:
                if sample.name not in HELD and sample.name not in TIMED:
                    continue
                more = "".join(f',{name}="{value}"' for name, value in sorted(sample.labels.items()))
                key, value = f"{sample.name}{{{inside}{more}}}", f"{sample.value:.12g}"
                steps.setdefault(key, {})[step] = value
                if sample.name in TIMED and sample.timestamp is not None:
                    second = round(float(sample.timestamp) - start_s)
                    points.setdefault(key, {}).update({second: value} if second >= 0 else {})
    count = len(pages)
    return {
        name: notation(
            timed(points[name], values, step_s, count) if name in points else held(values, step_s, count),
            count * step_s,
        )
        for name, values in steps.items()
    }


def notation(values: Mapping[int, str], end: int) -> str:
    """Return the values by second in promtool's notation."""
    words: list[str] = []
    for value, group in groupby(values.get(second) for second in range(end)):
        count = len(list(group))
        if value is None:
            words.append(f"_x{count}")
        elif value == STALE or count == 1:
            words += [value] * count
        else:
            words.append(f"{value}x{count - 1}")
    return " ".join(words)


def as_document(
    events: Sequence[Mapping[str, object]], series: Mapping[str, str], firings: Sequence[Firing]
) -> str:
    """Return the text of a recording's file."""
    document = {
        "interval": "1s",
        "events": list(events),
        "alerts": [
            {
                "from_s": round(each.first_s),
                "until_s": round(each.last_s),
                "labels": dict(each.labels),
                "annotations": dict(each.annotations),
            }
            for each in sorted(firings, key=lambda each: each.first_s)
        ],
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
    }
    return yaml.safe_dump(document, sort_keys=False, width=10_000)
