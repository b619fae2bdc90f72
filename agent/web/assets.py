"""The page's own files: HTML, scripts, styles. Read once, sent as they are, with an ETag.

A browser asks each time whether its copy is current (`no-cache`), so that the files of two versions of the
agent are never mixed.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

FRONT = "index.html"

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    content_type: str
    packed: bytes  # gzip data
    etag: str


def load() -> Mapping[str, Asset]:
    """Return the files by name."""
    folder = files("agent.web").joinpath("assets")
    return {
        each.name: _asset(each.name, each.read_bytes())
        for each in folder.iterdir()
        if each.name.rpartition(".")[2] in _TYPES
    }


def _asset(name: str, content: bytes) -> Asset:
    digest = hashlib.sha256(content).hexdigest()[:32]
    return Asset(_TYPES[name.rpartition(".")[2]], gzip.compress(content, mtime=0), f'"{digest}"')
