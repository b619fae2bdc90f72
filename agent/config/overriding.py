"""Which settings of the file have no effect, because a variable or a flag has another value."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from agent.config.sources import Flags, Layer, dotted, own_variables, read_yaml
from agent.config.tree import SettingPath


def overridden(flags: Flags, environ: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    """Return each such setting with its variable or flag. The file can be read: the configuration is loaded.

    Values are not returned: they may be secrets.
    """
    path = flags.config_file(environ)
    if path is None:
        return ()
    file = Layer(read_yaml(path))
    variables, _ = own_variables(environ)
    return tuple(_overridden(file, flags.layer().over(variables)))


def _overridden(file: Layer, upper: Layer) -> Iterator[tuple[str, str]]:
    for path, place in upper.places.items():
        if file.holds(path) and _text(file.tree, path) != _text(upper.tree, path):
            yield dotted(path), place


def _text(tree: dict[str, Any], path: SettingPath) -> str:
    value: object = tree
    for name in path:
        value = cast("dict[str, object]", value)[name]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, cast("Sequence[object]", value)))
    return str(value).lower() if isinstance(value, bool) else str(value)
