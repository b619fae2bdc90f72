"""`barograph status` shows what is wrong, worst first, whatever the names of the VMs."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agent.cli import cli
from agent.cli.status_document import Status, parse
from agent.cli.status_problems import problems, unreachable
from agent.cli.status_table import rows, screen
from agent.core.explanations import explain
from agent.core.reading import State
from agent.core.urgency import Urgency
from tests.unit.test_cli_health import HOST, answering

NOW_MS = 7_200_000


def vm(
    name: str, state: str, available: int | None = None, *, level: str = "none", reason: str = "why"
) -> dict[str, Any]:
    statistics = {} if available is None else {"available_memory": available, "total_memory": 100}
    known = explain(State(state), reason) if state in set(State) else None
    return {
        "age_s": 5.0,
        "state": {"vm": {"name": name}, "state": state, "reason": reason, "since_ms": 0, "detail": "told"},
        "explanation": known and {"meaning": known.meaning, "next_step": known.next_step},
        "sample": {"statistics": statistics},
        "since_ms": 7_100_000 if state == "reporting" and level != "none" else 0,
        "pressure": {"level": level, "score": 0.5},
    }


def document(*vms: Mapping[str, Any], host: str = "one", components: Mapping[str, Any] | None = None) -> str:
    return json.dumps(
        {
            "agent": {
                "host": {"id": "id", "name": host},
                "state": "running",
                "version": "1.2",
                "since_ms": 3_600_000,
            },
            "health": {"state": "ok", "components": components or {}},
            "host": {
                "memory": {"total_bytes": 64 << 30, "available_bytes": 16 << 30},
                "swap": {"total_bytes": 8 << 30, "free_bytes": 8 << 30},
                "pressure": {"some": {"avg10": 1.25}, "full": {"avg10": 0.5}},
            },
            "now_ms": NOW_MS,
            "vms": vms,
        }
    )


def parsed(*vms: Mapping[str, Any], **rest: Any) -> Status:
    return parse(document(*vms, **rest).encode())


def shown(*statuses: Status, wide: bool = False, rows_max: int | None = None) -> list[str]:
    return [line.text for line in screen(statuses, (), wide=wide, rows_max=rows_max)]


def table_of(lines: list[str]) -> list[list[str]]:
    start = next(number for number, line in enumerate(lines) if line.startswith(("VM ", "HOST ")))
    return [line.split() for line in lines[start:]]


def status(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, ["status", *words], env=HOST | environ, prog_name="barograph")


def test_pressure_comes_first_then_unexpected_states_then_the_vms_with_the_least_memory() -> None:
    lines = shown(
        parsed(
            vm("a", "reporting", 50),
            vm("b", "reporting", 4),
            vm("c", "paused"),
            vm("d", "stalled", 9),
            vm("e", "reporting", 2, level="low"),
            vm("f", "reporting", 1, level="oom"),
            vm("g", "reporting", 1, level="pressure"),
            vm("h", "waiting"),
        )
    )

    assert table_of(lines) == [
        ["VM", "PRESSURE", "STATE", "REASON", "SINCE", "AGE", "AVAIL"],
        ["f", "oom", "reporting", "why", "100s", "5s", "1%"],
        ["g", "pressure", "reporting", "why", "100s", "5s", "1%"],
        ["e", "low", "reporting", "why", "100s", "5s", "2%"],
        ["d", "-", "stalled", "why", "2h", "5s", "-"],
        ["h", "-", "waiting", "why", "2h", "5s", "-"],
        ["b", "none", "reporting", "why", "2h", "5s", "4%"],
        ["a", "none", "reporting", "why", "2h", "5s", "50%"],
        ["c", "-", "paused", "why", "2h", "5s", "-"],
    ]


def test_the_host_and_the_agent_are_above_the_problems() -> None:
    parts = {
        "spool": {"state": "ok", "why": "on disk"},
        "kafka.states": {"state": "ok", "why": "0 records queued"},
        "kafka.samples": {"state": "degraded", "why": "no broker; 7 records queued", "since_ms": 7_080_000},
    }

    lines = shown(parsed(vm("a", "reporting", 50), components=parts))

    assert lines[:10] == [
        "host    one, barograph 1.2 running for 60m",
        "memory  16.0G of 64.0G available (25%); 8.0G of 8.0G swap free (100%)",
        "stalls  some 1.2% in 10 s, 0.0% in 60 s; full 0.5% in 10 s, 0.0% in 60 s (PSI)",
        "agent   ok (spool, kafka.states)",
        "        kafka.samples: no broker; 7 records queued",
        "",
        "PROBLEMS: 1",
        "agent/component/kafka.samples  for 2m",
        "    no broker; 7 records queued",
        "    next: run barograph doctor with the agent's settings, to check each broker",
    ]


def test_an_agent_of_an_older_version_gives_the_time_of_the_state_alone() -> None:
    old = vm("o", "reporting", 1, level="oom")
    old["state"]["since_ms"] = 3_600_000
    del old["since_ms"]

    assert [each.since_s for each in problems(parsed(old))] == [3600.0]


def test_a_problem_has_a_code_since_when_which_vms_and_the_next_step() -> None:
    found = problems(
        parsed(
            *(vm(f"s{number}", "stalled", reason="no_advance") for number in range(9)),
            vm("o", "reporting", 1, level="oom"),
            vm("p", "paused", reason="guest-panicked"),
            vm("x", "off", reason="polling_disabled"),
            vm("r", "reporting", 50),
        )
    )

    assert [(each.code, len(each.vms), each.since_s) for each in found] == [
        ("vm/pressure/oom", 1, 100.0),
        ("vm/paused/guest-panicked", 1, 7200.0),
        ("vm/stalled/no_advance", 9, 7200.0),
    ]
    text = "\n".join(
        shown(parsed(*(vm(f"s{number}", "stalled", reason="no_advance") for number in range(9))))
    )
    assert "vm/stalled/no_advance  for 2h\n    s0, s1, s2, s3, s4, s5 and 3 more\n" in text
    assert "    next: check whether the guest hangs" in text


def test_a_problem_names_a_vm_without_a_name_by_the_end_of_its_path() -> None:
    path = "/var/lib/libvirt/qemu/domain-7-mail/monitor.sock"
    text = "\n".join(shown(parsed(vm(path, "no-greeting", reason="silent"))))

    assert "\n    ...n-7-mail/monitor.sock\n" in text


def test_the_table_names_a_vm_without_a_name_by_the_end_of_its_path() -> None:
    unnamed = vm("", "reporting")
    unnamed["state"]["vm"] |= {"id": "5f0c", "path": "/var/lib/libvirt/qemu/domain-7-mail/monitor.sock"}

    (row,) = [line for line in shown(parsed(unnamed)) if "reporting" in line]

    assert row.startswith("...n-7-mail/monitor.sock ")


def test_an_agent_without_vms_is_a_problem_once_it_has_started() -> None:
    empty = json.loads(document())
    empty["agent"]["state"] = "starting"

    assert [each.code for each in problems(parsed())] == ["agent/no-vms"]
    assert problems(parse(json.dumps(empty).encode())) == []


def test_hostile_texts_are_cut_and_printable() -> None:
    bad = "\x1b[2J\u202e\n" + "x" * 999
    hostile = vm(bad, "stalled", reason=bad)
    hostile["explanation"] = {"meaning": bad, "next_step": bad}
    status = parsed(
        hostile,
        vm("b", bad, reason=bad),
        host=bad,
        components={bad: {"state": "degraded", "why": f"{bad} queued"}, "a\x1b": {"state": "ok"}},
    )
    lost = [unreachable(bad, bad)]

    for statuses in ([status], [status, status]):
        lines = [line.text for line in screen(statuses, lost, wide=False)]
        assert all(len(line) <= 80 for line in lines)
        assert all(line.isprintable() and line.isascii() for line in lines)
    assert all(line.text.isprintable() for line in screen([status], lost, wide=True))


def test_numbers_out_of_range_are_shown() -> None:
    odd = vm("a", "reporting", 1 << 62)
    odd["state"]["since_ms"] = -(10**17)
    odd["since_ms"] = -(10**17)
    odd["pressure"]["level"] = "oom"

    lines = shown(parsed(odd))

    assert all(len(line) <= 80 for line in lines)
    assert table_of(lines)[1][-1] == "100%"


def test_a_terminal_shows_what_fits_and_all_vms_with_a_problem() -> None:
    many = parsed(*(vm(f"r{number}", "reporting", 50) for number in range(30)), vm("s", "stalled"))
    worse = parsed(*(vm(f"s{number}", "stalled") for number in range(30)))

    assert shown(many, rows_max=10)[-1] == "and 21 more without a problem; -o wide shows all"
    assert len(table_of(shown(worse, rows_max=10))) == 31


def test_the_wide_form_has_more_columns() -> None:
    memory = {
        "configured": {"base_bytes": 2 << 30, "plugged_bytes": 1 << 30},
        "balloon": {"actual_bytes": 1 << 30},
        "process": {"resident_bytes": 512 << 20},
    }
    lines = table_of(shown(parsed(vm("a", "reporting", 50) | {"memory": memory}), wide=True))

    assert "CONFIGURED" in lines[0]
    assert lines[1][7:12] == ["50%", "0K", "0K", "1.0G", "3.0G"]


def test_the_balloon_of_a_sample_is_shown_while_there_is_no_memory_record() -> None:
    reporting, silent = vm("a", "reporting", 50), vm("s", "stalled")
    for each in (reporting, silent):
        each["sample"]["balloon"] = {"actual_bytes": 1 << 30}

    silent_row, row = table_of(shown(parsed(reporting, silent), wide=True))[1:]

    assert (row[10], silent_row[10]) == ("1.0G", "-")


def test_vms_with_the_same_share_are_in_the_order_of_their_names() -> None:
    more = vm("a", "reporting") | {"sample": {"statistics": {"available_memory": 504, "total_memory": 1000}}}
    status = parsed(vm("b", "reporting", 50), more, vm("c", "reporting", 49))

    assert [row.vm.name for row in rows([status])] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        ("reporting", "why", 0),
        ("paused", "why", 0),
        ("gone", "why", 0),
        ("off", "polling_disabled", 0),
        ("off", "contended", 1),
        ("waiting", "why", 1),
        ("stalled", "why", 1),
        ("new-state", "why", 1),
    ],
)
def test_the_exit_code_shows_whether_all_vms_report(state: str, reason: str, code: int) -> None:
    with answering({"/status": (200, document(vm("a", state, reason=reason)))}) as place:
        assert status("--web", place).exit_code == code


def test_json_is_the_document() -> None:
    text = document(vm("a", "reporting", 50))
    with answering({"/status": (200, text)}) as place:
        assert status("--web", place, "-o", "json").stdout == text + "\n"


def test_several_hosts_are_one_table_and_one_that_does_not_answer_is_a_problem() -> None:
    first = document(vm("a", "reporting", 50), host="first")
    second = document(vm("b", "reporting", 1, level="oom"), host="second")
    with answering({"/status": (200, first)}) as one, answering({"/status": (200, second)}) as two:
        both = status("--url", f"http://{one}", "--url", f"http://{two}/")
        with answering({}) as gone:
            pass
        lost = status("--url", f"http://{one}", "--url", f"http://{gone}")
        as_json = status("--url", f"http://{one}", "--url", f"http://{two}", "-o", "json")

    assert both.exit_code == 0
    assert [line[:2] for line in table_of(both.stdout.splitlines())[1:]] == [["second", "b"], ["first", "a"]]
    assert "vm/pressure/oom  for 100s  second" in both.stdout
    assert lost.exit_code == 1
    assert f"agent/unreachable  {gone}" in lost.stdout
    assert as_json.stdout == f"{first}\n{second}\n"


def test_no_answer_from_any_host_has_its_own_exit_code() -> None:
    with answering({}) as gone:
        pass

    done = status("--url", f"http://{gone}")

    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith(f"no status from {gone}: ")


@pytest.mark.parametrize(
    "url", ["host:1", "https://host:1", "http://host", "http://host:x", "http://h:1/p", "http://u@h:1"]
)
def test_an_odd_url_is_refused(url: str) -> None:
    done = status("--url", url)

    assert done.exit_code == 2
    assert "use http://host:port" in done.stderr


def test_too_many_hosts_are_refused() -> None:
    assert status(*(word for n in range(101) for word in ("--url", f"http://h:{n + 1}"))).exit_code == 2


@pytest.mark.parametrize(
    "answer", [(200, "[]"), (200, "{"), (503, document()), (200, document(vm("a", "reporting", 10**400)))]
)
def test_an_agent_without_a_status_is_reported(answer: tuple[int, str]) -> None:
    with answering({"/status": answer}) as place:
        done = status("--web", place)

    assert done.exit_code == 3
    assert done.stderr.startswith(f"no status from {place}: ")


def test_status_refuses_an_answer_above_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.hosts._ANSWER_MAX_BYTES", 1000)
    with answering(
        {"/status": (200, document(*(vm(f"vm-{number}", "reporting") for number in range(99))))}
    ) as place:
        done = status("--web", place)

    assert done.exit_code == 3
    assert "more than 1,000 bytes" in done.stderr


@pytest.mark.parametrize(("no_color", "escapes"), [("", True), ("1", False)])
def test_color_only_without_no_color(monkeypatch: pytest.MonkeyPatch, no_color: str, escapes: bool) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("agent.cli.status.sys.stdout.isatty", lambda: True, raising=False)
    from agent.cli.status import has_color

    assert has_color() is escapes


def test_output_to_a_pipe_has_no_color() -> None:
    with answering({"/status": (200, document(vm("a", "stalled")))}) as place:
        assert "\x1b" not in status("--web", place).stdout


def test_lines_have_the_urgency_of_their_vm() -> None:
    lines = list(screen([parsed(vm("o", "reporting", 1, level="oom"))], (), wide=False))

    assert [line.urgency for line in lines if line.text.startswith("o ")] == [Urgency.OOM]
