"""Odd answers of a Kafka broker, generated from a seed: valid answers with one odd field, and odd frames."""

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from tests.lab.scripted_kafka import PRODUCE, Field, Fields, Request, encode, i16

RIGHT = 0.6  # the share of valid answers, so that a session gets far
_ODD_TEXTS = (
    None,
    b"",
    b"\xff\xfe",
    b"\x1b[31m\n\r\0",
    "\uff2b\u202e".encode(),
    b"x" * 20_000,
    b"127.0.0.1",
)
_ODD_TOKENS = (
    None,
    b"",
    b"\xff" * 40,
    b"e=other-error",
    b"r=,s=,i=",
    b"r=AAAA,s=AAAA,i=4096",
    b"v=AAAA",
    b"," * 5000,
    b"x" * 100_000,
)
_CODES = (
    1,
    2,
    3,
    5,
    6,
    7,
    10,
    17,
    18,
    19,
    29,
    31,
    32,
    33,
    34,
    35,
    45,
    46,
    47,
    56,
    58,
    72,
    76,
    87,
    89,
    90,
    123,
)
_REFUSALS = (10, 18, 32, 87)  # refusals of a record, or of its timestamp
_LIMITS = {"i8": 2**7, "i16": 2**15, "i32": 2**31, "i64": 2**63}


class OddKafka:
    """Sends the answers of a `Peer`, most of them valid."""

    def __init__(self, seed: int, answers_max: int) -> None:
        self._random = random.Random(seed)
        self._left = answers_max
        self._refusals: list[int] = []  # error codes of the next answers to Produce
        self.kinds: Counter[str] = Counter()

    @property
    def answers(self) -> int:
        """Return how many answers were generated."""
        return self.kinds.total() - self.kinds["refused"]

    @property
    def is_done(self) -> bool:
        """Return whether all generated answers are sent. Every further answer is valid."""
        return self._left <= 0

    async def send(self, request: Request, fields: Fields, writer: asyncio.StreamWriter) -> bool:
        """Answer `request`; return whether the connection stays open."""
        if request.api == PRODUCE and not self.is_done:
            fields = self._refusing(fields)
        frame = _framed(struct.pack(">i", request.correlation) + encode(fields))
        if self.is_done:
            writer.write(frame)
            return True
        self._left -= 1
        if self._random.random() < RIGHT:
            self.kinds["right"] += 1
            writer.write(frame)
            return True
        kind = self._random.choices(
            (
                "field",
                "correlation",
                "cut",
                "longer",
                "length",
                "garbage",
                "twice",
                "first",
                "slow",
                "close",
                "silent",
            ),
            (50, 4, 6, 4, 6, 4, 4, 4, 2, 6, 1),
        )[0]
        self.kinds[kind] += 1
        return await self._odd(kind, frame, request, fields, writer)

    def _refusing(self, fields: Fields) -> Fields:
        """Return the answer to Produce. Now and then, several answers in a row refuse their records."""
        if not self._refusals and self._random.random() < 0.05:
            self._refusals = [self._random.choice(_REFUSALS)] * self._random.randint(2, 8)
        if not self._refusals:
            return fields
        self.kinds["refused"] += 1
        code, (topics, *rest) = self._refusals.pop(), fields
        items = topics.value if isinstance(topics.value, tuple) else ()
        refused = tuple((name, _with_code(partitions, code)) for name, partitions in items)
        return (replace(topics, value=refused), *rest)

    async def _odd(
        self, kind: str, frame: bytes, request: Request, fields: Fields, writer: asyncio.StreamWriter
    ) -> bool:
        chance = self._random
        match kind:
            case "field":
                writer.write(
                    _framed(struct.pack(">i", request.correlation) + encode(self._with_odd_field(fields)))
                )
            case "correlation":
                odd = chance.choice((0, -1, request.correlation + 1, 2**31 - 1))
                writer.write(_framed(struct.pack(">i", odd) + encode(fields)))
            case "cut":
                writer.write(_framed(frame[4 : chance.randint(4, len(frame))]))
            case "longer":
                writer.write(_framed(frame[4:] + chance.randbytes(chance.randint(1, 5000))))
            case "length":
                announced = chance.choice((-1, -(2**31), 2**30, 2**31 - 1, 2**20 + 1, 0, 3))
                writer.write(struct.pack(">i", announced) + chance.randbytes(chance.randint(0, 100_000)))
            case "garbage":
                writer.write(chance.randbytes(chance.randint(1, 3000)))
            case "twice":
                writer.write(frame + frame)
            case "first":
                writer.write(_framed(chance.randbytes(12)) + frame)
            case "slow":
                for at in range(0, min(len(frame), 40)):
                    writer.write(frame[at : at + 1])
                    await asyncio.sleep(0.002)
                writer.write(frame[40:])
            case "close":
                writer.write(frame[: chance.randint(0, len(frame) - 1)])
                await writer.drain()
                return False
            case _:
                pass  # silent
        await writer.drain()
        return True

    def _with_odd_field(self, fields: Fields) -> Fields:
        """Return `fields` with one odd field, at any depth."""
        paths = list(_paths(fields, ()))
        return _replaced(fields, self._random.choice(paths), self._odd_field)

    def _odd_field(self, field: Field) -> Field:
        chance = self._random
        match field.kind:
            case "str":
                odd = chance.choice((*_ODD_TEXTS, field.value))
                return replace(
                    field, value=odd, length=chance.choice((None, None, 2**15 - 1, 0)) if odd else None
                )
            case "bytes":
                odd = chance.choice(_ODD_TOKENS)
                return replace(
                    field, value=odd, length=chance.choice((None, None, 2**31 - 1)) if odd else None
                )
            case "array":
                items = field.value if isinstance(field.value, tuple) else ()
                odd = chance.choice((None, (), items * chance.randint(2, 300), items))
                return replace(
                    field,
                    value=odd,
                    length=chance.choice((None, 2**31 - 1, -(2**31), len(items) + 1)) if odd else None,
                )
            case _:
                if field.kind == "i16" and chance.random() < 0.7:
                    return replace(field, value=chance.choice(_CODES))
                limit = _LIMITS[field.kind]
                near = chance.choice((-1, 1, chance.randint(1, 127)))
                # Nothing between these: such a port may belong to another program on this host.
                odd = chance.choice((-limit, limit - 1, near, chance.randrange(-limit, 0)))
                return replace(field, value=odd)


def _with_code(partitions: Field, code: int) -> Field:
    items = partitions.value if isinstance(partitions.value, tuple) else ()
    return replace(partitions, value=tuple((number, i16(code), *rest) for number, _, *rest in items))


def _framed(content: bytes) -> bytes:
    return struct.pack(">i", len(content)) + content


Path = tuple[int, ...]


def _paths(fields: Fields, before: Path) -> list[Path]:
    found: list[Path] = []
    for number, each in enumerate(fields):
        path = (*before, number)
        found.append(path)
        if isinstance(each.value, tuple):
            for item, inner in enumerate(each.value[:3]):
                found += _paths(inner, (*path, item))
    return found


def _replaced(fields: Fields, path: Path, change: Callable[[Field], Field]) -> Fields:
    number, *rest = path
    each = fields[number]
    if not rest:
        changed = change(each)
    else:
        item, *inner = rest
        items = list(each.value) if isinstance(each.value, tuple) else []
        items[item] = _replaced(items[item], tuple(inner), change)
        changed = replace(each, value=tuple(items))
    return (*fields[:number], changed, *fields[number + 1 :])
