"""All that is recorded, by part."""

from collections.abc import Callable, Mapping

from tests.golden import command_line, documents, overflow, pages, state_directory, topics

PARTS: Mapping[str, Callable[[], dict[str, str]]] = {
    "scenarios": documents.made,
    "state": state_directory.made,
    "topics": topics.made,
    "pages": pages.made,
    "cli": command_line.made,
    "overflow": overflow.made,
}
"""What makes each part: file names below `recorded/` -> their contents."""


def made() -> dict[str, str]:
    """Return every file."""
    return {name: content for part in PARTS.values() for name, content in part().items()}
