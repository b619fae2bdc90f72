"""The open descriptors of this process, by identity. A count may fall for other reasons and hide a leak."""

import gc
import os
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import TypeVar

import anyio

T = TypeVar("T")


def open_descriptors() -> AbstractSet[str]:
    """Return each open descriptor as its number and target, for example `7 socket:[4711]`."""
    found: set[str] = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            target = os.readlink(f"/proc/self/fd/{number}")
            found.add(f"{number} {target.removesuffix(' (deleted)')}")
    return found


async def assert_none_left(look: Callable[[], AbstractSet[T]], before: AbstractSet[T]) -> None:
    """Wait up to thirty seconds until `look` returns nothing that is not in `before`.

    A socket is closed in a later turn of the loop than the link that had it.
    """
    deadline_s = anyio.current_time() + 30
    gc.collect()
    while (left := look() - before) and anyio.current_time() < deadline_s:  # noqa: ASYNC110 - no event to wait for
        await anyio.sleep(0.01)
    assert not left, f"left behind: {left}"
