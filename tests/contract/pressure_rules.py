"""The level of docs/pressure.md as recording rules, computed from the raw samples in Prometheus.

Prometheus knows neither epochs nor origins, and evaluates at its own instants: docs/monitoring.md lists the
consequences. A range does not include its left end, so a range that must include it is longer.
"""

from typing import Final

STEP_S: Final = 15
"""The interval of the group."""

_GAP: Final = "600001ms"  # a sample that is exactly 10 minutes old counts
_KEPT: Final = "6h"  # how long a level is kept without samples
_CALM_S: Final = 900


def pressure_records(step_s: int = STEP_S) -> list[dict[str, str]]:
    """Return the rules in the order of evaluation. They need to be evaluated every `step_s`."""
    available = f"last_over_time(qemu_vm_guest_memory_available_bytes[{_GAP}])"
    total = f"last_over_time(qemu_vm_guest_memory_total_bytes[{_GAP}])"
    ratio = f"({available} / ({total} > 0))"
    faults = _rises("qemu_vm_guest_paging_major_faults_total")
    swap_in = _rises("qemu_vm_guest_swap_in_bytes_total")
    swap_out = _rises("qemu_vm_guest_swap_out_bytes_total")
    oom_kills = "qemu_vm_guest_oom_kills_total"
    kill = f"last_over_time(qemu_vm:oom_kill:time_seconds[{_CALM_S + 60}s])"
    return [
        {"record": "qemu_vm:pressure_low:bool", "expr": f"{ratio} < bool 0.03"},
        {
            "record": "qemu_vm:pressure_pressure:bool",
            "expr": f"(({ratio} < 0.05 and ({faults} >= 5 or {swap_in} + {swap_out} >= 1048576)) * 0 + 1)"
            f" or {ratio} * 0",
        },
        {
            "record": "qemu_vm:oom_kill:time_seconds",
            "expr": f"timestamp({oom_kills}) and idelta({oom_kills}[1h]) > 0",
        },
        _held("low", 1_800, step_s),
        _held("pressure", 300, step_s),
        {
            "record": "qemu_vm:pressure:level",
            "expr": f"(time() - {kill} < bool {_CALM_S}) * 3 > 0"
            " or qemu_vm:pressure_pressure:reached * 2 > 0 or qemu_vm:pressure_low:reached"
            " or last_over_time(qemu_vm_guest_memory_total_bytes[10m]) * 0",
        },
    ]


def _rises(counter: str) -> str:
    """Return the rate between the newest two samples, which has no value if the counter fell."""
    return f"(irate({counter}[{_GAP}]) and idelta({counter}[{_GAP}]) >= 0)"


def _held(level: str, after_s: int, step_s: int) -> dict[str, str]:
    """Return the rule of a level: reached after `after_s` with the condition, left after 15 min without."""
    condition, reached = f"qemu_vm:pressure_{level}:bool", f"qemu_vm:pressure_{level}:reached"
    calm = f"{_CALM_S + step_s}s"
    begun = f"(min_over_time({condition}[{after_s}s]) * ({condition} offset {after_s}s)) > 0"
    over = f"max_over_time({condition}[{calm}]) == 0 and {condition} offset {_CALM_S}s"
    kept = f"({condition} * 0 + last_over_time({reached}[{_KEPT}])) > 0 unless ({over})"
    return {"record": reached, "expr": f"({begun}) or ({kept}) or {condition} * 0"}
