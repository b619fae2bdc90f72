"""Sources laid over each other. Where a value comes from is remembered, so that a message can name it."""

from dataclasses import dataclass, field
from typing import Any, cast

from agent.config.settings_list import SettingPath

Location = tuple[str | int, ...]
"""As pydantic gives it: ("monitors", 1, "glob")."""


@dataclass(slots=True)
class Layer:
    """Settings as a tree, and by setting the name of the place that is not the file: a flag, a variable."""

    tree: dict[str, Any] = field(default_factory=dict[str, Any])
    places: dict[SettingPath, str] = field(default_factory=dict[SettingPath, str])

    def put(self, path: SettingPath, value: object, place: str) -> None:
        """Add one setting."""
        section = self.tree
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = value
        self.places[path] = place

    def over(self, lower: "Layer") -> "Layer":
        """Return this one laid over `lower`: sections are joined, settings replaced whole."""
        places = {path: place for path, place in lower.places.items() if not _has(self.tree, path)}
        return Layer(_joined(lower.tree, self.tree), places | self.places)

    def place(self, location: Location) -> str:
        """Name the place of a value for people: `--interval`, `BAROGRAPH_LOG__LEVEL`, `monitors[1].glob`."""
        for length in range(1, len(location) + 1):
            place = self.places.get(cast("SettingPath", location[:length]))
            if place is not None:
                return place
        return dotted(location)

    def holds(self, path: SettingPath) -> bool:
        """Whether the setting, or anything in the section, was given."""
        return _has(self.tree, path)


def dotted(location: Location) -> str:
    """Return `monitors[1].glob` for ("monitors", 1, "glob")."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _joined(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    joined = dict(lower)
    for name, value in upper.items():
        below: object = joined.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            joined[name] = _joined(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            joined[name] = value
    return joined


def _has(tree: dict[str, Any], path: SettingPath) -> bool:
    name, *rest = path
    inner: object = tree.get(name)
    if not rest:
        return name in tree
    return isinstance(inner, dict) and _has(cast("dict[str, Any]", inner), tuple(rest))
