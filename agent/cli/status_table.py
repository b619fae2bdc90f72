"""The screen of `barograph status`, from `/status` of one host or of several. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.cli.status_document import Sizes, Stall, Status, Vm, order, plain, short_name, size, span
from agent.cli.status_problems import Problem, problem_lines, problems
from agent.core.urgency import Urgency, is_well

_NAME_COLUMNS_MAX = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text, and how urgent it is."""

    text: str
    urgency: Urgency = Urgency.NONE


@dataclass(frozen=True, slots=True)
class Row:
    """One VM of one host."""

    host: str
    vm: Vm
    now_ms: int


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table."""

    title: str
    width: int
    cell: Callable[[Row], str]
    is_number: bool = False

    def shown(self, text: str) -> str:
        """Return a cell in the width of the column."""
        cut = plain(text, self.width)
        return cut.rjust(self.width) if self.is_number else cut.ljust(self.width)


def rows(statuses: Sequence[Status]) -> list[Row]:
    """Return all VMs, worst first."""
    found = [Row(each.host_name, vm, each.now_ms) for each in statuses for vm in each.vms]
    return sorted(found, key=lambda row: (*order(row.vm), row.host))


def all_well(status: Status) -> bool:
    """Return whether each VM reports or is excused."""
    return all(is_well(vm.state.state, vm.state.reason) for vm in status.vms)


def screen(
    statuses: Sequence[Status], lost: Sequence[Problem], *, wide: bool, rows_max: int | None = None
) -> Iterator[Line]:
    """Yield the screen: the hosts with their agents, what is wrong, and the VMs, worst first.

    Args:
        statuses: of the agents that answered.
        lost: the problems of those that did not.
        wide: more columns; otherwise no line is longer than 80 columns.
        rows_max: how many VMs to show; `None`: all. VMs that need attention are always shown.
    """
    several = len(statuses) + len(lost) > 1
    for each in statuses:
        yield from map(Line, host_lines(each))
    wrong = sorted(
        [*lost, *(problem for each in statuses for problem in problems(each))],
        key=lambda problem: problem.urgency,
    )
    yield Line("")
    if wrong:
        yield Line(f"PROBLEMS: {len(wrong)}")
    for problem in wrong:
        first, *rest = problem_lines(problem, with_host=several)
        yield Line(first, problem.urgency)
        yield from map(Line, rest)
    if wrong:
        yield Line("")
    yield from table(rows(statuses), columns(several=several, wide=wide), rows_max)


def table(found: Sequence[Row], shown: Sequence[Column], rows_max: int | None) -> Iterator[Line]:
    """Yield the table of VMs, with a header."""
    yield Line(" ".join(each.shown(each.title) for each in shown).rstrip())
    urgent = sum(row.vm.urgency is not Urgency.NONE for row in found)
    count = len(found) if rows_max is None else max(rows_max, urgent)
    for row in found[:count]:
        yield Line(" ".join(each.shown(each.cell(row)) for each in shown).rstrip(), row.vm.urgency)
    if len(found) > count:
        yield Line(f"and {len(found) - count} more without a problem; -o wide shows all")


def host_lines(status: Status) -> Iterator[str]:
    """Yield what is known of the host and of its agent, in lines of at most 80 columns."""
    agent = status.agent
    if agent is None:
        yield "host    not known"
    else:
        since = span((status.now_ms - agent.since_ms) / 1000)
        name, version = plain(agent.host.name, 30), plain(agent.version, 16)
        yield plain(f"host    {name}, barograph {version} {plain(agent.state, 10)} for {since}", 80)
    yield from _host_memory(status)
    parts = status.health.components
    well = ", ".join(plain(name, 20) for name, each in parts.items() if each.state == "ok")
    health = status.health.state or "not known"
    if health == "ok" and well:
        yield plain(f"agent   ok ({well})", 80)
    else:
        yield plain(f"agent   {health}" + (f"; ok: {well}" if well else ""), 80)
    for name, each in parts.items():
        if "queued" in each.why and not each.why.startswith("0 "):
            yield plain(f"        {name}: {each.why}", 80)


def _host_memory(status: Status) -> Iterator[str]:
    host = status.host
    if host is None:
        yield "memory  not read yet, or memory.interval is off"
        return
    parts: list[str] = []
    if host.memory is not None:
        parts.append(_of(host.memory.available_bytes, host.memory, "available"))
    if host.swap is not None:
        parts.append(_of(host.swap.free_bytes, host.swap, "swap free"))
    yield f"memory  {'; '.join(filter(None, parts)) or 'not known'}"
    if host.pressure is not None:
        stalls: Mapping[str, Stall | None] = {"some": host.pressure.some, "full": host.pressure.full}
        words = [
            f"{name} {each.avg10:.1f}% in 10 s, {each.avg60:.1f}% in 60 s"
            for name, each in stalls.items()
            if each is not None
        ]
        yield plain(f"stalls  {'; '.join(words)} (PSI)", 80)


def _of(part: int | None, sizes: Sizes, what: str) -> str:
    if part is None or not sizes.total_bytes:
        return ""
    return f"{size(part)} of {size(sizes.total_bytes)} {what} ({part / sizes.total_bytes:.0%})"


def columns(*, several: bool, wide: bool) -> Sequence[Column]:
    """Return the columns of the table."""
    host = [Column("HOST", 12, lambda row: row.host)] if several else []
    if wide:
        return [*host, *_WIDE]
    name_columns, reason_columns = (15, 12) if several else (24, 16)
    return [
        *host,
        Column("VM", name_columns, lambda row: short_name(row.vm.name, name_columns)),
        Column("PRESSURE", 8, lambda row: row.vm.level or "-"),
        Column("STATE", 11, lambda row: row.vm.state.state),
        Column("REASON", reason_columns, lambda row: row.vm.state.reason),
        *_TIMES,
        Column("AVAIL", 5, _available, is_number=True),
    ]


def _available(row: Row) -> str:
    share = row.vm.available
    return "-" if share is None else f"{share:.0%}"


def _amount(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else size(size_bytes)


def _score(row: Row) -> str:
    pressure = row.vm.pressure
    return "-" if row.vm.level is None or pressure is None else f"{pressure.score or 0.0:.2f}"


def _balloon(row: Row) -> str:
    sources = (row.vm.memory, row.vm.sample if row.vm.state.state == "reporting" else None)
    known = (each.balloon for each in sources if each is not None and each.balloon is not None)
    return _amount(next((each.actual_bytes for each in known if each.actual_bytes is not None), None))


def _configured(row: Row) -> str:
    if row.vm.memory is None or row.vm.memory.configured is None:
        return "-"
    return size(row.vm.memory.configured.base_bytes + row.vm.memory.configured.plugged_bytes)


def _resident(row: Row) -> str:
    memory = row.vm.memory
    return _amount(None if memory is None or memory.process is None else memory.process.resident_bytes)


_TIMES = (
    Column("SINCE", 5, lambda row: span(row.vm.since_s(row.now_ms)), is_number=True),
    Column("AGE", 4, lambda row: "-" if row.vm.age_s is None else span(row.vm.age_s), is_number=True),
)
_WIDE = (
    Column("VM", _NAME_COLUMNS_MAX, lambda row: short_name(row.vm.name, _NAME_COLUMNS_MAX)),
    Column("PRESSURE", 8, lambda row: row.vm.level or "-"),
    Column("SCORE", 5, _score, is_number=True),
    Column("STATE", 11, lambda row: row.vm.state.state),
    Column("REASON", 18, lambda row: row.vm.state.reason),
    *_TIMES,
    Column("AVAIL", 5, _available, is_number=True),
    Column("AVAILABLE", 9, lambda row: _amount(row.vm.statistic("available_memory")), is_number=True),
    Column("TOTAL", 8, lambda row: _amount(row.vm.statistic("total_memory")), is_number=True),
    Column("BALLOON", 8, _balloon, is_number=True),
    Column("CONFIGURED", 10, _configured, is_number=True),
    Column("RESIDENT", 8, _resident, is_number=True),
    Column("ID", 36, lambda row: row.vm.state.vm.id or "-"),
    Column("PATH", 60, lambda row: row.vm.state.vm.path or "-"),
)
