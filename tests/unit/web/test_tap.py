"""Tests of `/api/tap` over HTTP, which answers with new records, or after some seconds without any."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from agent.core.address import MonitorPath
from agent.core.reading import RecordKind
from agent.core.tap import Wanted
from agent.web.server import open_web
from agent.web.tap import READERS_MAX, TapPage, TooManyReadersError
from agent.web.web_settings import Settings
from tests.unit.sinks.views import AGENT, sample, view, vm
from tests.unit.web.client import Present, ask

ANY_PORT = Settings(host="127.0.0.1", port=0)


def present(*names: str) -> Present:
    seen = [view(sample(of=vm(f"id-{name}", name)), of=vm(f"id-{name}", name)) for name in names]
    return Present(views=seen)


def values(answer: Any) -> Sequence[object]:
    return [each["value"] for each in answer["records"]]


async def test_the_first_answer_comes_at_once_and_the_next_one_with_the_next_record() -> None:
    now = present("web", "db")
    got: list[Any] = []

    async def read(url: str, after: int) -> None:
        got.append((await ask(url, f"/api/tap?after={after}")).json)

    async with open_web(ANY_PORT, now.application()) as url:
        first = (await ask(url, "/api/tap")).json
        async with anyio.create_task_group() as group:
            group.start_soon(read, url, first["next"])
            while not now.tap.is_open:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.01)
            now.tap.put(RecordKind.SAMPLE, b'{"a":"\\u202e"}', vm(), MonitorPath("/run/web.qmp"))

    assert (first["run"], first["skipped"], first["vms"], first["records"]) == (AGENT.run, 0, 2, [])
    assert got == [
        {
            "run": AGENT.run,
            "next": first["next"] + 1,
            "skipped": 0,
            "vms": None,
            "records": [{"kind": "sample", "value": {"a": "\N{RIGHT-TO-LEFT OVERRIDE}"}}],
        }
    ]


async def test_only_records_of_the_requested_vm_and_kinds_are_sent_unchanged() -> None:
    now = present("web", "db")
    async with open_web(ANY_PORT, now.application()) as url:
        first = (await ask(url, "/api/tap?vm=web&kind=sample")).json
        for number, name in enumerate(("web", "db")):
            for kind in (RecordKind.SAMPLE, RecordKind.VM_STATE):
                value = b'{ "n": %d}' % number
                now.tap.put(kind, value, vm(f"id-{name}", name), MonitorPath(f"/run/{name}.qmp"))
        answer = await ask(url, f"/api/tap?vm=web&kind=sample&kind=vm_memory&after={first['next']}")

    assert first["vms"] == 1
    assert b'"value":{ "n": 0}' in answer.body
    assert values(answer.json) == [{"n": 0}]
    assert answer.json["next"] == 4


async def test_without_news_the_answer_comes_when_the_wait_is_over() -> None:
    now = present()
    page = TapPage(now.tap, AGENT, lambda: (), wait_s=0.01)
    now.tap.read(None, Wanted())
    now.tap.put(RecordKind.AGENT_STATE, b"{}")

    with anyio.fail_after(60):
        answer = await page.answer("1", None, ["sample"])

    assert b'"next":1' in answer
    assert b'"records":[]' in answer
    assert now.tap.read(0, Wanted()).skipped == 0


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", f"after={'1' * 19}", "after=", "kind=log", "kind=x", f"vm={'x' * 5_000}"]
)
async def test_an_invalid_query_is_refused(query: str) -> None:
    now = present()
    async with open_web(ANY_PORT, now.application()) as url:
        answer = await ask(url, f"/api/tap?{query}")

    assert answer.status == 400
    assert not now.tap.is_open


async def test_waiting_readers_are_bounded_and_an_answer_frees_a_place() -> None:
    now = present()
    page = TapPage(now.tap, AGENT, lambda: ())
    refused: list[bool] = []

    async def read() -> None:
        await page.answer("0", None, [])

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(READERS_MAX):
                group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            try:
                await page.answer("0", None, [])
            except TooManyReadersError:
                refused.append(True)
            now.tap.put(RecordKind.AGENT_STATE, b"{}")
        answer = await page.answer(None, None, [])

    assert refused == [True]
    assert b'"next":1' in answer


async def test_another_hosts_name_is_refused_as_on_other_paths() -> None:
    async with open_web(ANY_PORT, present().application()) as url:
        answer = await ask(url, "/api/tap", host="evil.example.com")

    assert answer.status == 421
