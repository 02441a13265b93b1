"""Who may ask, seen before a request is read: host name, origin, token, kind and size of the body."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serve.pictures import MAX_BYTES
from pipeline.serve.refusal import Refused

OPEN = ("/", "/page/", "/api", "/openapi.json")
"""What anybody may read: the page without anything of the images. One that ends in / stands for all below it."""
UPLOADS = "/api/uploads"
LONG = (UPLOADS, "/predict", "/webhook")  # Label Studio sends all masks of a task along
MAX_JSON = 1024 * 1024  # bytes
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def served_names(host: str, names: Sequence[str]) -> list[str]:
    """Names by which a server that listens on `host` is reached, in lower case.

    Of all addresses of the machine (0.0.0.0, ::) its names and what they resolve to.
    """
    found = ["localhost", "127.0.0.1", "::1", host.strip("[]"), *names]
    if not is_loopback(host):
        for name in {socket.gethostname(), socket.getfqdn()}:
            found.append(name)
            try:
                found += [str(info[4][0]) for info in socket.getaddrinfo(name, None)]
            except OSError:  # a machine that does not know its own name
                continue
    return sorted({name.lower() for name in found})


class Guard:
    """ASGI middleware that answers what may not be asked, and puts safe headers on every answer."""

    def __init__(self, app: ASGIApp, names: Sequence[str], token: str) -> None:
        """`names`: hosts that the server is reached by; `token`: that clients must send, "" for none."""
        self._app, self._names, self._token = app, frozenset(names), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
            most = MAX_BYTES if scope["path"] in LONG else MAX_JSON
            _check_length(headers, most)
        except Refused as refused:
            extra = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
            await JSONResponse(refused.content, refused.status, extra)(scope, receive, safely)
            return
        await self._app(scope, _bounded(receive, most), safely)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if _name_of(host) not in self._names:
            raise Refused(403, "This server has another name: start it with --names NAME to be reached by this one.")
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise Refused(403, "A page of another site asks: open the annotator's own page.")
        path = scope["path"]
        free = scope["method"] in ("GET", "HEAD") and any(
            path == one or (one != "/" and one.endswith("/") and path.startswith(one)) for one in OPEN
        )
        if self._token and not free and not hmac.compare_digest(_sent_token(headers), self._token.encode()):
            raise Refused(401, "The token is missing or wrong: open the URL that the server printed.")
        if scope["method"] in ("POST", "PUT", "DELETE", "PATCH"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if path == UPLOADS:
                fine = kind == "application/octet-stream" or kind.startswith("image/")
            else:
                fine = kind == "application/json"
            if not fine:
                wanted = "application/octet-stream or image/*" if path == UPLOADS else "application/json"
                raise Refused(415, f"Content-Type must be {wanted} here, not {kind or 'missing'}.")


def _name_of(host: str) -> str:
    """The name in a Host header, "" of none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _sent_token(headers: Headers) -> bytes:
    """The token of a request: a bearer's, or the password of basic authentication."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip().encode()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _check_length(headers: Headers, most: int) -> None:
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        raise Refused(413, too_long(most))


def too_long(most: int) -> str:
    return f"The request is too large: at most {most // 2**20} MiB are taken here."


def _bounded(receive: Receive, most: int) -> Receive:
    """`receive` of at most so many bytes, for bodies that do not say their length."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message: Any = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise HTTPException(413, too_long(most))
        return message

    return bounded
