"""The screen of `barograph top`. Only this file imports textual. It decides nothing: top_model.py does."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import anyio
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from agent.cli.hosts import Answer
from agent.cli.status_document import Status, plain
from agent.cli.status_problems import Problem, problems, unreachable
from agent.cli.status_table import Row, columns, host_lines
from agent.cli.top_model import ROWS_MAX, Changes, Key, Sort, arranged, detail_lines, key_of, problem_screen
from agent.core.urgency import Urgency

_HOST_LINES_MAX = 8
_STYLES: Mapping[Urgency, str] = {
    Urgency.OOM: "bold red",
    Urgency.PRESSURE: "red",
    Urgency.LOW: "yellow",
    Urgency.UNEXPECTED: "yellow",
}


class Page(Screen[None]):
    """Lines of text above the table, until a key closes them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter", "app.pop_screen", "Back"),
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._text = Static(id="text", markup=False)

    def compose(self) -> ComposeResult:
        """Return the widgets."""
        with VerticalScroll():
            yield self._text
        yield Footer(show_command_palette=False)

    def show(self, lines: Iterable[str]) -> None:
        """Show these lines."""
        self._text.update("\n".join(lines))


class Detail(Page):
    """All that is known of one VM."""

    def __init__(self, key: Key) -> None:
        super().__init__()
        self.key = key


class Problems(Page):
    """All problems, with the next step of each."""


class Vms(DataTable[Text]):
    """The table, with its key in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Detail"),
        Binding("home", "scroll_top", show=False),
        Binding("end", "scroll_bottom", show=False),
    ]


class Top(App[None]):
    """Asks the agents again and again until it is closed."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #hosts { height: auto; max-height: 10; }
    #said { height: 1; }
    #needle { display: none; border: none; height: 1; padding: 0; }
    Vms { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("s", "sort", "Sort"),
        Binding("w", "problems", "Problems"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("p,space", "pause", "Pause"),
        Binding("escape", "clear", "Clear"),
    ]

    def __init__(
        self, ask: Callable[[], Awaitable[Sequence[Answer]]], *, interval_s: float, several: bool
    ) -> None:
        """Create it.

        Args:
            ask: returns the answers of all agents.
            interval_s: from an answer to the next request.
            several: whether there are several agents.
        """
        super().__init__()
        self._ask = ask
        self._interval_s = interval_s
        self._hosts = Static(id="hosts", markup=False)
        self._said = Static("asking", id="said", markup=False)
        self._input = Input(placeholder="filter: host, VM, state, reason or level", id="needle")
        self._table = Vms(id="vms", cursor_type="row", cell_padding=0)
        self._columns = columns(several=several, wide=False)
        self._answers: Sequence[Answer] = ()
        self._changes = Changes()
        self._rows: Mapping[Key, Row] = {}
        self._sort = Sort.URGENCY
        self._needle = ""
        self._is_paused = False

    def compose(self) -> ComposeResult:
        """Return the widgets."""
        yield self._hosts
        yield self._said
        yield self._input
        yield self._table
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Start to ask."""
        table = self._table
        for each in self._columns:
            gap = 0 if each is self._columns[-1] else 1  # the scroll bar takes its place
            title = each.title.rjust(each.width) if each.is_number else each.title
            table.add_column(title, width=each.width + gap)
        table.focus()
        self.run_worker(self._keep_asking())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether a key works now: those of the table only where it is shown."""
        return action not in ("sort", "problems", "filter", "clear") or not isinstance(self.screen, Page)

    async def _keep_asking(self) -> None:
        while True:
            if not self._is_paused:
                answers = await self._ask()
                if not self._is_paused:
                    self._answers = answers
                    self._changes.observe(self._statuses)
                    self._show()
            await anyio.sleep(self._interval_s)

    @property
    def _statuses(self) -> Sequence[Status]:
        return [each.status for each in self._answers if each.status is not None]

    @property
    def _lost(self) -> Sequence[Problem]:
        return [unreachable(str(each.place), each.error) for each in self._answers if each.status is None]

    def _show(self) -> None:
        if not self._table.is_attached:  # the screen is being closed
            return
        statuses = self._statuses
        found = arranged(statuses, self._sort, self._needle)
        lines = [line for each in statuses for line in host_lines(each)]
        lines = lines if len(statuses) == 1 else [line for line in lines if line.startswith("host ")]
        lost = [f"lost    {each.place}: {each.error}" for each in self._answers if each.status is None]
        lines = [plain(line, 80) for line in [*lost, *lines]]
        if len(lines) > _HOST_LINES_MAX:
            lines = [*lines[:_HOST_LINES_MAX], f"and {len(lines) - _HOST_LINES_MAX} more hosts"]
        self._hosts.update("\n".join(lines))
        self._said.update(self._summary(len(found)))
        self._fill(found[:ROWS_MAX])
        if isinstance(self.screen, Detail):
            self._show_detail(self.screen)
        elif isinstance(self.screen, Problems):
            self.screen.show(problem_screen(statuses, self._lost))

    def _summary(self, count: int) -> str:
        wrong = sum(len(problems(each)) for each in self._statuses)
        wrong += len(self._lost)
        parts = [f"VMs: {count}", f"problems: {wrong}", f"sort: {self._sort.value}"]
        if count > ROWS_MAX:
            parts.append(f"the first {ROWS_MAX} are shown")
        if self._needle:
            parts.append(f"filter: {plain(self._needle, 20)}")
        if self._is_paused:
            parts.append("PAUSED")
        return plain("; ".join(parts), 80)

    def _fill(self, found: Sequence[Row]) -> None:
        table = self._table
        at, before = self._key_at_cursor(), table.cursor_row
        self._rows = {key_of(row): row for row in found}
        table.clear()
        for row in self._rows.values():
            style = _STYLES.get(row.vm.urgency, "")
            table.add_row(*(Text(each.shown(each.cell(row)), style) for each in self._columns))
        keys = list(self._rows)
        if keys:
            table.move_cursor(row=keys.index(at) if at in self._rows else min(before, len(keys) - 1))

    def _key_at_cursor(self) -> Key | None:
        keys, row = list(self._rows), self._table.cursor_row
        return keys[row] if 0 <= row < len(keys) else None

    async def on_data_table_row_selected(self) -> None:
        """Show the VM at the cursor."""
        key = self._key_at_cursor()
        if key is not None:
            await self.push_screen(Detail(key))
            self._show()

    def _show_detail(self, screen: Detail) -> None:
        row = self._rows.get(screen.key)
        gone = ["this VM is not shown any more: it is gone, or the filter excludes it"]
        screen.show(gone if row is None else list(detail_lines(row, self._changes.of(screen.key))))

    def action_sort(self) -> None:
        """Use the next order, from its first VM on."""
        self._sort = self._sort.next
        self._show()
        self._table.move_cursor(row=0)

    async def action_problems(self) -> None:
        """Show all problems."""
        await self.push_screen(Problems())
        self._show()

    def action_pause(self) -> None:
        """Keep what is shown, or go on."""
        self._is_paused = not self._is_paused
        self._show()

    def action_filter(self) -> None:
        """Ask for the text of the filter."""
        self._input.display = True
        self._input.focus()

    def action_clear(self) -> None:
        """Remove the filter."""
        self._input.value = ""
        self._leave_filter("")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while the text is typed."""
        self._needle = event.value
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return to the table."""
        self._leave_filter(event.value)

    def _leave_filter(self, needle: str) -> None:
        self._needle = needle
        self._input.display = False
        self._table.focus()
        self._show()
