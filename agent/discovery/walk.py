"""Expand globs on a file system that changes meanwhile. Blocking: call it in a worker thread.

Unlike the standard library's glob this reports the directories that could not be read and those in which a
match could appear (to watch them), never follows links under `**`, and stops at a bound. All owners
(core/shares.py) share the bound: the one that has used the least goes on, so only those that have the most
reach it.
"""

import errno
import fnmatch
import os
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count, islice

from agent.core.shares import ROOT, Owner, owner_below
from agent.discovery.globs import has_wildcard

_IS_NONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors that say that there is no directory: removed meanwhile, or a broken link. Others say nothing."""


DEPTH_MAX = 32
"""Directories that `**` stands for, one below the other."""

ENTRIES_MAX = 20_000
"""Entries of one directory that are looked at. Any user may fill a directory of their own."""

SHARED_ENTRIES_MAX = 200_000
"""The same of a directory of root's, in which all users may have files (/tmp)."""

ENTRIES_OF_ALL_MAX = 500_000
"""Entries that one pass looks at."""


@dataclass(frozen=True, slots=True)
class Match:
    """A path that matches a glob."""

    glob: int  # its number
    path: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class _Rest:
    """What of a glob is to be looked for in a directory; without parts, the path is a match itself."""

    glob: int
    path: str
    parts: Sequence[str]


@dataclass(slots=True)
class _Use:
    """What of the bound is used."""

    paths: int = 0
    directories: int = 0
    entries: int = 0


class _TooManyError(Exception):
    """The bound is reached."""


class Walk:
    """One pass over the file system. All but `expand` grows as `expand` is iterated."""

    def __init__(self, bound: int) -> None:
        """Read at most `bound` directories, and return at most `bound` paths."""
        self._bound = bound
        self._all = _Use()
        self._of: defaultdict[Owner, _Use] = defaultdict(_Use)
        self._waiting: dict[Owner, deque[_Rest]] = {}  # what each owner's walk has to do
        self._turns: list[tuple[float, int, Owner]] = []  # a heap: the next owner's walk is continued
        self._serial = count()
        self.places: dict[str, set[str]] = {}  # directory, maybe missing -> parts to match in it
        self.unreadable: dict[str, str] = {}  # directory -> why it was read only in part, and what to do
        self.left_out: dict[Owner, int] = {}  # owner whose paths were covered in part -> a glob's number

    def expand(self, *globs: str) -> Iterator[Match]:
        """Yield the paths that match absolute globs, files of any kind; once for each glob.

        Those of one glob and owner are sorted within each directory. A path whose last part has no wildcard
        is yielded without a look: it may not exist. At the bound the rest is left out.
        """
        for number, glob in enumerate(globs):
            self._add(ROOT, _Rest(number, "/", [part for part in glob.split("/") if part]))
        walks: dict[Owner, Iterator[Match | None]] = {}
        while self._turns:
            _, _, owner = heappop(self._turns)
            walk = walks.setdefault(owner, self._walk(owner))
            try:
                match = next(walk)
            except StopIteration:
                del walks[owner], self._waiting[owner]
                continue
            except _TooManyError:
                self.left_out = {each: waiting[0].glob for each, waiting in self._waiting.items()}
                return
            self._take_turn(owner)
            if match is not None:
                yield match

    def _walk(self, owner: Owner) -> Iterator[Match | None]:
        """Yield the matches of an owner, and `None` after each directory, for others to have their turn."""
        waiting = self._waiting[owner]
        while waiting:
            rest = waiting[0]
            for path in self._expand(rest.glob, rest.path, rest.parts, owner):
                if path is not None:
                    if self._all.paths == self._bound:
                        raise _TooManyError
                    self._all.paths += 1
                    self._of[owner].paths += 1
                yield None if path is None else Match(rest.glob, path, owner)
            waiting.popleft()

    def _add(self, owner: Owner, rest: _Rest) -> None:
        if owner in self._waiting:
            self._waiting[owner].append(rest)
        else:
            self._waiting[owner] = deque([rest])
            self._take_turn(owner)

    def _take_turn(self, owner: Owner) -> None:
        """Let an owner's walk go on when no other has used less of the bound, where each has used most."""
        use = self._of[owner]
        used = max(use.paths, use.directories, use.entries * self._bound / ENTRIES_OF_ALL_MAX)
        heappush(self._turns, (used, next(self._serial), owner))

    def _expand(self, glob: int, directory: str, parts: Sequence[str], owner: Owner) -> Iterator[str | None]:
        if not parts:
            yield directory
            return
        part, rest = parts[0], parts[1:]
        if part == "**":
            yield from self._expand_any_depth(glob, directory, rest, owner)
            return
        if not has_wildcard(part):
            self._note(directory, part, owner)
            yield from self._go_on(glob, os.path.join(directory, part), rest, owner)
            return
        matcher = _matcher(part)
        entries = self._list(directory, part, owner)
        yield None
        for entry in entries:
            if matcher(entry.name) and (not rest or self._is_directory(entry, follow_symlinks=True)):
                yield from self._go_on(glob, entry.path, rest, owner)

    def _expand_any_depth(
        self, glob: int, directory: str, rest: Sequence[str], owner: Owner, depth: int = 0
    ) -> Iterator[str | None]:
        yield from self._expand(glob, directory, rest or ["*"], owner)
        if depth == DEPTH_MAX:
            self.unreadable[directory] = f"is {DEPTH_MAX} directories deep and is not searched"
            return
        entries = self._list(directory, "*", owner)
        yield None
        for entry in entries:
            if not entry.name.startswith(".") and self._is_directory(entry, follow_symlinks=False):
                if (own := _owner(owner, entry.path)) == owner:
                    yield from self._expand_any_depth(glob, entry.path, rest, owner, depth + 1)
                else:
                    self._add(own, _Rest(glob, entry.path, ["**", *rest]))

    def _go_on(self, glob: int, path: str, rest: Sequence[str], owner: Owner) -> Iterator[str | None]:
        """Expand what is below `path`, at once or when its owner has a turn."""
        if (own := _owner(owner, path)) == owner:
            yield from self._expand(glob, path, rest, owner)
        else:
            self._add(own, _Rest(glob, path, rest))

    def _list(self, directory: str, part: str, owner: Owner) -> list["os.DirEntry[str]"]:
        self._note(directory, part, owner)
        entries_max = SHARED_ENTRIES_MAX if owner == ROOT else ENTRIES_MAX
        try:
            with os.scandir(directory) as entries:
                found = list(islice(entries, entries_max))
                if next(entries, None) is not None:
                    self.unreadable[directory] = f"has more than {entries_max} entries; the rest is left out"
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.unreadable[directory] = _cannot_be_read(error)
            return []
        owners = Counter(map(_user, found)) if owner == ROOT else {owner: len(found)}
        for each, entries_count in owners.items():
            self._of[each].entries += entries_count
        self._all.entries += len(found)
        if self._all.entries > ENTRIES_OF_ALL_MAX:
            raise _TooManyError
        return sorted(found, key=lambda entry: entry.name)

    def _is_directory(self, entry: "os.DirEntry[str]", *, follow_symlinks: bool) -> bool:
        try:
            return entry.is_dir(follow_symlinks=follow_symlinks)
        except OSError as error:
            if error.errno not in _IS_NONE:
                self.unreadable[entry.path] = _cannot_be_read(error)
            return False

    def _note(self, directory: str, part: str, owner: Owner) -> None:
        if directory not in self.places:
            if self._all.directories == self._bound:
                raise _TooManyError
            self._all.directories += 1
            self._of[owner].directories += 1
            self.places[directory] = set()
        self.places[directory].add(part)


def _owner(above: Owner, path: str) -> Owner:
    """Return the owner of what a path names, and leads to."""
    if above != ROOT:
        return above
    try:
        owner = owner_below(ROOT, path, os.lstat(path).st_uid)
        return owner if owner != ROOT else owner_below(ROOT, path, os.stat(path).st_uid)
    except OSError:
        return ROOT


def _user(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_uid
    except OSError:
        return ROOT


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
