"""Derive what a disk may hold after a power cut from the trace of a process's system calls.

Flushed data is on the disk. Of other data, any part may be: each write is split into sectors of 512 bytes,
and each sector is on the disk or not, independently of the others. Of the changes of names since their
directory was flushed (created, removed or renamed files), the first N are on the disk for any N, because a
journaling file system keeps them in order. Not covered: a disk that reports a flush without doing it, and
sectors that a power cut destroys.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

CALLS = "openat,write,pwrite64,ftruncate,fsync,fdatasync,unlink,rename"
"""The calls by which SQLite changes or flushes files (os_unix.c); memory maps are not covered."""

SECTOR_BYTES = 512

_LINE = re.compile(r"(?P<call>\w+)\((?P<arguments>.*)\)\s+= (?P<result>\S+)")
_FILE = re.compile(r"\d+<((?:\\x..)*)>")
_TEXT = re.compile(r'"((?:\\x..)*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One call that succeeded."""

    name: str
    paths: Sequence[str]  # the files that the call is for; a rename has two
    data: bytes = b""
    number: int = 0  # the offset of a write, or the length of a truncation


def strace(trace: Path) -> Sequence[str]:
    """Return the prefix that runs a command with a trace for `calls`."""
    return ("strace", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(trace))


def calls(trace: Path) -> Iterator[Call]:
    """Yield the successful calls in the trace of a process with one thread."""
    for line in trace.read_text().splitlines():
        found = _LINE.match(line)
        if found is None:
            if not line.startswith(("---", "+++")):
                raise ValueError(f"unknown line in a trace: {line[:100]}")
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
                    raise ValueError(f"incomplete write: {line[-60:]}")
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
"""An offset and data, or `None` if the file is truncated there."""


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
    """One directory, as the process sees it and as it may be on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._names: dict[str, _File] = {}
        self._flushed_names: dict[str, _File] = {}
        self._later: list[dict[str, _File]] = []  # the names after each change that is not flushed

    def take(self, call: Call) -> None:
        """Apply the next call of the process."""
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
                raise ValueError(f"a {call.name} of {path}, which is not supported")

    def after_a_cut(self, chance: random.Random) -> dict[str, bytes]:
        """Return the files by name, as the disk may hold them after a power cut now."""
        names = chance.choice([self._flushed_names, *self._later, self._names])
        return {Path(path).name: file.after_a_cut(chance) for path, file in names.items()}

    def _renamed(self, names: dict[str, _File]) -> None:
        self._names = names
        self._later.append(names)
