"""The output of `barograph doctor`, as text of 80 columns and as JSON. Pure."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from agent.core.doctor.checks import CHECKS
from agent.core.doctor.codes import Code
from agent.core.findings import Finding, Level, worst
from agent.core.topic_commands import shown
from agent.core.wording import counted

COLUMNS = 80
DOCS = "docs/doctor.md"

_MARKS = {
    Level.OK: "\N{SQUARE ROOT}",
    Level.WARNING: "\N{DOUBLE EXCLAMATION MARK}",
    Level.ERROR: "\N{MULTIPLICATION SIGN}",
}
_PLAIN_MARKS = {Level.OK: "ok  ", Level.WARNING: "WARN", Level.ERROR: "FAIL"}


def lines(findings: Sequence[Finding], *, is_plain: bool, is_complete: bool) -> Iterator[str]:
    """Yield the lines: a section for each category, then a summary.

    Args:
        findings: in the order of the table of checks.
        is_plain: use ASCII only.
        is_complete: all checks were made; else the configuration is invalid.
    """
    marks = _PLAIN_MARKS if is_plain else _MARKS
    for category, members in groupby(findings, key=lambda each: CHECKS[Code(each.code)].category):
        yield str(category)
        yield "-" * len(category)
        for finding in members:
            for line in _finding(finding, marks[finding.level]):
                yield line.encode("ascii", "replace").decode() if is_plain else line
        yield ""
    if not is_complete:
        yield from _wrapped("Nothing else was checked, because the configuration is invalid.", "", "")
    counts = {level: sum(each.level is level for each in findings) for level in Level}
    failures, warnings = counted(counts[Level.ERROR], "failure"), counted(counts[Level.WARNING], "warning")
    yield f"{marks[worst(findings)].strip()} {counts[Level.OK]} passed, {warnings}, {failures}"


def document(findings: Sequence[Finding], version: str, *, pre: bool) -> dict[str, object]:
    """Return the findings as JSON."""
    return {
        "version": version,
        "pre": pre,
        "level": worst(findings).value,
        "findings": [
            {
                "category": CHECKS[Code(each.code)].category.value,
                "code": each.code.value,
                "level": each.level.value,
                "subject": each.subject or None,
                "detail": each.detail,
                "hint": each.hint or None,
                "command": None if each.command is None else shown(each.command),
                "docs": None if each.level is Level.OK else link(each.code),
            }
            for each in findings
        ],
    }


def link(code: str) -> str:
    """Return where the docs describe a check."""
    return f"{DOCS}#{code}"


def _finding(finding: Finding, mark: str) -> Iterator[str]:
    if finding.level is Level.OK:
        yield from _wrapped(finding.detail, f"{mark} ", "    ")
        return
    is_named = not finding.subject or finding.subject in finding.detail
    subject = "" if is_named else f"{finding.subject}: "
    yield from _wrapped(f"[{finding.code}] {subject}{finding.detail}", f"{mark} ", "    ")
    if finding.hint and finding.hint not in finding.detail:
        yield from _wrapped(finding.hint, "    ", "    ")
    if finding.command is not None:
        yield from _wrapped(shown(finding.command), "    ", "      ")
    yield from _wrapped(f"see {link(finding.code)}", "    ", "    ")


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
    )
