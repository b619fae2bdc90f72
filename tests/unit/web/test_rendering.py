import gzip
import random
import time
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Iterator

import anyio
import anyio.lowlevel
import pytest

from agent.web.rendering import Rendering, Renderings, in_parts, unpacked, unpacked_size


async def test_concurrent_requests_share_one_response() -> None:
    made = 0
    answers: list[bytes] = []

    def make() -> Iterator[str]:
        nonlocal made
        made += 1
        for number in range(3):
            _busy(0.005)
            yield f"{made}.{number} "

    async def ask() -> None:
        answers.append(gzip.decompress(await rendering.get()))

    rendering = Rendering(make, fresh_s=60)
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)

    assert answers == [b"1.0 1.1 1.2 "] * 5


async def test_other_tasks_run_between_slices() -> None:
    turns = 0

    def make() -> Iterator[str]:
        for _ in range(5):
            _busy(0.01)
            yield "x"

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await Rendering(make).get()
        group.cancel_scope.cancel()

    assert turns > 20


async def test_a_stale_response_is_rendered_again() -> None:
    made = 0

    def make() -> Iterator[str]:
        nonlocal made
        made += 1
        yield str(made)

    rendering = Rendering(make)
    first = second = await rendering.get()
    with anyio.fail_after(60):
        while second == first:  # it is fresh for nine times as long as it took to build
            await anyio.sleep(0.05)
            second = await rendering.get()

    assert [gzip.decompress(each) for each in (first, second)] == [b"1", b"2"]


async def test_data_is_yielded_as_it_is_in_parts() -> None:
    parts = [each async for each in in_parts(bytes(150_000))]

    assert [len(each) for each in parts] == [65_536, 65_536, 150_000 - 2 * 65_536]


async def test_a_response_is_kept_compressed_and_unpacked_in_parts() -> None:
    packed = await Rendering(lambda: iter(["a\ud800" + "x" * 1_000_000, "", "z"])).get()
    parts = [each async for each in unpacked(packed)]

    assert len(packed) < 10_000
    assert max(map(len, parts)) <= 65_536
    assert b"".join(parts) == b"a?" + b"x" * 1_000_000 + b"z"
    assert unpacked_size(packed) == 1_000_003


def _busy(seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        pass


async def test_a_response_is_reused_for_a_time_of_its_own() -> None:
    made = 0

    def make() -> Iterator[str]:
        nonlocal made
        made += 1
        yield "x"

    rendering = Rendering(make, fresh_s=60)
    await rendering.get()
    await anyio.sleep(0.01)
    await rendering.get()

    assert made == 1


async def test_responses_by_key_are_bounded_and_built_one_at_a_time() -> None:
    running = 0
    at_once: set[int] = set()

    def make(key: str) -> Iterator[str]:
        nonlocal running
        running += 1
        at_once.add(running)
        _busy(0.003)
        yield key
        running -= 1

    renderings = Renderings(make, fresh_s=60, kept_max=3)
    answers: dict[str, bytes] = {}

    async def ask(key: str) -> None:
        answers[key] = gzip.decompress(await renderings.get(key))

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(ask, f"vm-{number}")

    assert answers == {f"vm-{number}": f"vm-{number}".encode() for number in range(10)}
    assert len(renderings) == 3
    assert at_once == {1}


@pytest.mark.parametrize("parts_of", [in_parts, unpacked])
async def test_a_client_that_does_not_read_holds_a_small_part_of_a_response_in_memory(
    parts_of: Callable[[bytes], AsyncGenerator[bytes, None]],
) -> None:
    packed = gzip.compress(random.Random(1).randbytes(4 << 20))
    tracemalloc.start()
    try:
        before_bytes, _ = tracemalloc.get_traced_memory()
        clients = [parts_of(packed) for _ in range(20)]
        for client in clients:
            await anext(client)
        after_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for client in clients:
        await client.aclose()

    assert after_bytes - before_bytes < 20 * 256 * 1024
