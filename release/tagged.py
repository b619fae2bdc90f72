"""Checks that a tagged commit is a release: its version, its notes, its recording and its frozen schemas."""

from collections.abc import Iterator
from pathlib import Path

from release.version import SOURCE, versions
from tests.contract import freeze


def section(changelog: str, version: str) -> str:
    """Return the section of CHANGELOG.md of a version, with its heading; "" if there is none."""
    _, heading, rest = changelog.partition(f"\n# barograph {version} (")
    return heading.lstrip("\n") + rest.partition("\n# barograph ")[0].rstrip() + "\n" if heading else ""


def problems(source: Path, tag: str) -> Iterator[str]:
    """Yield why a commit with this tag cannot be released.

    Args:
        source: a folder with the commit's files.
        tag: such as "v0.2.0".
    """
    version = versions(source)[SOURCE]
    if tag != f"v{version}":
        yield f"tag {tag}: the version in {SOURCE} is {version}; tag the commit of make release-commit"
    for place, found in versions(source).items():
        if found != version:
            yield f"{place}: {found or 'no version'} instead of {version}"
    if not section((source / "CHANGELOG.md").read_text(), version):
        yield f"CHANGELOG.md: no section for {version}"
    if left := [each.name for each in (source / "changelog.d").glob("*.md")]:
        yield f"changelog.d: {len(left)} fragments are in no section, such as {min(left)}"
    schemas = source / "schemas"
    if broken := freeze.changed(schemas):
        yield f"schemas: released files have changed: {', '.join(broken)}"
    if new := freeze.unreleased(schemas):
        yield f"schemas: {len(new)} files are not frozen, such as {new[0]}"
    if not (source / "tests/data/releases" / version).is_dir():
        yield f"tests/data/releases/{version}: missing, so no later version is tested with this one"
