"""The version: its source is `agent/__init__.py`; other places have a copy, because tools read it there."""

import re
from collections.abc import Mapping
from pathlib import Path

SOURCE = "agent/__init__.py"
VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(rc[0-9]+)?")

_PLACES: Mapping[str, tuple[str, ...]] = {
    SOURCE: (r'^__version__ = "(.*)"$',),
    "pyproject.toml": (r'^version = "(.*)"$',),
    "streams/pyproject.toml": (r'^version = "(.*)"$',),
    "helm/barograph/Chart.yaml": (r"^version: (.*)$", r'^appVersion: "(.*)"$'),
}
_NAMES = r"(?<=barograph[-_:])|(?<=barograph-streams:)"
_PAGES = ("README.md", "docs/*.md")


def versions(root: Path) -> Mapping[str, str]:
    """Return the version in each place of the tree in `root`; "" where there is none."""
    found: dict[str, str] = {}
    for name, patterns in _PLACES.items():
        text = (root / name).read_text()
        for number, pattern in enumerate(patterns):
            match = re.search(pattern, text, re.MULTILINE)
            found[name if not number else f"{name} (appVersion)"] = match[1] if match else ""
    return found


def set_version(root: Path, version: str) -> None:
    """Write the version into each place, and into the names of files and images in the docs.

    Raises:
        ValueError: `version` is not a version.
    """
    if VERSION.fullmatch(version) is None:
        raise ValueError(f"{version!r} is not a version; write it as 1.2.3 or 1.2.3rc1")
    old = versions(root)[SOURCE]
    for name, patterns in _PLACES.items():
        text = (root / name).read_text()
        for pattern in patterns:
            line = pattern.strip("^$").replace("(.*)", version)
            text = re.sub(pattern, line, text, count=1, flags=re.MULTILINE)
        (root / name).write_text(text)
    for page in (path for pattern in _PAGES for path in root.glob(pattern)):
        text = page.read_text()
        new = re.sub(rf"(?:{_NAMES}){re.escape(old)}(?!\.?[0-9])", version, text)
        if new != text:
            page.write_text(new)
