"""Finds words that the project does not use: `python -m tests.contract.prose [PATH]…`.

The words are in prose.yaml. Python files are checked in their comments, docstrings and messages, other files
in their whole text. Text in backticks and code blocks is skipped, because it contains names, and so is
Markdown between `<!-- prose: off -->` and `<!-- prose: on -->`.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]

RULES = {
    str(words).replace(" ", r"\s+"): str(instead)
    for words, instead in yaml.safe_load(Path(__file__).with_name("prose.yaml").read_text()).items()
}
"""Regular expressions of words, each with what to write instead."""

_WORDS = re.compile(rf"\b(?:{'|'.join(RULES)})\b", re.IGNORECASE)
_NOT_PROSE = re.compile(
    r"<!-- prose: off -->.*?<!-- prose: on -->|^([ ]*)```.*?^\1```|``.+?``|`[^`\n]+`|\]\([^)]*\)|https?://\S+",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A word to replace, with its line, counted from 1, and what to write instead."""

    path: Path
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r}: write {self.instead}"


def find(path: Path, text: str) -> Iterator[Found]:
    """Yield the words to replace in the prose of a file, in the order of the lines."""
    parts = sorted([*_comments(text), *_strings(text)]) if path.suffix == ".py" else [(1, text)]
    for first, part in parts:
        prose = _NOT_PROSE.sub(lambda code: "\n" * code[0].count("\n") or "…", part)
        for hit in _WORDS.finditer(prose):
            line = first + prose.count("\n", 0, hit.start())
            yield Found(path, line, " ".join(hit[0].split()), _instead(hit[0]))


def _instead(word: str) -> str:
    return next(text for rule, text in RULES.items() if re.fullmatch(rule, word, re.IGNORECASE))


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield comments. Consecutive lines are one comment, so that a phrase may cross the end of a line."""
    start, lines = 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if lines and token.start[0] != start + len(lines):
            yield start, "\n".join(lines)
            lines = []
        if not lines:
            start = token.start[0]
        lines.append(token.string.lstrip("#"))
    if lines:
        yield start, "\n".join(lines)


def _strings(source: str) -> Iterator[tuple[int, str]]:
    """Yield docstrings and messages: strings of more than one word."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


def files(*patterns: str, root: Path = ROOT) -> list[Path]:
    """Return the files below a folder that match one of the patterns, in order."""
    return sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})


def main(names: Sequence[str]) -> int:
    """Print the words to replace in the given files and folders, or in the tree; return the exit code."""
    paths = [path for name in names or ["."] for path in _below(Path(name))]
    found = [hit for path in paths for hit in find(path, path.read_text())]
    for hit in found:
        print(hit)
    return 1 if found else 0


def _below(path: Path) -> Sequence[Path]:
    return files("**/*.py", "**/*.md", root=path) if path.is_dir() else [path]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
