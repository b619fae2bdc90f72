"""pydantic's findings in our words: where, what, and the way out."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agent.config.merge import Layer, Location, dotted
from agent.config.section import Section
from agent.config.settings_list import SettingPath, all_settings, sections
from agent.config.written import LibvirtConfig, MonitorConfig
from agent.errors import Problem

_NUMBERS = {"int_type", "int_parsing", "int_from_float", "int_parsing_size", "finite_number"}
_SWITCHES = {"bool_type", "bool_parsing"}
_LISTS = {"tuple_type", "list_type"}
_SECTIONS = {"model_type", "dict_type", "mapping_type", "model_attributes_type"}
_SHOWN_CHARACTERS = 80
_LISTED: Mapping[str, type[Section]] = {"monitors": MonitorConfig, "libvirt": LibvirtConfig}


def explain(error: ValidationError, layer: Layer) -> list[Problem]:
    """Return a problem for each finding, in the order of the settings."""
    return [Problem(layer.place(each["loc"]), _message(each)) for each in error.errors()]


def _message(error: ErrorDetails) -> str:
    kind, context = error["type"], cast("Mapping[str, Any]", error.get("ctx", {}))
    match kind:
        case "extra_forbidden":
            return _unknown(error["loc"])
        case "value_error":
            return str(context["error"])
        case "missing":
            return "is missing: every section under monitors needs it"
        case "enum" | "literal_error":
            return f"must be {context['expected']}, not {_shown(error['input'])}{_near(error)}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}, not {_shown(error['input'])}"
        case "less_than_equal":
            return f"must be at most {context['le']}, not {_shown(error['input'])}"
        case "string_type":
            # Not repeated: it may be a secret.
            return "must be text: put it in quotes"
        case "too_short" | "string_too_short":
            return "is empty: write it, or leave the setting out"
        case _ if kind in _NUMBERS:
            return f"must be a whole number, not {_shown(error['input'])}"
        case _ if kind in _SWITCHES:
            return f"must be true or false, not {_shown(error['input'])}"
        case _ if kind in _LISTS:
            return f"must be a list, or text with commas, not {_kind(error['input'])}"
        case _ if kind in _SECTIONS:
            return f"must be a section of `name: value` lines, not {_kind(error['input'])}"
        case _:
            return error["msg"]


def meant(location: Location) -> tuple[SettingPath, ...]:
    """Return the settings or sections that somebody who wrote an unknown one at `location` probably meant."""
    name = str(location[-1])
    if (listed := _LISTED.get(str(location[0]))) is not None:
        close = get_close_matches(name, listed.model_fields, n=1)
        return tuple((f"{location[0]}[]", near) for near in close)
    section = tuple(str(part) for part in location[:-1])
    beside = tuple(
        (*section, near) for near in get_close_matches(name, sections()[section].model_fields, n=1)
    )
    elsewhere = tuple(setting.path for setting in all_settings() if setting.path[-1] == name)
    return beside or elsewhere


def _unknown(location: Location) -> str:
    found = meant(location)
    if found:
        return f"is no setting; did you mean {' or '.join(map(dotted, found))}?"
    listed = _LISTED.get(str(location[0]))
    known = sections()[tuple(str(part) for part in location[:-1])] if listed is None else listed
    return f"is no setting; here these are known: {', '.join(known.model_fields)}"


def _near(error: ErrorDetails) -> str:
    words = str(error.get("ctx", {})["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
    close = get_close_matches(str(error["input"]), words, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case dict():
            return "a section"
        case list() | tuple():
            return "a list"
        case _:
            return "this"
