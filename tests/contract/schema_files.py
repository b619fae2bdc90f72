"""The schemas and examples in schemas/, and the readers' variant that is generated from each schema."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

SCHEMAS = Path(__file__).parents[2] / "schemas"
DOCUMENTS = ("sample", "state", "agent", "host", "memory")
"""What the agent writes."""

DERIVED = ("pressure", "leak", "right-size", "quality", "host-quality", "headroom", "noisy-guest")
"""What the stream jobs write."""

ALL_DOCUMENTS = (*DOCUMENTS, *DERIVED)

Schema = dict[str, object]


def versions(document: str, major: int = 1) -> list[str]:
    """Return the versions of a document type within `major`, oldest first."""
    names = [path.name for path in (SCHEMAS / document / f"v{major}").glob("*.schema.json")]
    found = [name.removesuffix(".schema.json") for name in names]
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def closed_path(document: str, version: str) -> Path:
    """Return the path of the closed variant: the source, which describes what the agent emits."""
    return SCHEMAS / document / f"v{version.split('.')[0]}" / f"{version}.schema.json"


def open_path(document: str, version: str) -> Path:
    """Return the path of the readers' variant, which is generated from the source."""
    return SCHEMAS / document / f"v{version.split('.')[0]}" / f"{version}.open.json"


def load(path: Path) -> Schema:
    """Read one JSON object."""
    return cast(Schema, json.loads(path.read_text()))


def newest(document: str) -> Schema:
    """Return the newest closed schema of a document type."""
    return load(closed_path(document, versions(document)[-1]))


def opened(schema: Mapping[str, object]) -> Schema:
    """Return the readers' variant: it allows fields that a later minor version adds."""
    variant = {
        "$schema": schema["$schema"],
        "$id": f"{schema['$id']}:open",
        "$comment": "Generated from the closed schema beside it by `python -m tests.contract.generate`.",
    }
    kept = cast(Schema, _without_closing(schema))
    return variant | {name: value for name, value in kept.items() if name not in variant}


def _without_closing(node: object) -> object:
    if isinstance(node, dict):
        fields = cast(Schema, node)
        return {
            name: _without_closing(value)
            for name, value in fields.items()
            if not (name == "additionalProperties" and value is False)
        }
    if isinstance(node, list):
        return [_without_closing(each) for each in cast(list[object], node)]
    return node


def as_text(schema: Mapping[str, object]) -> str:
    """Return the schema as the text of its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def examples(document: str, kind: str) -> list[Path]:
    """Return the example files of a document type; `kind` is "valid" or "invalid"."""
    return sorted((SCHEMAS / document / "v1" / "examples" / kind).glob("*.json"))
