"""What a label may be called and contain: the same for labels of the agent and of VMs, from every source."""

import re
from collections.abc import Collection, Iterator, Mapping

from agent.core.reading import NO_LABELS
from agent.core.wording import printable

LABELS_MAX = 32
"""Labels that one mapping or pattern may give."""

NAME_MAX_CHARACTERS, VALUE_MAX_CHARACTERS = 64, 256

NAME_GROUP = "name"
"""The group of a pattern that is the VM's name, and no label."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")


def mistakes_in_names(names: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with the names of labels, and what to do."""
    if len(names) > LABELS_MAX:
        yield f"{len(names)} labels, more than {LABELS_MAX}; remove some"
        return
    known: dict[str, str] = {}
    for name in names:
        if _NAME.fullmatch(name) is None or len(name) > NAME_MAX_CHARACTERS:
            yield (
                f"{printable(name, NAME_MAX_CHARACTERS)!r} is not a label name; use 1 to "
                f"{NAME_MAX_CHARACTERS} letters, digits, underscores and dots, and start with a letter"
            )
        other = known.setdefault(name.replace(".", "_"), name)
        if other != name:
            yield f"{other!r} and {name!r} are the same label in Prometheus; rename one"


def mistakes_in_pattern(pattern: str) -> Iterator[str]:
    """Yield what is wrong with a regular expression with named groups, and what to do."""
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        yield f"{pattern!r} is not a regular expression: {error}"
        return
    if not groups:
        yield f"{pattern!r} has no named group; put (?P<name>...) around the VM's name"
    yield from mistakes_in_names([group for group in groups if group != NAME_GROUP])


def mistake_in_value(value: str) -> str | None:
    """Return what is wrong with a configured value, and what to do; `None`: nothing."""
    if not value or len(value) > VALUE_MAX_CHARACTERS or not value.isprintable():
        return f"not a label value; use 1 to {VALUE_MAX_CHARACTERS} printable characters"
    return None


def bounded(labels: Mapping[str, str | None]) -> Mapping[str, str]:
    """Return labels whose values others chose: bounded and printable, without empty ones."""
    found = {name: printable(value.strip(), VALUE_MAX_CHARACTERS) for name, value in labels.items() if value}
    return {name: value for name, value in found.items() if value} or NO_LABELS


def matched(pattern: re.Pattern[str] | None, text: str) -> Mapping[str, str]:
    """Return what the named groups of a pattern found in a text: labels, and the group `name`."""
    match = None if pattern is None else pattern.search(text)
    return NO_LABELS if match is None else bounded(match.groupdict())
