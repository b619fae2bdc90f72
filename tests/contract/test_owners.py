"""The lists of tests match the tree: each module has its tests in tests/README.md, and all names exist."""

import re
from pathlib import Path

from tests.conftest import SLOWEST_FIRST

TESTS = Path(__file__).parents[1]
README = (TESTS / "README.md").read_text()
AGENT = TESTS.parent / "agent"


def rows(section: str) -> list[tuple[str, str]]:
    """Return both cells of each row of the table in a section, without its header."""
    text = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (.*) \| (.*) \|$", text, re.MULTILINE)[2:]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def own_test_file(module: str) -> Path:
    folder, _, name = module.rpartition("/")
    return TESTS / "unit" / folder / f"test_{name}.py"


def test_every_module_has_a_test_file_of_its_own_or_a_row() -> None:
    files = [file for file in AGENT.rglob("*.py") if file.name != "__init__.py"]
    modules = {str(file.relative_to(AGENT).with_suffix("")) for file in files}
    without = {module for module in modules if not own_test_file(module).exists()}
    listed = [module for cell, _ in rows("Where a module is tested") for module in quoted(cell)]

    assert len(modules) > 50
    assert without - set(listed) == set(), "add these to a row of tests/README.md"
    assert set(listed) - without == set(), "remove these from tests/README.md"
    assert len(listed) == len(set(listed))


def test_every_row_names_test_files_that_exist() -> None:
    named = [quoted(cell) for _, cell in rows("Where a module is tested")]

    assert all(named)
    assert [test for tests in named for test in tests if not (TESTS / test).is_file()] == []


def test_the_files_started_first_exist() -> None:
    names = {file.stem for file in TESTS.rglob("test_*.py")}

    assert [name for name in SLOWEST_FIRST if name not in names] == []
