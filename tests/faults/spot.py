"""A spot machine's metadata service, and the watcher that reads it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .local_cluster import ROOT, Local

TOKEN = "a-session-token"


class Ec2(BaseHTTPRequestHandler):
    """The instance metadata service of the machine with address `ip`; `notice` is None until it is taken away."""

    ip = ""
    notice: str | None = None

    def do_PUT(self) -> None:
        self.answer(200, TOKEN if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] else "")

    def do_GET(self) -> None:
        name = self.path.removeprefix("/latest/meta-data/")
        value = {"local-ipv4": self.ip, "spot/instance-action": self.notice}.get(name)
        if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
            self.answer(401, "")
        else:
            self.answer(404 if value is None else 200, value or "")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


class Watched:
    """A worker node on which `cluster/spot_watch.py` runs."""

    def __init__(self, service: type[Ec2], watcher: subprocess.Popen[str]) -> None:
        self._service, self._watcher = service, watcher

    def take_away(self) -> None:
        """EC2 says that the machine goes in two minutes; the watcher drains its node and ends."""
        assert self._watcher.poll() is None, "no notice yet"
        at = datetime.now(UTC) + timedelta(minutes=2)
        self._service.notice = json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"})
        _, log = self._watcher.communicate(timeout=60)
        assert self._watcher.returncode == 0, log


@contextlib.contextmanager
def watched(local: Local, node: str) -> Iterator[Watched]:
    """A worker node, watched while this is open."""
    service = type("Service", (Ec2,), {"ip": local.address_of(node)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [sys.executable, str(ROOT / "cluster" / "spot_watch.py"), "--poll-seconds", "0.2"]
    command += ["--metadata", f"http://127.0.0.1:{server.server_address[1]}", "--address", local.env["RAY_ADDRESS"]]
    environment = {**local.environment(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # it calls ray
    watcher = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield Watched(service, watcher)
    finally:
        watcher.kill()
        watcher.wait()
        server.shutdown()
