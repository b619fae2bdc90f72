"""Tests of `barograph top`: what it shows, and its keys, at 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from textual.filter import Monochrome
from textual.pilot import Pilot
from textual.widgets import DataTable
from typer.testing import CliRunner

from agent.cli import cli
from agent.cli.hosts import Answer, Place
from agent.cli.status_document import Status, parse
from agent.cli.top_model import CHANGES_MAX, Changes, Sort, arranged, detail_lines, key_of, problem_screen
from agent.cli.top_screen import Top, Vms
from tests.unit.test_cli_health import HOST
from tests.unit.test_cli_status import document, parsed, vm


def names(statuses: Sequence[Status], sort: Sort = Sort.URGENCY, needle: str = "") -> list[str]:
    return [row.vm.name for row in arranged(statuses, sort, needle)]


def with_since(one: dict[str, Any], since_ms: int) -> dict[str, Any]:
    return one | {"since_ms": since_ms, "state": one["state"] | {"since_ms": since_ms}}


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (Sort.URGENCY, ["b", "c", "a", "d"]),
        (Sort.NAME, ["a", "b", "c", "d"]),
        (Sort.AVAILABLE, ["a", "d", "b", "c"]),
        (Sort.SINCE, ["d", "b", "c", "a"]),
        (Sort.HOST, ["b", "c", "a", "d"]),
    ],
)
def test_the_orders(sort: Sort, expected: list[str]) -> None:
    status = parsed(
        with_since(vm("d", "reporting", 40), 9),
        vm("a", "reporting", 30),
        vm("b", "stalled"),
        vm("c", "unreachable"),
    )

    assert names([status], sort) == expected


def test_the_orders_follow_each_other_in_a_circle() -> None:
    seen = [Sort.URGENCY]
    while (after := seen[-1].next) is not Sort.URGENCY:
        seen.append(after)

    assert seen == list(Sort)


@pytest.mark.parametrize(
    ("needle", "expected"),
    [
        ("", ["b", "Web"]),
        ("WEB", ["Web"]),
        ("stall", ["b"]),
        ("no_adv", ["b"]),
        ("one", ["b", "Web"]),
        ("zz", []),
    ],
)
def test_the_filter_looks_at_all_words_of_a_vm(needle: str, expected: list[str]) -> None:
    status = parsed(vm("Web", "reporting", 30), vm("b", "stalled", reason="no_advance"))

    assert names([status], needle=needle) == expected


def test_changes_of_state_are_seen_between_answers_and_before_the_first() -> None:
    changes = Changes()
    first = vm("a", "stalled")
    first["state"]["previous_state"] = "reporting"
    changes.observe([parsed(first)])
    changes.observe([parsed(first)])
    changes.observe([])  # the agent did not answer
    changes.observe([parsed(with_since(vm("a", "reporting", 50, reason="advancing"), 5_000))])

    assert [(each.at_ms, each.before, each.state, each.reason) for each in changes.of(("one", "a"))] == [
        (5_000, "stalled", "reporting", "advancing"),
        (0, "reporting", "stalled", "why"),
    ]


def test_changes_are_bounded() -> None:
    changes = Changes()
    for number in range(CHANGES_MAX + 10):
        changes.observe([parsed(with_since(vm("a", ("stalled", "reporting")[number % 2]), number))])

    assert len(changes.of(("one", "a"))) == CHANGES_MAX


def test_the_detail_has_what_to_do_and_what_was_seen_in_bounded_printable_lines() -> None:
    bad = "\x1b[2J\u202e\n" + "x" * 9_999
    hostile = vm(bad, "stalled", reason=bad)
    hostile["explanation"] = {"meaning": bad, "next_step": bad}
    hostile["state"]["previous_state"] = bad
    hostile["sample"]["statistics"] = {f"{bad}{number}": 2**60 for number in range(999)}
    hostile["pressure"]["components"] = {bad: 0.5}
    changes = Changes()
    changes.observe([parsed(hostile, host=bad)])
    (row,) = arranged([parsed(hostile, host=bad)], Sort.URGENCY, "")

    lines = list(detail_lines(row, changes.of(key_of(row))))
    usual = "\n".join(
        detail_lines(arranged([parsed(vm("a", "stalled", reason="no_advance"))], Sort.NAME, "")[0], [])
    )

    assert len(lines) < 150
    assert all(len(line) <= 80 and line.isprintable() and line.isascii() for line in lines)
    assert "state      stalled: no_advance, for 2h" in usual
    assert "next step  check whether the guest hangs" in usual
    assert usual.endswith("none seen")


def test_without_a_terminal_it_is_refused() -> None:
    done = CliRunner().invoke(cli, ["top", "--url", "http://h:1"], env=HOST)

    assert done.exit_code == 3
    assert "use barograph status" in done.stderr


class Agents:
    """The answers for the screen, which a test can replace."""

    def __init__(self, *texts: str) -> None:
        self.texts: Sequence[str] = texts
        self.asked = 0

    async def ask(self) -> Sequence[Answer]:
        self.asked += 1
        return [
            Answer(Place("h", number), text.encode(), parse(text.encode()))
            if text
            else Answer(Place("h", number), error="refused")
            for number, text in enumerate(self.texts)
        ]


def shown(app: Top) -> str:
    """Return the text on the screen."""
    strips = app.screen._compositor.render_strips()  # pyrefly: ignore[protected-access]
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


async def until(pilot: Pilot[None], app: Top, text: str, *, there: bool = True) -> str:
    for _ in range(2400):
        if (text in shown(app)) is there:
            return shown(app)
        await pilot.pause(0.05)
    raise AssertionError(f"{text!r} {'not shown' if there else 'shown'}:\n{shown(app)}")


def table_of(app: Top) -> Vms:
    return app.screen.query_one(Vms)


def top(agents: Agents) -> Top:
    return Top(agents.ask, interval_s=0.05, several=len(agents.texts) > 1)


VMS: Sequence[Mapping[str, Any]] = (
    vm("[red]x[/]", "reporting", 50),
    vm("b", "stalled", reason="no_advance"),
    vm("c", "reporting", 1, level="oom"),
)


@pytest.mark.anyio
async def test_the_worst_vm_is_first_and_the_keys_are_at_the_bottom() -> None:
    app = top(Agents(document(*VMS)))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, app, "VMs: 3")
        lines = (await until(pilot, app, "Clear")).splitlines()

    start = next(number for number, line in enumerate(lines) if line.startswith("VM "))
    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == ["c", "b", "[red]x[/]"]
    assert all(key in lines[-1] for key in ("Detail", "Quit", "Sort", "Problems", "Filter", "Pause", "Clear"))
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.anyio
@pytest.mark.parametrize("hosts", [1, 2])
async def test_the_last_column_is_whole_beside_the_scroll_bar(hosts: int) -> None:
    many = document(*(vm(f"v{number:02}", "reporting", 100) for number in range(60)))
    agents = Agents(*[many] * hosts)
    app = top(agents)
    async with app.run_test(size=(80, 24)) as pilot:
        while agents.asked < 5:  # the first screen has no scroll bar yet
            await pilot.pause(0.05)
        lines = (await until(pilot, app, "v05")).splitlines()

    row = next(line for line in lines if "v05" in line)
    assert "AVAIL" in next(line for line in lines if "PRESSURE" in line)
    assert "100%" in row


@pytest.mark.anyio
async def test_filter_sort_and_pause() -> None:
    agents = Agents(document(*VMS))
    app = top(agents)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, app, "VMs: 3")
        await pilot.press("slash", *"stal", "enter")
        await until(pilot, app, "VMs: 1; problems: 2; sort: urgency; filter: stal")
        await pilot.press("escape", "end", "s")
        await until(pilot, app, "VMs: 3; problems: 2; sort: name")
        assert table_of(app).cursor_row == 0  # the first of the new order
        await pilot.press("end")
        assert table_of(app).cursor_row == 2
        await pilot.press("home")
        assert table_of(app).cursor_row == 0
        await pilot.press("p")
        await until(pilot, app, "PAUSED")
        agents.texts = [document(vm("new", "gone"))]
        asked = agents.asked
        await pilot.pause(0.3)
        assert agents.asked <= asked + 1
        assert "new" not in shown(app)
        await pilot.press("p")
        await until(pilot, app, "new ")


@pytest.mark.anyio
async def test_the_detail_follows_the_vm() -> None:
    agents = Agents(document(*VMS))
    app = top(agents)
    async with app.run_test(size=(80, 40)) as pilot:
        await until(pilot, app, "VMs: 3")
        await pilot.press("down", "enter")
        await until(pilot, app, "next step  check whether the guest hangs")
        await pilot.press("s", "slash")  # keys of the table
        agents.texts = [document(with_since(vm("b", "reporting", 50, reason="advancing"), 7_190_000))]
        await until(pilot, app, "10s ago  stalled -> reporting: advancing")
        agents.texts = [document()]
        await until(pilot, app, "this VM is not shown any more")
        await pilot.press("escape")
        await until(pilot, app, "VMs: 0; problems: 1; sort: urgency")


@pytest.mark.anyio
async def test_the_problems_of_vms_and_of_the_agent_have_their_next_steps() -> None:
    parts = {"kafka.samples": {"state": "degraded", "why": "no broker"}, "spool": {"state": "ok", "why": ""}}
    agents = Agents(document(*VMS, components=parts))
    app = top(agents)
    async with app.run_test(size=(80, 40)) as pilot:
        await until(pilot, app, "VMs: 3; problems: 3")
        await pilot.press("w")
        text = await until(pilot, app, "agent/component/kafka.samples  for 2h")
        agents.texts = [document(*VMS), ""]
        lost = await until(pilot, app, "no status: refused")
        agents.texts = [document()]
        await pilot.press("s", "escape")
        await until(pilot, app, "VMs: 0; problems: 1; sort: urgency")

    assert text.startswith("Problems: 3\n")
    assert [line for line in text.splitlines() if line.startswith("vm/")] == [
        "vm/pressure/oom  for 100s",
        "vm/stalled/no_advance  for 2h",
    ]
    assert "next: run barograph doctor with the agent's settings, to check each broker" in text
    assert text.count("next: ") == 3
    assert lost.startswith("Problems: 3\n\nagent/unreachable  h:1\n")
    assert all(len(line) <= 80 for line in [*text.splitlines(), *lost.splitlines()])


def test_the_problems_are_bounded() -> None:
    hosts = [parsed(vm("a", "stalled", reason="no_advance"), host=f"h{number}") for number in range(120)]

    lines = list(problem_screen(hosts, []))

    assert lines[0] == "Problems: 120"
    assert lines[-1] == "and 20 more"


@pytest.mark.anyio
async def test_several_hosts_have_a_column_and_a_lost_one_is_named() -> None:
    app = top(Agents(document(*VMS, host="first"), document(vm("z", "paused"), host="second"), ""))
    async with app.run_test(size=(80, 24)) as pilot:
        text = await until(pilot, app, "VMs: 4; problems: 3")

    assert "lost    h:2: refused" in text
    assert "HOST " in text
    assert "\nsecond       z " in text


@pytest.mark.anyio
async def test_the_cursor_stays_on_its_vm() -> None:
    agents = Agents(document(*VMS))
    app = top(agents)
    async with app.run_test(size=(80, 40)) as pilot:
        await until(pilot, app, "VMs: 3")
        await pilot.press("down")
        agents.texts = [document(vm("worse", "reporting", 1, level="oom"), *VMS)]
        await until(pilot, app, "VMs: 4")
        await pilot.press("enter")
        assert "name       b\n" in await until(pilot, app, "name ")


@pytest.mark.anyio
async def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.top_screen.ROWS_MAX", 50)
    app = top(Agents(document(*(vm(f"v{number}", "reporting", 50) for number in range(55)))))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, app, "VMs: 55; problems: 0; sort: urgency; the first 50 are")
        assert app.query_one("#vms", DataTable).row_count == 50


@pytest.mark.anyio
async def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    app = top(Agents(document()))

    assert any(isinstance(each, Monochrome) for each in app._filters)  # pyrefly: ignore[protected-access]
