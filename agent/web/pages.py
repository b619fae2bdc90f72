"""The paths and their answers. Only GET and HEAD are allowed; nothing here changes anything."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agent.contract.payloads import Agent
from agent.core.agent_state import AgentEvent
from agent.core.health import Component
from agent.core.host_memory import HostMemoryEvent
from agent.core.outlook import Outlook
from agent.core.reading import VmView
from agent.core.tap import Tap
from agent.telemetry import Snapshot
from agent.web import assets
from agent.web.assets import Asset
from agent.web.detail import vm_parts
from agent.web.documents import health_document, status_parts
from agent.web.exposition import OPENMETRICS, PLAIN, Format, format_for, metrics_parts
from agent.web.overview import HistoryOf, OverviewPage
from agent.web.page import page_parts
from agent.web.rendering import Rendering, Renderings, in_parts, unpacked, unpacked_size
from agent.web.tap import BadRequestError, TapPage, TooManyReadersError

log = structlog.get_logger("barograph.web")

_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "referrer-policy": "no-referrer",
}

_FRESH_S = 1.0
"""How long all open pages get the same values."""

_KEY_CHARACTERS_MAX = 1_024


def application(
    identity: Agent,
    *,
    agent: Callable[[], AgentEvent],
    components: Callable[[], Mapping[str, Component]],
    not_ready: Callable[[], Sequence[str]],
    telemetry: Callable[[], Snapshot],
    host_memory: Callable[[], HostMemoryEvent | None],
    views: Callable[[], Sequence[VmView]],
    history: HistoryOf,
    outlook: Callable[[], Outlook],
    tap: Tap,
) -> Starlette:
    """Return the application that answers all requests. The callables are called on the event loop.

    Args:
        identity: the host and this run of the agent.
        agent: returns the agent's own state.
        components: returns the health of each component.
        not_ready: returns the reasons why the agent is not ready; empty: it is.
        telemetry: returns the agent's own metrics, all of one instant.
        host_memory: returns the newest reading of the host's memory.
        views: returns the newest state and sample of every VM.
        history: returns the last half hour of a VM.
        outlook: returns how fast the queues drain.
        tap: keeps the newest records while a client reads them.
    """
    overview_page = OverviewPage(identity, history)

    def status_now() -> Iterator[str]:
        return status_parts(agent(), identity, components(), host_memory(), views(), _now_ms())

    def page_now() -> Iterator[str]:
        return page_parts(agent(), identity, components(), views(), _now_ms())

    def overview_now() -> Iterator[str]:
        return overview_page.parts(agent(), components(), host_memory(), outlook(), views(), _now_ms())

    def vm_now(key: str) -> Iterator[str]:
        return vm_parts(key, views(), history, identity, _now_ms())

    def metrics_now(form: Format) -> Rendering:
        return Rendering(lambda: metrics_parts(telemetry(), views(), identity, form))

    status, page = Rendering(status_now), Rendering(page_now)
    overview, vm = Rendering(overview_now, _FRESH_S), Renderings(vm_now, _FRESH_S)
    records = TapPage(tap, identity, views)
    files = assets.load()
    metrics = {form: metrics_now(form) for form in (OPENMETRICS, PLAIN)}

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_HEADERS)  # an answer of any kind shows that the loop runs

    async def readyz(_: Request) -> Response:
        reasons = not_ready()
        text = "".join(f"{each}\n" for each in reasons) or "ok\n"
        return PlainTextResponse(text, status_code=503 if reasons else 200, headers=_HEADERS)

    async def healthz(_: Request) -> Response:
        return JSONResponse(health_document(components()), headers=_HEADERS)

    async def status_page(request: Request) -> Response:
        return _long(request, await status.get(), "application/json")

    async def metrics_page(request: Request) -> Response:
        form = format_for(request.headers.get("accept", ""))
        return _long(request, await metrics[form].get(), form.content_type)

    async def plain(request: Request) -> Response:
        return _long(request, await page.get(), "text/html; charset=utf-8")

    async def overview_api(request: Request) -> Response:
        return _long(request, await overview.get(), "application/json")

    async def vm_api(request: Request) -> Response:
        key = request.query_params.get("id", "")
        return _long(request, await vm.get(key[:_KEY_CHARACTERS_MAX]), "application/json")

    async def tap_api(request: Request) -> Response:
        asked = request.query_params
        try:
            body = await records.answer(asked.get("after"), asked.get("vm"), asked.getlist("kind"))
        except BadRequestError as error:
            return PlainTextResponse(f"{error}\n", 400, _HEADERS)
        except TooManyReadersError:
            return PlainTextResponse("too many readers; try again later\n", 503, _HEADERS)
        return Response(body, headers=_HEADERS, media_type="application/json")

    async def front(request: Request) -> Response:
        return _file(request, files[assets.FRONT])

    async def asset(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        return PlainTextResponse("not found\n", 404, _HEADERS) if found is None else _file(request, found)

    return Starlette(
        routes=[
            Route("/livez", livez, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/status", status_page, methods=["GET"]),
            Route("/metrics", metrics_page, methods=["GET"]),
            Route("/", front, methods=["GET"]),
            Route("/plain", plain, methods=["GET"]),
            Route("/api/overview", overview_api, methods=["GET"]),
            Route("/api/vm", vm_api, methods=["GET"]),
            Route("/api/tap", tap_api, methods=["GET"]),
            Route("/assets/{name}", asset, methods=["GET"]),
        ],
        exception_handlers={Exception: _internal_error},
    )


def _file(request: Request, file: Asset) -> Response:
    headers = {**_HEADERS, "cache-control": "no-cache", "etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return _long(request, file.packed, file.content_type, headers)


def _long(
    request: Request, packed: bytes, content_type: str, headers: Mapping[str, str] = _HEADERS
) -> Response:
    headers = {**headers, "content-type": content_type, "vary": "accept-encoding"}
    # In parts: what a slow client has not read yet is copied for it.
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers |= {"content-encoding": "gzip", "content-length": str(len(packed))}
        return StreamingResponse(in_parts(packed), headers=headers)
    headers["content-length"] = str(unpacked_size(packed))
    return StreamingResponse(unpacked(packed), headers=headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    log.error("request failed", path=request.url.path, exc_info=error)
    return PlainTextResponse("internal error; see the agent's log\n", status_code=500, headers=_HEADERS)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
