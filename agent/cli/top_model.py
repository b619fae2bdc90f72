"""What `barograph top` shows, from the answers of the agents. Pure."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from textwrap import wrap

from agent.cli.status_document import Status, Vm, plain, share_order, size, span
from agent.cli.status_problems import Problem, advice, problem_lines, problems
from agent.cli.status_table import Row, rows
from agent.core.urgency import Urgency
from agent.core.wording import without_backticks

CHANGES_MAX = 1_000
"""Changes of state that are remembered, of all VMs."""

ROWS_MAX = 1_000
"""VMs in the table."""

_COLUMNS = 78
_TEXT_CHARACTERS_MAX = 600
_STATISTICS_MAX = 40
_CHANGES_SHOWN_MAX = 20
_PROBLEMS_SHOWN_MAX = 100


class Sort(StrEnum):
    """The orders of the table."""

    URGENCY = "urgency"
    NAME = "name"
    AVAILABLE = "available"
    SINCE = "since"
    HOST = "host"

    @property
    def next(self) -> "Sort":
        """The order after this one."""
        all_of_them = list(Sort)
        return all_of_them[(all_of_them.index(self) + 1) % len(all_of_them)]


Key = tuple[str, str]
"""A VM for as long as it is shown: its host, and its path, id or name."""


def key_of(row: Row) -> Key:
    """Return the key of a VM."""
    vm = row.vm.state.vm
    return row.host, vm.path or vm.id or vm.name or "?"


def arranged(statuses: Sequence[Status], sort: Sort, needle: str) -> list[Row]:
    """Return the VMs in an order; `needle`: only those with this text in one of their words."""
    found = [row for row in rows(statuses) if _matches(row, needle.casefold())]
    match sort:
        case Sort.URGENCY:
            pass
        case Sort.NAME:
            found.sort(key=lambda row: row.vm.name)
        case Sort.AVAILABLE:
            found.sort(key=lambda row: (share_order(row.vm), row.vm.name))
        case Sort.SINCE:
            found.sort(key=lambda row: row.vm.since_s(row.now_ms))
        case Sort.HOST:
            found.sort(key=lambda row: row.host)
    return found


def _matches(row: Row, needle: str) -> bool:
    vm = row.vm
    words = (row.host, vm.name, vm.state.state, vm.state.reason, vm.level or "", vm.state.vm.id or "")
    return any(needle in word.casefold() for word in words)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a VM's state that was seen."""

    key: Key
    at_ms: int
    before: str
    state: str
    reason: str


class Changes:
    """The newest changes of state, from one answer to the next. The oldest are forgotten."""

    def __init__(self) -> None:
        self._last: Mapping[Key, tuple[int, str, str]] = {}
        self._changes: deque[Change] = deque(maxlen=CHANGES_MAX)

    def observe(self, statuses: Sequence[Status]) -> None:
        """Compare with the answers before. An agent that has not answered is left out."""
        hosts = {each.host_name for each in statuses}
        now = {key: last for key, last in self._last.items() if key[0] not in hosts}
        for row in sorted(rows(statuses), key=lambda row: row.vm.state.since_ms):
            state, key = row.vm.state, key_of(row)
            before = self._last.get(key)
            now[key] = (state.since_ms, state.state, state.reason)
            if before is not None and before != now[key]:
                self._changes.append(Change(key, state.since_ms, before[1], state.state, state.reason))
            elif before is None and state.previous_state is not None:
                self._changes.append(
                    Change(key, state.since_ms, state.previous_state, state.state, state.reason)
                )
        self._last = now

    def of(self, key: Key) -> Sequence[Change]:
        """Return the changes of a VM, newest first."""
        return [each for each in reversed(self._changes) if each.key == key]


def problem_screen(statuses: Sequence[Status], lost: Sequence[Problem]) -> Iterator[str]:
    """Yield all problems with the next step of each, most urgent first, in lines of at most 80 columns."""
    found = [*lost, *(problem for each in statuses for problem in problems(each))]
    yield f"Problems: {len(found)}"
    for problem in sorted(found, key=lambda problem: problem.urgency)[:_PROBLEMS_SHOWN_MAX]:
        yield ""
        yield from problem_lines(problem, with_host=len(statuses) + len(lost) > 1)
    if len(found) > _PROBLEMS_SHOWN_MAX:
        yield f"and {len(found) - _PROBLEMS_SHOWN_MAX} more"


def detail_lines(row: Row, changes: Sequence[Change]) -> Iterator[str]:
    """Yield all that is known of a VM, in lines of at most 78 columns."""
    vm, now_ms = row.vm, row.now_ms
    state = vm.state
    yield from _named("name", vm.name)
    yield from _named("host", row.host)
    yield from _named("id", state.vm.id or "-")
    yield from _named("path", state.vm.path or "-")
    since = span((now_ms - state.since_ms) / 1000)
    yield from _named("state", f"{state.state}: {state.reason}, for {since}")
    yield from _named("detail", state.detail or "-")
    meaning, step = advice(vm)
    yield from _named("meaning", meaning or "-")
    yield from _named("next step", step)
    yield from _named("update", "none yet" if vm.age_s is None else f"{span(vm.age_s)} ago")
    if vm.pressure is not None:
        parts = [f"{name} {each:.2f}" for name, each in vm.pressure.components.items() if each is not None]
        score = "not available" if vm.pressure.score is None else f"{vm.pressure.score:.2f}"
        level = vm.level or "not known"
        if vm.urgency <= Urgency.LOW:
            level = f"{level} for {span(vm.since_s(now_ms))}"
        yield from _named("pressure", f"{level}, score {score} ({', '.join(parts) or '-'})")
    yield from _named("memory", _memory(vm))
    if vm.sample is not None:
        for name, value in list(vm.sample.statistics.items())[:_STATISTICS_MAX]:
            yield from _named("", f"{plain(name, 32)} = {value}")
    yield ""
    yield "Changes of state, newest first:"
    for each in changes[:_CHANGES_SHOWN_MAX]:
        ago = span((now_ms - each.at_ms) / 1000)
        yield plain(f"  {ago:>5} ago  {each.before} -> {each.state}: {each.reason}", _COLUMNS)
    if not changes:
        yield "  none seen"


def _memory(vm: Vm) -> str:
    memory = vm.memory
    if memory is None:
        return "-"
    parts: list[str] = []
    if memory.configured is not None:
        parts.append(f"configured {size(memory.configured.base_bytes + memory.configured.plugged_bytes)}")
    if memory.balloon is not None and memory.balloon.actual_bytes is not None:
        parts.append(f"balloon {size(memory.balloon.actual_bytes)}")
    if memory.process is not None and memory.process.resident_bytes is not None:
        parts.append(f"resident {size(memory.process.resident_bytes)}")
    return ", ".join(parts) or "-"


def _named(name: str, text: str) -> Sequence[str]:
    shown = plain(without_backticks(text), _TEXT_CHARACTERS_MAX) or "-"
    return wrap(shown, _COLUMNS, initial_indent=f"{name:<11}", subsequent_indent=" " * 11)
