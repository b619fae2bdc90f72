"""What a disk may hold after a power cut, from the trace of what a process had the kernel write.

What was flushed is there. Of what was not, any part may be: each file's later writes in pieces of a sector
of 512 bytes, each of them there or not, whatever came before or after it; and of the names that were made,
removed or changed since their directory was flushed, the first so many (a journaling file system keeps
these in order). Not covered: a disk that says it has flushed and has not, and sectors that a cut destroys.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

CALLS = "openat,write,pwrite64,ftruncate,fsync,fdatasync,unlink,rename"
"""What a process can change or flush a file by, of what SQLite uses (os_unix.c); no memory maps."""

SECTOR_BYTES = 512

_LINE = re.compile(r"(?P<call>\w+)\((?P<arguments>.*)\)\s+= (?P<result>\S+)")
_FILE = re.compile(r"\d+<((?:\\x..)*)>")
_TEXT = re.compile(r'"((?:\\x..)*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One call that did something."""

    name: str
    paths: Sequence[str]  # what it is about; a rename has two
    data: bytes = b""
    number: int = 0  # a write's offset, a truncation's length


def strace(trace: Path) -> Sequence[str]:
    """Return the words to put before a command, so that `calls` can read its trace."""
    return ("strace", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(trace))


def calls(trace: Path) -> Iterator[Call]:
    """Yield the calls of a process of one thread that did not fail."""
    for line in trace.read_text().splitlines():
        found = _LINE.match(line)
        if found is None:
            if not line.startswith(("---", "+++")):
                raise ValueError(f"a line of a trace that is not understood: {line[:100]}")
            continue
        name, arguments, result = found.group("call", "arguments", "result")
        if result == "-1":
            continue
        files, texts = _FILE.findall(arguments), _TEXT.findall(arguments)
        match name:
            case "openat":
                if "O_CREAT" in arguments:
                    yield Call("create", [_text(texts[0])])
            case "write" | "pwrite64":
                data = _bytes(texts[0])
                if int(result) != len(data):
                    raise ValueError(f"a write that was not whole: {line[-60:]}")
                offset = int(arguments.rsplit(", ", 1)[1]) if name == "pwrite64" else 0
                yield Call(name, [_text(files[0])], data, offset)
            case "ftruncate":
                yield Call(name, [_text(files[0])], number=int(arguments.rsplit(", ", 1)[1]))
            case "fsync" | "fdatasync":
                yield Call("flush", [_text(files[0])])
            case _:
                yield Call(name, [_text(each) for each in texts])


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _text(escaped: str) -> str:
    return _bytes(escaped).decode()


_Write: TypeAlias = tuple[int, bytes | None]
"""Where and what; `None`: the file ends there."""


@dataclass
class _File:
    flushed: bytearray = field(default_factory=bytearray)
    later: list[_Write] = field(default_factory=list[_Write])

    def flush(self) -> None:
        for each in self.later:
            _apply(self.flushed, *each)
        self.later.clear()

    def after_a_cut(self, chance: random.Random) -> bytes:
        content = bytearray(self.flushed)
        share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for offset, data in self.later:
            if data is None:
                if chance.random() < share:
                    _apply(content, offset, None)
                continue
            begin = 0
            while begin < len(data):
                end = min(len(data), begin + SECTOR_BYTES - (offset + begin) % SECTOR_BYTES)
                if chance.random() < share:
                    _apply(content, offset + begin, data[begin:end])
                begin = end
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    content.extend(bytes(max(offset - len(content), 0)))
    if data is None:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data


class Disk:
    """One directory, as the process sees it and as the disk may have it."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._names: dict[str, _File] = {}
        self._flushed_names: dict[str, _File] = {}
        self._later: list[dict[str, _File]] = []  # the names after each change not flushed

    def take(self, call: Call) -> None:
        """Take in what the process did next."""
        path = call.paths[0]
        if path == self._folder and call.name == "flush":
            self._flushed_names, self._later = dict(self._names), []
        if Path(path).parent != Path(self._folder):
            return
        match call.name:
            case "create":
                if path not in self._names:
                    self._renamed({**self._names, path: _File()})
            case "pwrite64":
                self._names[path].later.append((call.number, call.data))
            case "ftruncate":
                self._names[path].later.append((call.number, None))
            case "flush":
                self._names[path].flush()
            case "unlink":
                self._renamed({name: file for name, file in self._names.items() if name != path})
            case _:
                raise ValueError(f"a {call.name} of {path}, which this knows nothing of")

    def after_a_cut(self, chance: random.Random) -> dict[str, bytes]:
        """Return files, by name, that the disk may hold if the power goes now."""
        names = chance.choice([self._flushed_names, *self._later, self._names])
        return {Path(path).name: file.after_a_cut(chance) for path, file in names.items()}

    def _renamed(self, names: dict[str, _File]) -> None:
        self._names = names
        self._later.append(names)
