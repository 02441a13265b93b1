"""Wait until parts of a local cluster answer; started by `cluster/local.sh`, needs nothing but Python.

    python cluster/local_wait.py --folder FOLDER --seconds S PART [PART ...]

PART: gcs (the head takes connections), head (the jobs API answers), s3 (its bucket is there), mlflow, or the name of a
worker node (the cluster lists it as alive). Exit 1 when a part ends or the time is over, with the end of its log.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
import urllib.request
from pathlib import Path

POLL_SECONDS = 0.2


class Cluster:
    """The addresses of a local cluster, from the files that `local.sh` keeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = dict(line.split("=", 1) for line in (folder / "state").read_text().splitlines())
        self.token = (folder / "token").read_text()

    def ask(self, port: str, path: str, method: str = "GET") -> bytes:
        """The body of the answer of a server on this machine; OSError when there is none."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.state[port]}{path}", method=method)
        if port == "DASHBOARD_PORT":
            request.add_header("Authorization", f"Bearer {self.token}")
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=10) as answer:
            return answer.read()

    def answers(self, part: str) -> bool:
        """Whether a part does its work by now; OSError is a no as well."""
        if part == "gcs":
            socket.create_connection((self.state["HEAD_ADDRESS"], int(self.state["RAY_PORT"])), timeout=2).close()
            return True
        if part == "head":
            return isinstance(json.loads(self.ask("DASHBOARD_PORT", "/api/jobs/")), list)
        if part == "s3":
            self.ask("S3_PORT", f"/{self.state['BUCKET']}", method="PUT")
            return True
        if part == "mlflow":
            return self.ask("MLFLOW_PORT", "/health") == b"OK"
        nodes = json.loads(self.ask("DASHBOARD_PORT", "/api/v0/nodes"))["data"]["result"]["result"]
        return any(n["state"] == "ALIVE" and n["labels"].get("local/node") == part for n in nodes)

    def file_of(self, kind: str, part: str) -> Path:
        return self.folder / kind / ("head" if part == "gcs" else part)

    def ended(self, part: str) -> bool:
        """Whether the first process of a part is gone (its parent may not have collected it)."""
        status = Path("/proc") / self.file_of("pids", part).read_text().strip() / "stat"
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("parts", nargs="+", metavar="PART")
    args = parser.parse_args()
    cluster = Cluster(args.folder)
    deadline = time.monotonic() + args.seconds
    waiting = list(args.parts)
    while waiting:
        part = waiting[0]
        try:
            if cluster.answers(part):
                waiting.pop(0)
                continue
            why = "does not answer as it should"
        except OSError as error:
            why = str(error)
        if cluster.ended(part) or time.monotonic() > deadline:
            log = cluster.file_of("logs", part).with_suffix(".log")
            what = "has ended" if cluster.ended(part) else f"is not ready after {args.seconds:.0f} s ({why})"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            print(f"error: {part} {what}. The end of {log}:\n{tail}", file=sys.stderr)
            return 1
        time.sleep(POLL_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
