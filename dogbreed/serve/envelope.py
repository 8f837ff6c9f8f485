"""Around each request: an id, headers that protect a browser, one line of JSON in the log."""

import re
import secrets
import time
import traceback
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dogbreed.serve.lines import log
from dogbreed.serve.metrics import Metrics

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_QUIET = {"/health", "/ready", "/metrics"}  # asked every few seconds: logged if something is wrong
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", PAGE_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
]


class Envelope:
    """ASGI middleware; see the module.

    Args:
        app: what is inside.
        metrics: counts requests.
        routes: those that are counted under their own name.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: set[str]) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8).encode()
        about: dict[str, Any] = {"request_id": request_id.decode()}
        scope["about"] = about  # the endpoint notes here what the log says of the request
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *HEADERS,
                    (b"x-request-id", request_id),
                ]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            about["error"] = traceback.format_exc(limit=-8)
            if not status:
                body = b'{"detail":"the server made a mistake; its log says which"}'
                head = [(b"content-type", b"application/json")]
                await sending({"type": "http.response.start", "status": 500, "headers": head})
                await sending({"type": "http.response.body", "body": body})
        finally:
            seconds = time.perf_counter() - start
            path = scope["path"]
            route = path if path in self._routes else "other"
            # 499 as nginx has it: the client had gone before there was an answer.
            self._metrics.requests.labels(route, str(status or 499)).inc()
            self._metrics.latency.labels(route).observe(seconds)
            if path not in _QUIET or status not in {200, 503}:
                log(
                    "ERROR" if status >= 500 and status != 503 else "INFO",
                    f"{scope['method']} {path[:200]} {status or 499}",
                    method=scope["method"],
                    path=path[:200],
                    status=status or 499,
                    ms=round(seconds * 1000, 2),
                    **about,
                )
