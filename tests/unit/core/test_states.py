"""Tests of the details of states: a detail stays true for as long as the state lasts."""

import pytest
from msgspec.structs import replace

from agent.core.address import MonitorPath, Via
from agent.core.states import Facts, judge
from agent.errors import LinkFault

REPORTING = Facts(
    via=Via.QMP,
    link_open=True,
    claimed=True,
    fault=None,
    fault_detail="",
    path_refused=False,
    greeted_before=True,
    other_address=None,
    overdue=False,
    answer_within_s=1.0,
    has_balloon=True,
    has_shut_down=False,
    run_state="running",
    interval_s=10,
    about_to_set=False,
    set_back=False,
    contended=False,
    blocked=None,
    rebooted=False,
    last_update_s=1_800_000_000,
    all_unset=False,
    kicked=False,
    advancing=True,
    silent_s=1.0,
    checking=False,
    deadline_s=30.0,
)
CASES: dict[str, Facts] = {
    "reporting": REPORTING,
    "settling": replace(REPORTING, advancing=False),
    "stalled": replace(REPORTING, silent_s=31.0),
    "overdue": replace(REPORTING, overdue=True),
    "hangs at its exit": replace(REPORTING, overdue=True, has_shut_down=True),
    "overdue, libvirt": replace(REPORTING, overdue=True, via=Via.LIBVIRT),
    "no balloon": replace(REPORTING, has_balloon=False),
    "paused": replace(REPORTING, run_state="paused"),
    "off": replace(REPORTING, interval_s=0),
    "set back": replace(REPORTING, interval_s=0, set_back=True),
    "contended": replace(REPORTING, interval_s=0, contended=True),
    "rebooted": replace(REPORTING, rebooted=True),
    "no update": replace(REPORTING, last_update_s=0),
    "empty": replace(REPORTING, all_unset=True),
    "duplicate": replace(REPORTING, link_open=False, other_address=MonitorPath("/a")),
    **{str(fault): replace(REPORTING, link_open=False, fault=fault) for fault in LinkFault},
}


@pytest.mark.parametrize("facts", CASES.values(), ids=CASES.keys())
def test_no_detail_changes_while_only_time_passes(facts: Facts) -> None:
    aged = replace(facts, silent_s=facts.silent_s + (1 if facts.silent_s <= facts.deadline_s else 3600))

    assert judge(aged) == judge(facts)
    assert judge(facts) is not None


def test_a_stall_names_its_limit() -> None:
    verdict = judge(CASES["stalled"])

    assert verdict is not None
    assert verdict.detail.startswith("no update within 30 s at an interval of 10 s; check")


@pytest.mark.parametrize("word", ["guest agent", "HTTP", "Firecracker", "Cloud Hypervisor"])
def test_a_silence_names_the_peers_that_wait_for_a_request(word: str) -> None:
    verdict = judge(CASES["silent"])

    assert verdict is not None
    assert word in verdict.detail
