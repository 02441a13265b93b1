"""A reverse proxy before an S3 server that misbehaves on request: 503s, cut bodies, no writing, no answer at all."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline import storage
from pipeline.storage import s3_client, s3_conditions

ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
WRITING = ("PUT", "POST", "DELETE")
HOP = {"connection", "transfer-encoding", "keep-alive"}


def forget_clients() -> None:
    """Have storage build its clients anew, from the environment as it is now."""
    s3_client.forget()
    for cached in (s3_conditions.conditional, storage._arrow):
        cached.cache_clear()


class FaultyS3:
    """The proxy and its switches, which may be turned at any time.

    Attributes:
        slow_down_every: every n-th request is answered 503 SlowDown; 0: none.
        cut_every: the body of every n-th GET with a body ends in the middle and the connection with it; 0: none.
        refuse: decides, by method and path, which requests are answered 403 AccessDenied.
        answer: decides, by request and body, which are answered (status, code[, message]) instead; None: as usual.
        replies: bodies of some paths, answered with 200.
        drop_headers: names (lower case) of headers that the store does not know.
        down: connections are closed without an answer.
        counts: requests by method, and "503", "cut", "403" for what was done to them.
    """

    def __init__(self, target: str, prefix: str = "", certificate: tuple[Path, Path] | None = None) -> None:
        """Args:
        prefix: path below which the store is, as behind a gateway; above it everything is 404.
        certificate: files of a certificate and its key: https.
        """
        self.prefix = prefix
        self.replies: dict[str, bytes] = {}
        self.slow_down_every = self.cut_every = 0
        self.refuse: Callable[[str, str], bool] = lambda method, path: False
        self.answer: Callable[[BaseHTTPRequestHandler, bytes], tuple[Any, ...] | None] = lambda request, body: None
        self.drop_headers: set[str] = set()
        self.down = False
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._requests = self._bodies = 0
        address = urlsplit(target)
        self._target = (address.hostname or "", address.port or 80)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                if proxy.down:
                    self.close_connection = True
                    return
                super().handle_one_request()

            def log_message(self, format: str, *args: object) -> None:
                pass

            def serve(self) -> None:
                proxy._serve(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def heal(self) -> None:
        """All switches off; the counts stay."""
        self.slow_down_every = self.cut_every = 0
        self.refuse = lambda method, path: False
        self.answer = lambda request, body: None
        self.drop_headers = set()
        self.down = False

    def _turn(self, every: int, counter: str) -> bool:
        """Whether it is this request's turn to suffer."""
        with self._lock:
            count = getattr(self, counter) + 1
            setattr(self, counter, count)
            return bool(every) and count % every == 0

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.counts[request.command] += 1
        if self._turn(self.slow_down_every, "_requests"):
            self.counts["503"] += 1
            self._error(request, 503, "SlowDown", "Please reduce your request rate.")
            return
        if self.refuse(request.command, request.path):
            self.counts["403"] += 1
            self._error(request, 403, "AccessDenied", "Access Denied")
            return
        if answered := self.answer(request, body):
            self.counts[answered[1]] += 1
            status, code, *message = answered
            self._error(request, status, code, message[0] if message else "refused on request")
            return
        if request.path in self.replies:
            self._answer(request, 200, self.replies[request.path], "application/json")
            return
        if not request.path.startswith(self.prefix):
            self._answer(request, 404, b"<html>nothing here</html>", "text/html")
            return
        path = "/" + request.path[len(self.prefix) :].lstrip("/") if self.prefix else request.path
        upstream = http.client.HTTPConnection(*self._target, timeout=60)
        try:
            headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP | self.drop_headers}
            upstream.request(request.command, path, body or None, headers)
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP | {"content-length"}:
                request.send_header(name, value)
        length = answer.getheader("Content-Length") if request.command == "HEAD" else None
        request.send_header("Content-Length", length or str(len(data)))
        request.end_headers()
        if request.command == "GET" and len(data) > 1 and self._turn(self.cut_every, "_bodies"):
            self.counts["cut"] += 1
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return
        request.wfile.write(data)

    @staticmethod
    def _error(request: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
        data = b"" if request.command == "HEAD" else ERROR.format(code=code, message=message).encode()
        FaultyS3._answer(request, status, data, "application/xml")

    @staticmethod
    def _answer(request: BaseHTTPRequestHandler, status: int, data: bytes, kind: str) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)
