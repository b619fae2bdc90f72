"""Configuration of the docs site, which `make docs` builds.

The source is the repository itself, so each page is the file that a reader of the repository opens, and links
between pages are relative paths. The navigation is the table below, because Markdown has no form for it.
"""

from __future__ import annotations

from shutil import copyfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

NAVIGATION = {
    "Start": ["docs/page", "docs/terminal", "docs/comparison", "docs/glossary"],
    "Install": ["docs/install", "docs/kubernetes", "helm/barograph/README"],
    "Tasks": [
        "docs/first-alert",
        "docs/first-stream-job",
        "docs/plain-qemu",
        "docs/openstack",
        "docs/kubevirt",
        "docs/proxmox",
        "docs/libvirt",
        "docs/kafka",
        "docs/monitoring",
        "docs/pressure",
        "docs/streams",
    ],
    "Operate": [
        "docs/troubleshooting",
        "docs/operations",
        "docs/upgrading",
        "helm/barograph/UPGRADING",
        "docs/doctor",
        "docs/runbooks",
        "docs/scale",
        "docs/security",
    ],
    "Reference": [
        "docs/configuration",
        "docs/cli",
        "docs/states",
        "docs/metrics",
        "docs/contract",
        "schemas/README",
        "docs/limits",
        "CHANGELOG",
    ],
    "Develop": [
        "CONTRIBUTING",
        "docs/architecture",
        "docs/style",
        "docs/releasing",
        "tests/README",
        "tests/data/recorded_series/README",
        "streams/README",
        "docs/decisions/*",
    ],
}

project = "Barograph"
author = "the authors of Barograph"
root_doc = "README"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/decisions/*.md",
    "schemas/README.md",
    "helm/*/*.md",
    "streams/README.md",
    "tests/README.md",
    "tests/data/recorded_series/README.md",
]
myst_heading_anchors = 6  # as on GitHub
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # of languages that only GitHub colors

html_theme = "furo"
html_title = "Barograph"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_permalinks_icon = "#"


def add_navigation(_app: Sphinx, page: str, source: list[str]) -> None:
    """Append the navigation to the front page."""
    if page == root_doc:
        for caption, entries in NAVIGATION.items():
            options = f":caption: {caption}\n:hidden:\n:glob:\n"
            source[0] += "\n```{toctree}\n" + options + "\n" + "\n".join(entries) + "\n```\n"


def copy_front_page(app: Sphinx, error: Exception | None) -> None:
    """Copy the front page to the name that web servers look for."""
    if error is None:
        copyfile(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
    app.connect("build-finished", copy_front_page)
