"""Docs, messages and comments contain no words that the glossary and the style page rule out."""

from pathlib import Path

import pytest

from tests.contract.prose import ROOT, RULES, files, find

READ = {
    "docs": ("*.md", "streams/*.md", "docs/**/*.md", "changelog.d/*", "schemas/**/*.md", "tests/*.md"),
    "chart": (
        "helm/values.source.yaml",
        "helm/barograph/*",
        "helm/barograph/files/*",
        "helm/barograph/templates/**/*",
    ),
    "packaging": (
        "packaging/**/*",
        "Containerfile",
        "Makefile",
        "pyproject.toml",
        ".ci/run",
        ".pre-commit-config.yaml",
    ),
    "python": (
        "release/*.py",
        "helm/barograph/files/*.py",
        "agent/**/*.py",
        "simulator/**/*.py",
        "streams/**/*.py",
        "tests/unit/**/*.py",
        "tests/lab/**/*.py",
        "tests/integration/**/*.py",
        "tests/model/**/*.py",
    ),
}
"""The files that are checked, by area."""


@pytest.mark.parametrize("area", READ)
def test_no_file_uses_a_word_that_is_ruled_out(area: str) -> None:
    paths = files(*READ[area])

    found = [str(hit) for path in paths for hit in find(path.relative_to(ROOT), path.read_text())]

    assert paths
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.md", "One.\n\nTwo, which somebody\nchanged.", [3]),
        ("a.md", "All is\nwell.", [1]),
        ("a.md", "`owed` and\n```\nowed\n```\nand [this](owed.md).", []),
        ("a.md", "<!-- prose: off -->\nlest\n<!-- prose: on -->\nlest", [4]),
        ("a.py", "x = 1  # what is owed\n", [1]),
        ("a.py", "# all is\n# well\n\n# records that\nx = 1  # wait\n", [1, 4]),
        ("a.py", 'def f():\n    """Return it.\n\n    Nobody calls it.\n    """\n', [4]),
        ("a.py", 'say(f"{count} records wait")\n', [1]),
        ("a.py", "nobody = somebody(owed, 'nobody')\n", []),
        ("a.md", "There is no monitor.\n\nIt is no QMP monitor.", [3]),
        ("a.yaml", "key: text  # lest it stops\n", [1]),
        ("a.sh", "rm /var/lib/barograph/owed.json # what is owed\n", [1]),
    ],
)
def test_words_are_found_in_prose_and_not_in_code(name: str, text: str, lines: list[int]) -> None:
    assert [hit.line for hit in find(Path(name), text)] == lines


def test_each_finding_has_what_to_write_instead() -> None:
    (found,) = find(Path("a.md"), "It owes nothing.")

    assert found.word == "owes"
    assert found.instead in RULES.values()
    assert str(found) == f"a.md:1: 'owes': write {found.instead}"
