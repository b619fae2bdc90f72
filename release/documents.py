"""The docs of a package: the pages with their images, and without links to files that only a clone has."""

import re
import shutil
from pathlib import Path

_LINK = re.compile(r"!?\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
"""A link to another file: its text, the file, and a place in it. Links with a colon lead to other hosts."""


def copy_docs(source: Path, folder: Path) -> None:
    """Copy the pages of `source`/docs with their images to `folder`.

    A link to a file that is not copied becomes its text.
    """
    docs = (source / "docs").resolve()
    shutil.copytree(docs / "images", folder / "images")
    (folder / "decisions").mkdir()
    for page in sorted([*docs.glob("*.md"), *docs.glob("decisions/*.md")]):
        (folder / page.relative_to(docs)).write_text(_with_links_within(page, docs))


def _with_links_within(page: Path, docs: Path) -> str:
    def replacement(link: re.Match[str]) -> str:
        target = (page.parent / link[2]).resolve()
        return link[0] if target.is_relative_to(docs) and target.exists() else link[1]

    return _LINK.sub(replacement, page.read_text())
