"""Which VMs are observed: the rules of `vms.exclude` and `vms.include`.

A VM that matches a rule of `exclude` is excluded, whatever else it matches. If `include` has rules, a VM that
matches none of them is excluded, too. The path and the labels of a VM are known once it is found. The name
and the uuid that QEMU was started with are known only after QEMU was asked: until then a rule may be open.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from fnmatch import fnmatchcase

from msgspec import Struct

from agent.core.reading import NO_LABELS


class Rule(Struct, frozen=True):
    """What a VM must match, all of it. Each part is a glob over the whole text; `*` matches `/`, too."""

    path: str | None = None
    name: str | None = None
    uuid: str | None = None
    labels: Mapping[str, str] = NO_LABELS


class Choice(Struct, frozen=True):
    """The rules, in the order of the configuration."""

    include: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()


EVERY_VM = Choice()


class Traits(Struct, frozen=True):
    """What is known of a VM. `is_introduced`: name and uuid are known, and `None` means that it has none."""

    path: str
    labels: Mapping[str, str]
    name: str | None = None
    uuid: str | None = None
    is_introduced: bool = False


class Outcome(Enum):
    """Whether a VM is observed."""

    OBSERVED = "observed"
    EXCLUDED = "excluded"
    OPEN = "open"  # its name or uuid decides


class Decision(Struct, frozen=True):
    """An outcome; of an excluded VM also the reason, as text."""

    outcome: Outcome
    why: str = ""

    @property
    def is_excluded(self) -> bool:
        """Return whether the VM must not be observed."""
        return self.outcome is Outcome.EXCLUDED


OBSERVED = Decision(Outcome.OBSERVED)
OPEN = Decision(Outcome.OPEN)


def decide(choice: Choice, traits: Traits) -> Decision:
    """Return whether the VM is observed, as far as its traits tell."""
    if choice == EVERY_VM:
        return OBSERVED
    excluding = [_matches(rule, traits) for rule in choice.exclude]
    including = [_matches(rule, traits) for rule in choice.include]
    if True in excluding:
        return Decision(Outcome.EXCLUDED, f"vms.exclude[{excluding.index(True)}] matches this VM")
    if including and True not in including and None not in including:
        return Decision(Outcome.EXCLUDED, "no rule of vms.include matches this VM")
    is_open = None in excluding or (including and True not in including)
    return OPEN if is_open else OBSERVED


def _matches(rule: Rule, traits: Traits) -> bool | None:
    """Return whether all parts of a rule match; `None`: the part that decides is not known yet."""
    return _all(
        (
            rule.path is None or fnmatchcase(traits.path, rule.path),
            all(
                label in traits.labels and fnmatchcase(traits.labels[label], pattern)
                for label, pattern in rule.labels.items()
            ),
            _matches_later(rule.name, traits.name, traits),
            _matches_later(
                None if rule.uuid is None else rule.uuid.lower(),
                None if traits.uuid is None else traits.uuid.lower(),
                traits,
            ),
        )
    )


def _matches_later(pattern: str | None, text: str | None, traits: Traits) -> bool | None:
    if pattern is None:
        return True
    if not traits.is_introduced:
        return None
    return text is not None and fnmatchcase(text, pattern)


def _all(parts: Iterable[bool | None]) -> bool | None:
    found = tuple(parts)
    if False in found:
        return False
    return None if None in found else True
