"""The configuration file, read: YAML 1.1 in its safe form, in which a key written twice is refused."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml

from agent.errors import ConfigError, Problem

SIZE_MAX_BYTES = 2**20
"""Far above any configuration: the wrong file was named."""


def read_yaml(path: str) -> dict[str, Any]:
    """Return the file's settings; a key without a value counts as not written.

    Raises:
        ConfigError: it cannot be read, or is no YAML; the place is its path, line and column.
    """
    try:
        text = _read(Path(path))
        # A SafeLoader of ours: it makes plain values only, as yaml.safe_load does.
        loaded: object = yaml.load(text, _Loader)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _refused(
            path, f"is not text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = path if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
        raise _refused(place, _syntax(error)) from error
    except yaml.YAMLError as error:
        raise _refused(path, f"is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise _refused(path, "is nested too deeply") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise _refused(path, "must be `setting: value` lines, as in docs/configuration.md")
    return _without_nulls(cast("dict[object, object]", loaded))


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(SIZE_MAX_BYTES + 1)
    if len(content) > SIZE_MAX_BYTES:
        raise OSError(0, f"it is larger than {SIZE_MAX_BYTES} bytes, so hardly a configuration")
    return content.decode()


def _refused(place: str, message: str) -> ConfigError:
    return ConfigError([Problem(place, message)])


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "cannot be understood"
    context = f" ({error.context})" if error.context else ""
    hint = ""
    if "\\t" in problem:
        hint = ": indent with spaces"
    elif "mapping values are not allowed" in problem:
        hint = ": look for a missing quote, or for wrong indentation"
    elif "could not determine a constructor" in problem:
        hint = ": write it without the tag"
    return f"is not YAML: {problem}{context}{hint}"


def _without_nulls(mapping: dict[object, object]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in mapping.items():
        if value is not None:
            kept[str(key)] = (
                _without_nulls(cast("dict[object, object]", value)) if isinstance(value, dict) else value
            )
    return kept


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader lets the last of two equal keys win, in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[object, yaml.Mark] = {}
        for key_node, _ in node.value:
            key: object = cast("object", key_node.value)
            if isinstance(key, str) and key != "<<":
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None,
                        None,
                        f"{key!r} is written twice, first in line {seen[key].line + 1}",
                        key_node.start_mark,
                    )
                seen[key] = key_node.start_mark
        return super().construct_mapping(node, deep)
