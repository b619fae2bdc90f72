"""Puts findings of `barograph doctor` together. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from agent.core.doctor.checks import CHECKS
from agent.core.doctor.codes import Code
from agent.core.findings import Finding, Level
from agent.core.wording import counted, printable, without_backticks

SHOWN_MAX = 5
"""Findings of one check that are listed; the rest is counted."""
_TEXT_MAX = 400


@dataclass(slots=True)
class Findings:
    """Collects what the checks of a category find."""

    checked: dict[Code, str] = field(default_factory=dict[Code, str])  # with what a success shows
    bad: list[Finding] = field(default_factory=list[Finding])

    def passed(self, code: Code, fact: str = "") -> None:
        """Note that a check was made. Where it finds nothing wrong, its line contains `fact`."""
        self.checked.setdefault(code, fact)

    def error(self, code: Code, subject: str, detail: str, hint: str = "") -> None:
        """Note a failure."""
        self._add(code, Level.ERROR, subject, detail, hint)

    def warning(self, code: Code, subject: str, detail: str, hint: str = "") -> None:
        """Note a warning."""
        self._add(code, Level.WARNING, subject, detail, hint)

    def _add(self, code: Code, level: Level, subject: str, detail: str, hint: str) -> None:
        self.passed(code)
        self.bad.append(Finding(code, level, subject, detail, hint))

    def in_order(self) -> list[Finding]:
        """Return the findings of each check that was made, in the order of the table."""
        found: list[Finding] = []
        for code in (each for each in CHECKS if each in self.checked):
            bad = [each for each in self.bad if str(each.code) == code]
            if not bad:
                fact = self.checked[code]
                text = CHECKS[code].passed + (f": {fact}" if fact else "")
                found.append(_plain(Finding(code, Level.OK, "", text)))
            found += [_plain(each) for each in _bounded(code, bad)]
        return found


def merged(parts: Iterable[Findings]) -> Findings:
    """Return the findings of all categories as one."""
    whole = Findings()
    for part in parts:
        for code, fact in part.checked.items():
            whole.passed(code, fact)
        whole.bad += part.bad
    return whole


def hint_of(code: Code) -> str:
    """Return the fixed hint of a check, without Markdown."""
    text = without_backticks(CHECKS[code].step)
    while "](" in text:  # [text](target)
        before, _, rest = text.partition("[")
        words, _, rest = rest.partition("](")
        text = f"{before}{words}{rest.partition(')')[2]}"
    return text


def _bounded(code: Code, bad: Sequence[Finding]) -> list[Finding]:
    if len(bad) <= SHOWN_MAX:
        return list(bad)
    worst_first = sorted(bad, key=lambda each: each.level is not Level.ERROR)
    left = len(bad) - SHOWN_MAX
    more = Finding(code, worst_first[SHOWN_MAX].level, "", f"{counted(left, 'more finding')} of this check")
    return [*worst_first[:SHOWN_MAX], more]


def _plain(finding: Finding) -> Finding:
    """Bound and clean the texts, which can contain names and answers of peers."""
    hint = finding.hint or ("" if finding.level is Level.OK else hint_of(Code(finding.code)))
    return replace(
        finding,
        subject=printable(finding.subject, _TEXT_MAX),
        detail=printable(finding.detail, _TEXT_MAX),
        hint=printable(hint, _TEXT_MAX),
    )
