"""Every claim of docs/security.md names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
_TABLE = re.compile(r"^<!-- claims -->\n\n\| claim \| test \|\n\| --- \| --- \|\n((?:\|.*\n)+)", re.MULTILINE)


def claims() -> list[tuple[str, str]]:
    """Return each claim with the cell that names its tests."""
    rows = [row for table in _TABLE.findall(PAGE) for row in table.splitlines()]
    cells = [row.strip("|").split(" | ") for row in rows]
    assert all(len(each) == 2 for each in cells)
    return [(claim.strip(), tests.strip()) for claim, tests in cells]


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse((ROOT / file).read_text())
    functions = (each for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(each.name for each in functions if each.name.startswith("test_"))


def test_every_table_of_claims_is_read() -> None:
    assert len(_TABLE.findall(PAGE)) == PAGE.count("<!-- claims -->") == 10
    assert len(claims()) >= 30


def test_every_claim_has_tests_that_exist() -> None:
    wrong: list[str] = []
    before = ""
    for claim, cell in claims():
        cell = before if cell == "the same" else cell
        named = re.findall(r"`(tests/[^`]+)::(test_\w+)`", cell)
        if not named or cell.count("`") != 2 * len(named):
            wrong.append(f"{claim}: no test")
        wrong += [
            f"{claim}: {file}::{name}"
            for file, name in named
            if not (ROOT / file).is_file() or name not in names_in(file)
        ]
        before = cell

    assert wrong == []
