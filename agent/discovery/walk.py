"""Expand globs on a file system that changes meanwhile. Blocking: call it in a worker thread.

Unlike the standard library's glob this reports the directories that could not be read and those in which a
match could appear (to watch them), never follows links under `**`, and stops at a bound.
"""

import errno
import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice

from agent.discovery.globs import has_wildcard

_IS_NONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors that say that there is no directory: removed meanwhile, or a broken link. Others say nothing."""


DEPTH_MAX = 32
"""Directories that `**` stands for, one below the other."""

ENTRIES_MAX = 20_000
"""Entries of one directory that are looked at. Any user may fill a directory of their own."""

ENTRIES_OF_ALL_MAX = 500_000
"""Entries that one pass looks at."""


class TooManyError(Exception):
    """The bound is reached."""


class Walk:
    """One pass over the file system. `places` and `unreadable` grow as `expand` is iterated."""

    def __init__(self, bound: int) -> None:
        """Read at most `bound` directories, and return at most `bound` paths."""
        self._left = bound
        self._directories_left = bound
        self._entries_left = ENTRIES_OF_ALL_MAX
        self.places: dict[str, set[str]] = {}  # directory, maybe missing -> parts to match in it
        self.unreadable: dict[str, str] = {}  # directory -> why not all of it was looked at, and what to do

    def expand(self, glob: str) -> Iterator[str]:
        """Yield the paths that match an absolute glob, files of any kind, sorted within each directory.

        A path whose last part has no wildcard is yielded without a look: it may not exist.

        Raises:
            TooManyError: the bound is reached.
        """
        for path in self._expand("/", [part for part in glob.split("/") if part]):
            if self._left == 0:
                raise TooManyError
            self._left -= 1
            yield path

    def _expand(self, directory: str, parts: list[str]) -> Iterator[str]:
        part, rest = parts[0], parts[1:]
        if part == "**":
            yield from self._expand_any_depth(directory, rest)
            return
        if not has_wildcard(part):
            self._note(directory, part)
            there = os.path.join(directory, part)
            yield from self._expand(there, rest) if rest else (there,)
            return
        matcher = _matcher(part)
        for entry in self._entries(directory, part):
            if matcher(entry.name):
                if not rest:
                    yield entry.path
                elif self._is_directory(entry, follow_symlinks=True):
                    yield from self._expand(entry.path, rest)

    def _expand_any_depth(self, directory: str, rest: list[str], depth: int = 0) -> Iterator[str]:
        yield from self._expand(directory, rest or ["*"])
        if depth == DEPTH_MAX:
            self.unreadable[directory] = f"is {DEPTH_MAX} directories deep and is not searched"
            return
        for entry in self._entries(directory, "*"):
            if not entry.name.startswith(".") and self._is_directory(entry, follow_symlinks=False):
                yield from self._expand_any_depth(entry.path, rest, depth + 1)

    def _entries(self, directory: str, part: str) -> list["os.DirEntry[str]"]:
        self._note(directory, part)
        try:
            with os.scandir(directory) as entries:
                found = list(islice(entries, ENTRIES_MAX))
                if next(entries, None) is not None:
                    self.unreadable[directory] = f"has more than {ENTRIES_MAX} entries; the rest is left out"
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.unreadable[directory] = _cannot_be_read(error)
            return []
        self._entries_left -= len(found)
        if self._entries_left < 0:
            raise TooManyError
        return sorted(found, key=lambda entry: entry.name)

    def _is_directory(self, entry: "os.DirEntry[str]", *, follow_symlinks: bool) -> bool:
        try:
            return entry.is_dir(follow_symlinks=follow_symlinks)
        except OSError as error:
            if error.errno not in _IS_NONE:
                self.unreadable[entry.path] = _cannot_be_read(error)
            return False

    def _note(self, directory: str, part: str) -> None:
        if directory not in self.places:
            if self._directories_left == 0:
                raise TooManyError
            self._directories_left -= 1
            self.places[directory] = set()
        self.places[directory].add(part)


def _cannot_be_read(error: OSError) -> str:
    return f"cannot be read: {error.strerror}; let the agent's user read and enter it"


def matches(part: str, name: str) -> bool:
    """Return whether one part of a glob matches a file's name."""
    return _matcher(part)(name)


def _matcher(part: str) -> Callable[[str], bool]:
    match = re.compile(fnmatch.translate(part)).match
    if part.startswith("."):
        return lambda name: match(name) is not None
    return lambda name: not name.startswith(".") and match(name) is not None
