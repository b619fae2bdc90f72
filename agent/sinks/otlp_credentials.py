"""Headers and certificates of an OTLP backend, from files that are read again when they change.

Each export looks at the files. A file that has become unusable is reported once, and its last content is
kept: a tool that renews two files may be between them.
"""

import os
import ssl
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from agent.sinks import otlp_headers, otlp_tls
from agent.sinks.otlp_settings import Settings

log = structlog.get_logger("barograph.otlp")

T = TypeVar("T")


class Credentials:
    """What identifies the agent to the backend, and the backend to the agent. Used by one thread."""

    def __init__(self, settings: Settings, add_secret: Callable[[str], None]) -> None:
        """Read nothing yet; `add_secret` is called with each value of a header."""
        named = [path for path in (settings.headers_file, settings.bearer_token_file) if path is not None]
        self._settings = settings
        self._add_secret = add_secret
        self._headers = _Fresh(lambda: named, self._read_headers)
        self._context = _Fresh(lambda: list(otlp_tls.files(settings)), lambda: otlp_tls.context(settings))

    def headers(self) -> Mapping[str, str]:
        """Return the headers of a request, by name in lower case.

        Raises:
            OSError, ValueError: a file cannot be read or used, and could not before.
        """
        return self._headers.get()[1]

    def context(self) -> tuple[Hashable, ssl.SSLContext]:
        """Return the TLS context, and what identifies the content of its files.

        Raises:
            OSError, ValueError: as `headers`.
        """
        return self._context.get()

    def _read_headers(self) -> Mapping[str, str]:
        settings = self._settings
        parts = [settings.headers]
        if settings.headers_file is not None:
            parts.append(_parsed(settings.headers_file, otlp_headers.parse_file))
        if settings.bearer_token_file is not None:
            parts.append(_parsed(settings.bearer_token_file, otlp_headers.bearer))
        headers = otlp_headers.merged(*parts)
        for value in headers.values():
            self._add_secret(value)
        return headers


def _parsed(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text(encoding="ascii"))
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} has characters other than ASCII; remove them") from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} {error}") from None


class _Fresh(Generic[T]):
    """A value made from files, and made again when one of them has changed."""

    def __init__(self, files: Callable[[], list[Path]], make: Callable[[], T]) -> None:
        self._files = files
        self._make = make
        self._seen: Hashable = None  # what was last tried, usable or not
        self._kept: tuple[Hashable, T] | None = None

    def get(self) -> tuple[Hashable, T]:
        stamp = tuple(_stamp(path) for path in self._files())
        if self._kept is not None and stamp == self._seen:
            return self._kept
        try:
            self._kept = (stamp, self._make())
        except (OSError, ValueError) as error:
            if self._kept is None:
                raise
            log.warning(
                "changed file rejected, the previous content stays in effect",
                problem=str(error),
                files=[str(each) for each in self._files()],
            )
        self._seen = stamp
        return self._kept


def _stamp(path: Path) -> Hashable:
    """Return what changes with the content of a file, also where Kubernetes replaces what a link leads to."""
    try:
        found = os.stat(path)
    except OSError as error:
        return (str(path), error.errno)
    return (str(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
