"""Lets in only requests that come from the page itself, on the machine or with the token.

A page of another site can make a browser send requests to loopback, and can give its own name this
machine's address. So the Host must be the one that was bound, and an Origin must be the same.
"""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from af_runtime.transport.endpoints import is_local_host
from af_runtime.web.addresses import Address

COOKIE = "af_demo"

POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def gatekeeper(address: Address) -> Any:
    """Return the middleware that refuses strangers."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_ours(request, address):
            raise web.HTTPForbidden(text="This request came from another site.\n")
        if address.token is None or _is_known(request.cookies.get(COOKIE), address.token):
            return await handler(request)
        if not _is_known(request.query.get("token"), address.token):
            raise web.HTTPUnauthorized(text="Open the link that `af-runtime demo` has printed.\n")
        found = web.HTTPFound("/")
        found.set_cookie(COOKIE, address.token, httponly=True, samesite="Strict")
        raise found

    return guard


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Let the page load nothing from elsewhere, and nobody frame it."""
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-cache")


def _is_ours(request: web.Request, address: Address) -> bool:
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        return False
    host = urlsplit(f"//{request.host}").hostname or ""
    return not address.is_loopback or is_local_host(host)


def _is_known(given: str | None, token: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), token.encode())
