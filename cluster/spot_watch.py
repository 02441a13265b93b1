"""Tell Ray that this spot machine is about to be taken away; runs on every spot node of `aws.yaml`.

    python cluster/spot_watch.py --address HEAD_IP:PORT

EC2 gives two minutes' notice, which a machine finds in its own instance metadata. The node is then drained with that
deadline: Ray places no more work on it, and Ray Train tells the training loop, which saves.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

POLL_SECONDS = 5.0  # what EC2's documentation recommends
MARGIN_SECONDS = 10.0  # Ray is told a deadline that much earlier than EC2's
RETRY_SECONDS = 3.0

log = logging.getLogger("spot_watch")


class Metadata:
    """The instance metadata service (IMDSv2) as this machine sees it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def get(self, path: str) -> str | None:
        """A value, None when there is none (404); OSError when the service does not answer."""
        token = self._ask("/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        try:
            return self._ask(f"/latest/meta-data/{path}", "GET", {"X-aws-ec2-metadata-token": token})
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def _ask(self, path: str, method: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=2) as answer:
            return answer.read().decode()


def wait_for_notice(metadata: Metadata, poll_seconds: float) -> datetime:
    """When this machine will be taken away; returns once that is known."""
    answered = True
    while True:
        try:
            notice = metadata.get("spot/instance-action")
            if notice is not None:
                return datetime.fromisoformat(json.loads(notice)["time"])
            answered = True
        except OSError as error:
            if answered:
                log.warning("the instance metadata does not answer (%s); trying on", error)
            answered = False
        time.sleep(poll_seconds)


def seconds_until(deadline: datetime) -> float:
    return (deadline - datetime.now(UTC)).total_seconds()


def node_id(address: str, ip: str) -> str:
    """The id of the Ray node with this IP address."""
    import ray  # only now: until the notice comes the watcher stays small

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        return next(n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeManagerAddress"] == ip)
    finally:
        ray.shutdown()


def drain(address: str, metadata: Metadata, deadline: datetime) -> bool:
    """Drain this machine's node; again until it is done or the time is over."""
    while seconds_until(deadline) > 0:
        try:
            node = node_id(address, metadata.get("local-ipv4") or "")
            left = max(0, int(seconds_until(deadline) - MARGIN_SECONDS))
            command = ["ray", "drain-node", "--address", address, "--node-id", node]
            command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "EC2 spot interruption"]
            subprocess.run([*command, "--deadline-remaining-seconds", str(left)], check=True)
            log.warning("node %s is draining; %d s left", node, left)
            return True
        except StopIteration:
            log.warning("Ray has no live node with this machine's address")
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            log.warning("draining failed (%s); trying again", error)
        time.sleep(RETRY_SECONDS)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True, help="HEAD_IP:PORT of the cluster")
    parser.add_argument("--metadata", default="http://169.254.169.254", help="URL of the instance metadata service")
    parser.add_argument("--poll-seconds", type=float, default=POLL_SECONDS)
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    metadata = Metadata(args.metadata)
    deadline = wait_for_notice(metadata, args.poll_seconds)
    log.warning("this machine will be taken away at %s, in %.0f s", deadline, seconds_until(deadline))
    return 0 if drain(args.address, metadata, deadline) else 1


if __name__ == "__main__":
    sys.exit(main())
