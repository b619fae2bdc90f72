"""Decodes JSON that another program has written: any bytes, in any nesting. Pure."""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode_foreign(text: bytes | str, type: type[T]) -> T:
    """Return the document.

    Raises:
        ValueError: it is not UTF-8, not JSON, not of this type, or nested deeper than Python's stack.
    """
    try:
        return msgspec.json.decode(text, type=type)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
