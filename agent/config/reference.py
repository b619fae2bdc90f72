"""Generates the JSON Schema of the file and the tables of docs/configuration.md from the models."""

from collections.abc import Iterator
from enum import Enum
from typing import Any, cast, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agent.config.choice_sections import RuleConfig
from agent.config.libvirt_sections import LibvirtConfig, MetadataConfig
from agent.config.sections import MonitorConfig
from agent.config.tree import Setting, Written, all_settings, section_model, sections
from agent.config.types import Takes
from agent.config.units import Duration, Size, Within

SCHEMA_ID = "urn:barograph:schema:config:1"


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the file, for editors and linters. `load` checks more than it.

    Secrets are omitted, since they are not allowed in the file.
    """
    made = Written.model_json_schema()
    for model in (*sections().values(), MonitorConfig, LibvirtConfig, MetadataConfig, RuleConfig):
        schema = made if model is Written else made["$defs"][model.__name__]
        for name, field in model.model_fields.items():
            _polish(schema["properties"], name, field)
    for setting in all_settings():
        if setting.env_only:
            section = sections()[setting.path[:-1]].__name__
            del made["$defs"][section]["properties"][setting.path[-1]]
    for definition in made["$defs"].values():
        definition.pop("title", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **made,
        "title": "Configuration of barograph",
        "description": "docs/configuration.md describes every setting.",
    }


def tables() -> str:
    """Return the reference part of docs/configuration.md."""
    parts = [_table("", [setting for setting in all_settings() if len(setting.path) == 1])]
    for name, model in (
        ("monitors[]", MonitorConfig),
        ("libvirt[]", LibvirtConfig),
        ("libvirt[].metadata[]", MetadataConfig),
        ("vms.exclude[]", RuleConfig),
    ):
        own = [Setting((name, each), field) for each, field in model.model_fields.items()]
        parts.append(f"### `{name}`\n\n{_doc(model)}\n\n{_table(name, own)}")
    for path, model in sections().items():
        own = [setting for setting in all_settings() if path and setting.path[:-1] == path]
        if own:
            dotted = ".".join(path)
            parts.append(f"### `{dotted}`\n\n{_doc(model)}\n\n{_table(dotted, own)}")
    return "\n\n".join(parts)


def default_words(setting: Setting) -> str:
    """Return the default of a setting as the docs show it."""
    default: object = setting.field.get_default()
    match default:
        case bool():
            return f"`{str(default).lower()}`"
        case Enum() | Duration() | Size() | int() | str():
            return f"`{default}`"
        case _:
            return "required" if setting.field.is_required() or setting.path == ("monitors",) else ""


def _polish(properties: dict[str, Any], name: str, field: FieldInfo) -> None:
    """Remove what pydantic adds: titles, nulls, and the defaults of sections."""
    schema = properties[name]
    schema.pop("title", None)
    default: object = schema.pop("default", None)
    alternatives = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(alternatives) == 1:
        del schema["anyOf"]
        schema.update(alternatives[0])
    elif alternatives:
        schema["anyOf"] = alternatives
    own: object = field.get_default()
    if isinstance(own, Duration | Size):
        schema["default"] = str(own)
    elif section_model(field) is None and default not in (None, [], {}):
        schema["default"] = default


def _table(section: str, settings: list[Setting]) -> str:
    lines = ["| setting | value | default | description |", "| --- | --- | --- | --- |"]
    for setting in settings:
        name = f"`{setting.dotted.removeprefix(section).lstrip('.')}`"
        if not section.endswith("[]"):
            name += f"<br>`{setting.variable}`"
        cells = (name, _takes(setting.field), default_words(setting), setting.field.description or "")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _doc(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _takes(field: FieldInfo) -> str:
    parts = tuple(_parts(field.annotation, *field.metadata))
    for each in parts:
        if isinstance(each, Takes):
            return each.words
    for each in parts:
        if isinstance(each, Within):
            return f"{'size' if isinstance(each.least, Size) else 'duration'}, {each}"
        if isinstance(each, type) and issubclass(each, Enum):
            return ", ".join(f"`{member.value}`" for member in each)
    if Duration in parts:
        return "duration"
    if bool in parts:
        return "`true`, `false`"
    least = next(each.ge for each in parts if hasattr(each, "ge"))
    most = next(each.le for each in parts if hasattr(each, "le"))
    return f"number, {least} to {most}"


def _parts(*of: object) -> Iterator[Any]:
    """Yield all parts of an annotation, from the outside in."""
    for each in of:
        yield each
        yield from _parts(*cast("tuple[object, ...]", get_args(each)))
        if isinstance(each, FieldInfo):
            yield from each.metadata
