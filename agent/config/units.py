"""Durations and sizes as users write them: a number with its unit. A bare number is an error."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, GetCoreSchemaHandler, PlainSerializer, WithJsonSchema
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

_NS = {"ms": 1_000_000, "s": 1_000_000_000, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
DURATION_PATTERN = rf"^(?:{_NUMBER}(?:ms|s|m|h|d))+$"
SIZE_PATTERN = rf"^{_NUMBER}(?:B|KiB|MiB|GiB|TiB)$"
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_SIZE = re.compile(rf"({_NUMBER})(B|KiB|MiB|GiB|TiB)")


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A length of time, not negative."""

    ns: int

    @property
    def s(self) -> float:
        """Seconds, for anyio and other libraries."""
        return self.ns / 1_000_000_000

    @property
    def ms(self) -> int:
        """Whole milliseconds, rounded down."""
        return self.ns // 1_000_000

    def __str__(self) -> str:
        return _written(self.ns, _NS)


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """An amount of memory."""

    bytes: int

    def __str__(self) -> str:
        return _written(self.bytes, _BYTES)


def parse_duration(written: object) -> Duration:
    """Return the duration of `"10s"`, `"500ms"` or `"1m30s"`.

    Raises:
        ValueError: no unit, an unknown unit, or not text; the message shows how to write it.
    """
    if isinstance(written, Duration):
        return written
    if _is_zero(written):
        return Duration(0)
    if _is_bare_number(written):
        raise ValueError(f'{written} has no unit; write "{written}s", or use ms, m, h or d')
    if not isinstance(written, str) or re.fullmatch(DURATION_PATTERN, written) is None:
        raise ValueError(
            f'{written!r} is not a duration; write a number with ms, s, m, h or d, e.g. "10s" or "500ms"'
        )
    return Duration(sum(_scaled(number, _NS[unit]) for number, unit in _DURATION_PART.findall(written)))


def parse_size(written: object) -> Size:
    """Return the size of `"64MiB"`.

    Raises:
        ValueError: no unit, an unknown unit, or not text; the message shows how to write it.
    """
    if isinstance(written, Size):
        return written
    if _is_bare_number(written):
        raise ValueError(f'{written} has no unit; write "{written}B", or use KiB, MiB, GiB or TiB')
    match = _SIZE.fullmatch(written) if isinstance(written, str) else None
    if match is None:
        raise ValueError(
            f'{written!r} is not a size; write a number with B, KiB, MiB, GiB or TiB, e.g. "64MiB"'
        )
    return Size(_scaled(match[1], _BYTES[match[2]]))


@dataclass(frozen=True, slots=True)
class Within:
    """The range of a `Duration` or `Size` setting, bounds included."""

    least: Duration | Size
    most: Duration | Size

    def __str__(self) -> str:
        return f"{self.least} to {self.most}"

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: Any) -> object:
        if value < self.least or value > self.most:
            raise ValueError(f"{value} is out of range; use {self.least} to {self.most}")
        return value


def within(least: str, most: str) -> Within:
    """Return the range of a setting, from two values written with units."""
    parse = parse_size if least.endswith("B") else parse_duration
    return Within(parse(least), parse(most))


WrittenDuration = Annotated[
    Duration,
    BeforeValidator(parse_duration),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
]
WrittenSize = Annotated[
    Size,
    BeforeValidator(parse_size),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN}),
]


def _is_zero(written: object) -> bool:
    return written == "0" or (isinstance(written, int) and not isinstance(written, bool) and written == 0)


def _is_bare_number(written: object) -> bool:
    if isinstance(written, str):
        return re.fullmatch(rf"\s*-?{_NUMBER}\s*", written) is not None
    return isinstance(written, int | float) and not isinstance(written, bool)


def _scaled(number: str, unit: int) -> int:
    whole, _, fraction = number.partition(".")
    return int(whole) * unit + int(fraction or "0") * unit // 10 ** len(fraction)


def _written(amount: int, units: dict[str, int]) -> str:
    """Write it in the largest unit that gives a whole number, or in the smallest unit."""
    for name, unit in reversed(units.items()):
        if amount and amount % unit == 0:
            return f"{amount // unit}{name}"
    name, unit = next(iter(units.items()))
    return f"{amount / unit:g}{name}"
