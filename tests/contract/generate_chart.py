"""Writes what is made from helm/values.source.yaml: `python -m tests.contract.generate_chart`.

The chart's schema, closed, with the agent's own under `config`; its values with their defaults; the table in
its README. Tests only compare.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from tests.contract.generate_reference import CONFIG_SCHEMA

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "helm/values.source.yaml"
CHART = ROOT / "helm/barograph"
SCHEMA = CHART / "values.schema.json"
VALUES = CHART / "values.yaml"
README = CHART / "README.md"

Value = Mapping[str, Any]

OF_THE_CHART = ("host", "state_directory", "web", "shutdown")
"""Settings of the agent that the chart decides, from other values."""

_END = "\n..."  # PyYAML's, of a document that is a scalar

_TABLE = re.compile(
    r"(?<=<!-- values: made by python -m tests\.contract\.generate_chart -->\n).*(?=<!-- end of values -->)",
    re.S,
)


def made() -> Mapping[Path, str]:
    """Return the content of every file that is made."""
    source = cast(dict[str, Value], yaml.safe_load(SOURCE.read_text()))
    return {
        SCHEMA: json.dumps(_schema(source), indent=2) + "\n",
        VALUES: "\n".join(_values(source)),
        README: _TABLE.sub(lambda _: "\n" + "\n".join(_table(source)) + "\n\n", README.read_text()),
    }


def _schema(source: Mapping[str, Value]) -> Value:
    agents = cast(dict[str, Any], json.loads(CONFIG_SCHEMA.read_text()))
    definitions = cast(dict[str, Any], agents["$defs"])
    settings = {name: each for name, each in agents["properties"].items() if name not in OF_THE_CHART}
    config = {"type": "object", "additionalProperties": False, "properties": settings}
    needed = _reachable(config, definitions)
    return {
        "$schema": agents["$schema"],
        "title": "Values of the chart barograph",
        **_closed({"properties": source}),
        "$defs": {"Config": config, **{name: definitions[name] for name in definitions if name in needed}},
    }


def _reachable(schema: Value, definitions: Mapping[str, Any]) -> set[str]:
    """Return the names of the definitions that a schema needs, directly or not."""
    found: set[str] = set()
    waiting = re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += re.findall(r'"#/\$defs/(\w+)"', json.dumps(definitions[name]))
    return found


def _closed(schema: Value) -> Value:
    """Return the schema of a section and all in it with nothing else allowed beside."""
    if "properties" not in schema or "default" in schema:
        return schema
    properties = {name: _closed(each) for name, each in schema["properties"].items()}
    return {**schema, "type": "object", "additionalProperties": False, "properties": properties}


def _values(source: Mapping[str, Value], depth: int = 0) -> Iterator[str]:
    if depth == 0:
        yield "# Every value of the chart. Made from helm/values.source.yaml: change that.\n"
    indent = "  " * depth
    for name, schema in source.items():
        words = textwrap.wrap(_takes_first(schema), 108 - len(indent))
        yield from (f"{indent}# {line}" for line in words)
        if "default" in schema:
            written = yaml.safe_dump(schema["default"], default_flow_style=True, sort_keys=False, width=200)
            yield f"{indent}{name}: {written.partition(_END)[0].rstrip()}"
            yield ""
        else:
            yield f"{indent}{name}:"
            yield from _values(schema["properties"], depth + 1)


def _takes_first(schema: Value) -> str:
    words = [str(word) for word in cast(list[object], schema.get("enum", []))]
    choices = f"[{', '.join(word or 'empty' for word in words)}] " if words else ""
    return choices + str(schema["description"])


def _table(source: Mapping[str, Value]) -> Iterator[str]:
    yield "| value | takes | default | |"
    yield "| --- | --- | --- | --- |"
    for path, schema in leaves(source):
        default = json.dumps(schema["default"], ensure_ascii=False)
        description = str(schema["description"]).replace("|", "\\|")
        yield f"| `{path}` | {_takes(schema)} | `{default}` | {description} |"


def leaves(source: Mapping[str, Value], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Yield each value with its path, sections left out."""
    for name, schema in source.items():
        if "default" in schema:
            yield prefix + name, schema
        else:
            yield from leaves(schema["properties"], f"{prefix}{name}.")


def _takes(schema: Value) -> str:
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"] if word != "")
    if "$ref" in schema:
        return "the agent's settings"
    types = cast(list[str] | str, schema["type"])
    words = {
        "integer": "number",
        "boolean": "`true`, `false`",
        "array": "list",
        "object": "map",
        "string": "text",
    }
    given = [types] if isinstance(types, str) else types
    return " or ".join(words[each] for each in given if each != "null")


if __name__ == "__main__":
    for path, content in made().items():
        path.write_text(content)
