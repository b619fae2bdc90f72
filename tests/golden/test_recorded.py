"""Tests that the agent's output equals the files in `recorded/`, byte for byte."""

from difflib import SequenceMatcher
from itertools import zip_longest

import pytest

from tests.golden.made import PARTS
from tests.golden.record import RECORDED

_LINES_MAX = 60
_LINE_MAX = 200
_CONTEXT = 60


@pytest.mark.parametrize("part", PARTS)
def test_the_output_is_as_recorded(part: str) -> None:
    made = PARTS[part]()
    folders = (RECORDED / part, RECORDED / "texts" / part)
    recorded = {
        str(path.relative_to(RECORDED)): path.read_bytes().decode()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }

    differences = [
        difference(name, recorded.get(name, ""), made.get(name, ""))
        for name in sorted(made.keys() | recorded.keys())
        if recorded.get(name) != made.get(name)
    ]

    if differences:
        pytest.fail(
            "\n\n".join([*differences, "if intended, run python -m tests.golden.record and review the diff"]),
            pytrace=False,
        )


def difference(name: str, recorded: str, made: str) -> str:
    """Return the differences, in at most `_LINES_MAX` lines."""
    before, now = recorded.splitlines(), made.splitlines()
    lines = [f"recorded/{name}:"]
    for kind, from_, to, now_from, now_to in SequenceMatcher(None, before, now, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        lines.append(f"@@ line {from_ + 1}")
        for was, is_ in zip_longest(before[from_:to], now[now_from:now_to]):
            start = max(0, _same(was or "", is_ or "") - _CONTEXT)
            lines += [
                f"{sign} {_part(line, start)}" for sign, line in (("-", was), ("+", is_)) if line is not None
            ]
    if len(lines) == 1:
        lines.append("the line breaks differ, or one of the two is empty")
    return "\n".join(lines[:_LINES_MAX])


def _same(one: str, other: str) -> int:
    """Return the length of the common prefix."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _part(line: str, start: int) -> str:
    """Return the part of a line from `start` on, since lines of records are long."""
    end = start + _LINE_MAX
    return ("..." if start else "") + line[start:end] + ("..." if len(line) > end else "")
