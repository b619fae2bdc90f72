"""The paths and what they answer. Only GET and HEAD; nothing here changes anything."""

import time
from functools import partial

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agent.web.documents import health_document, status_parts
from agent.web.exposition import OPENMETRICS, PLAIN, metrics_parts, wanted
from agent.web.page import page_parts
from agent.web.rendering import Rendering, unpacked, unpacked_size
from agent.web.source import Source

log = structlog.get_logger("barograph.web")

_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}


def application(source: Source) -> Starlette:
    """Return what answers for `source`."""
    status = Rendering(lambda: status_parts(source, _now_ms()))
    page = Rendering(lambda: page_parts(source, _now_ms()))

    metrics = {form: Rendering(partial(metrics_parts, source, form)) for form in (OPENMETRICS, PLAIN)}

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_HEADERS)  # the loop turns, or nobody would answer

    async def readyz(_: Request) -> Response:
        missing = source.unready()
        text = "".join(f"{each}\n" for each in missing) or "ok\n"
        return PlainTextResponse(text, status_code=503 if missing else 200, headers=_HEADERS)

    async def healthz(_: Request) -> Response:
        return JSONResponse(health_document(source.components()), headers=_HEADERS)

    async def status_page(request: Request) -> Response:
        return _long(request, await status.get(), "application/json")

    async def metrics_page(request: Request) -> Response:
        form = wanted(request.headers.get("accept", ""))
        return _long(request, await metrics[form].get(), form.content_type)

    async def front(request: Request) -> Response:
        return _long(request, await page.get(), "text/html; charset=utf-8")

    return Starlette(
        routes=[
            Route("/livez", livez, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/status", status_page, methods=["GET"]),
            Route("/metrics", metrics_page, methods=["GET"]),
            Route("/", front, methods=["GET"]),
        ],
        exception_handlers={Exception: _our_bug},
    )


def _long(request: Request, packed: bytes, content_type: str) -> Response:
    headers = {**_HEADERS, "content-type": content_type, "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(packed, headers={**headers, "content-encoding": "gzip"})
    return StreamingResponse(
        unpacked(packed), headers={**headers, "content-length": str(unpacked_size(packed))}
    )


async def _our_bug(request: Request, error: Exception) -> Response:
    log.error("page failed", path=request.url.path, exc_info=error)
    return PlainTextResponse("a bug of ours: see the log\n", status_code=500, headers=_HEADERS)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
