"""All recorded files, by part."""

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
"""The function that makes each part. It returns contents by file name below `recorded/`."""


def made() -> dict[str, str]:
    """Return every file."""
    return {name: content for part in PARTS.values() for name, content in part().items()}
