"""Tests of `barograph tap`: the lines that it shows for the records of scripted agents."""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner, Result

from agent.cli import cli
from agent.cli.tap import Kind
from agent.cli.tap_lines import exact, record_line
from agent.contract.encode import (
    Mode,
    encode_agent_state,
    encode_host_memory,
    encode_sample,
    encode_state,
    encode_vm_memory,
)
from agent.core.agent_state import AgentEvent, AgentPhase
from agent.core.reading import Record, State
from agent.core.tap import KINDS
from tests.golden.documents import HOST_MEMORY_EVENT
from tests.unit.sinks.views import AGENT, T0_S, memory, sample, view
from tests.unit.test_cli_health import HOST

AGENT_EVENT = AgentEvent(1, AgentPhase.RUNNING, "found 3 monitors", 5, 6, None, False, 7, {}, {})


def records(mode: Mode) -> Sequence[Record]:
    stalled = replace(
        view(state=State.STALLED).state,
        reason="no_advance",
        previous_state=State.REPORTING,
        detail="no update within 30 s at an interval of 10 s",
    )
    gib = {"available_memory": 1 << 29, "total_memory": 1 << 33}
    return [
        encode_sample(sample(T0_S, statistics=gib), AGENT, mode),
        encode_sample(sample(T0_S, statistics={"swap_in": 1}), AGENT, mode),
        encode_state(stalled, AGENT, mode),
        encode_state(replace(stalled, heartbeat=True), AGENT, mode),
        encode_vm_memory(memory(T0_S * 1000), AGENT, mode),
        encode_host_memory(HOST_MEMORY_EVENT, AGENT, mode),
        encode_agent_state(AGENT_EVENT, AGENT, mode),
    ]


def line(record: Record, *, with_host: bool = False, wide: bool = False) -> str:
    return record_line(record.kind.value, record.value, with_host=with_host, wide=wide)


@pytest.mark.parametrize("mode", list(Mode))
def test_every_kind_of_record_is_one_line_whatever_the_mode(mode: Mode) -> None:
    lines = [line(each) for each in records(mode)]

    assert lines == [
        "03:20:00Z sample      web-3           512.0M/8.0G available (6%), lag 0.0s",
        "03:20:00Z sample      web-3           1 statistic, lag 0.0s",
        "00:00:00Z vm_state    web-3           stalled/no_advance, was reporting, no upd~",
        "00:00:00Z vm_state    web-3           stalled/no_advance, heartbeat",
        "03:20:00Z vm_memory   web-3           configured 5.0G, resident 3.0G",
        "02:15:00Z host_memory node-7          27.9G/62.8G available (44%), stalls 1.5%",
        "00:00:00Z agent_state node-7          running, found 3 monitors",
    ]
    assert max(map(len, lines)) <= 80


def test_the_host_is_named_where_there_are_several_and_wide_lines_have_all_details() -> None:
    stalled = records(Mode.BINARY)[2]

    assert line(stalled, with_host=True) == (
        "00:00:00Z vm_state    node-7     web-3           stalled/no_advance, was report~"
    )
    assert line(stalled, wide=True).endswith(
        "stalled/no_advance, was reporting, no update within 30 s at an interval of 10 s"
    )


DEEP = b'{"x": ' + b"[" * 99_999


def test_hostile_text_is_bounded_and_printable() -> None:
    bad = "\x1b[2J\u202e\x9b\n" + "x" * 9_999
    value = {"vm": {"name": bad}, "host": {"id": bad, "name": bad}, "observed_at_ms": -(1 << 61)}
    value |= {"state": bad, "reason": bad, "detail": bad, "previous_state": bad, "origin": bad}
    raw = json.dumps(value).encode()
    shown = [
        record_line(kind, text, with_host=True, wide=wide)
        for kind in [*Kind, bad]
        for wide in (False, True)
        for text in (raw, b"[]", b"{", b"\xff", DEEP, b'{"observed_at_ms": 1e99}', bad.encode())
    ]

    assert all(text.isprintable() and text.isascii() and len(text) <= 400 for text in shown)
    assert all(len(text) <= 80 for text in shown[:7])


def test_a_value_in_json_is_the_same_value_in_one_line_of_printable_characters() -> None:
    value = {"a": '\u202e\x9b\U000e0001\u00e9 "\\\x1b', "b": [1]}
    emitted = json.dumps(value, ensure_ascii=False, indent=1)

    shown = exact(emitted.encode())

    assert json.loads(shown) == value
    assert shown.isprintable()
    assert "\u00e9" in shown
    assert exact(b'{"a":1}') == '{"a":1}'


def test_the_kinds_are_those_of_the_agent() -> None:
    assert {each.value for each in Kind} == {each.value for each in KINDS}


class Script:
    """An agent that gives these answers in turn, and then refuses."""

    def __init__(self, *pages: Mapping[str, Any] | str) -> None:
        self.pages = list(pages)
        self.queries: list[dict[str, list[str]]] = []


@contextmanager
def scripted(script: Script) -> Generator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            script.queries.append(parse_qs(url.query))
            if script.pages and url.path == "/api/tap":
                page = script.pages.pop(0)
                self.send_response(200)
                self.end_headers()
                self.wfile.write((page if isinstance(page, str) else json.dumps(page)).encode())
            else:
                self.send_response(503)
                self.end_headers()
                self.wfile.write(b"too many readers; try again later\n")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def page(position: int, *values: object, run: str = "r", skipped: int = 0, vms: int | None = None) -> Any:
    shown = [{"kind": "sample", "value": value} for value in values]
    return {"run": run, "next": position, "skipped": skipped, "vms": vms, "records": shown}


def tap(*words: str) -> Result:
    return CliRunner().invoke(cli, ["tap", *words], env=HOST, prog_name="barograph")


def test_the_records_are_shown_once_until_the_limit() -> None:
    script = Script(page(4), page(6, {"n": 1}, {"n": 2}), page(6), page(9, {"n": 3}, {"n": 4}, {"n": 5}))
    with scripted(script) as url:
        done = tap("--url", url, "-o", "json", "--limit", "4", "--kind", "sample", "--kind", "vm_state")

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ['{"n": 1}', '{"n": 2}', '{"n": 3}', '{"n": 4}']
    assert [query.get("after") for query in script.queries] == [None, ["4"], ["6"], ["6"]]
    assert all(query["kind"] == ["sample", "vm_state"] and "vm" not in query for query in script.queries)


def test_skipped_records_a_lost_agent_and_a_restart_are_reported() -> None:
    script = Script(page(1), page(9, {"n": 1}, skipped=7), "no json", page(3, {"n": 2}, run="s", skipped=2))
    with scripted(script) as url:
        done = tap("--url", url, "-o", "json", "--limit", "2")
        place = url.removeprefix("http://")

    assert (done.exit_code, done.stdout.splitlines()) == (0, ['{"n": 1}', '{"n": 2}'])
    told = done.stderr.splitlines()
    assert told[0] == f"7 records of {place} skipped: they were not read in time"
    assert told[1].startswith(f"no records from {place}: ")
    assert told[1].endswith("; trying again")
    assert told[2:] == [
        f"records from {place} again",
        f"the agent at {place} has restarted; records from before this are not shown",
    ]


def test_an_unknown_vm_is_reported() -> None:
    odd = "a b/\udcff&kind=x"
    script = Script(page(1, vms=0), page(2, {"n": 1}))
    with scripted(script) as url:
        done = tap(odd, "--url", url, "--limit", "1")

    assert done.exit_code == 0
    assert "no such VM now" in done.stderr
    assert script.queries[0] == {"vm": ["a b/?&kind=x"]}


def test_one_of_several_agents_is_enough() -> None:
    answers = Script(page(1), page(2, {"host": {"id": "a", "name": "one"}}))
    with scripted(answers) as url, scripted(Script()) as other:
        done = tap("--url", url, "--url", other, "--limit", "1")

    assert done.exit_code == 0
    assert "status 503: too many readers; try again later; check" in done.stderr
    assert done.stdout.startswith("00:00:00Z sample      one ")


@pytest.mark.parametrize("answer", ["", "{}", '{"run": 1}', "[" * 99_999, '{"x": ' + "[" * 99_999])
def test_without_an_answer_the_exit_code_is_3(answer: str) -> None:
    with scripted(Script(*[answer] * bool(answer))) as url:
        done = tap("--url", url)

    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith("no records from 127.0.0.1:")


def test_tap_refuses_an_answer_above_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.tap.ANSWER_MAX_BYTES", 100)
    with scripted(Script("x" * 101)) as url:
        done = tap("--url", url)

    assert done.exit_code == 3
    assert "more than 100 bytes" in done.stderr
