"""`cluster/local.sh` on this machine: jobs on two nodes, a spot notice, a lost node, and nothing left in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-session-token"
WORKER_IP = "127.0.0.3"

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# Runs as a job, that is on the head. The actor keeps the worker node busy, else draining would end it at once.
JOB = """
import time, boto3, mlflow, ray
from ray._private.state import state
ray.init(log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
class Busy:
    def where(self):
        mlflow.MlflowClient().get_experiment("0")
        boto3.client("s3").put_object(Bucket="cfr-icl", Key="key", Body=b"x")
        return ray.util.get_node_ip_address()

on_head, on_worker = [Busy.options(resources={f"node:127.0.0.{n}": 0.01}).remote() for n in (2, 3)]
print("nodes", *ray.get([on_head.where.remote(), on_worker.where.remote()]), flush=True)
until = time.monotonic() + 60
while not state.get_draining_nodes() and time.monotonic() < until:
    time.sleep(0.1)
(node, deadline), = state.get_draining_nodes().items()
(ip,) = [n["NodeManagerAddress"] for n in ray.nodes() if n["NodeID"] == node]
print("draining", ip, deadline / 1000 - time.time(), flush=True)
"""


def local(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "cluster" / "local.sh"), *args, str(folder)]
    environment = {**os.environ, "PYTHON": sys.executable, "OBJECT_STORE_BYTES": "100000000"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def id_of(folder: Path) -> str:
    return (folder / "state").read_text().split("\n")[0].removeprefix("ID=")


def left_over(cluster_id: str) -> list[str]:
    """Command lines of processes that belong to a local cluster."""
    lines = [p.read_bytes().replace(b"\0", b" ").decode() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    return [line for line in lines if cluster_id in line]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("local cluster")
    started = local("start", folder=folder)
    assert started.returncode == 0, started.stderr
    cluster_id = id_of(folder)
    yield folder
    stopped = local("stop", folder=folder)
    assert stopped.returncode == 0, stopped.stderr
    assert left_over(cluster_id) == []
    assert not Path("/tmp", cluster_id).exists()
    assert (folder / "mlflow.db").exists() and (folder / "logs" / "ray-head").is_dir()
    assert "no cluster runs" in local("stop", folder=folder).stdout


@pytest.fixture(scope="module")
def environment(cluster: Path) -> dict[str, str]:
    """The environment of a shell after `eval "$(cluster/local.sh env)"`."""
    show = f'"{sys.executable}" -c "import json, os; print(json.dumps({{**os.environ}}))"'
    script = local("env", folder=cluster).stdout + show
    shell = json.loads(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)
    return {**shell, "PATH": f"{Path(sys.executable).parent}:{shell['PATH']}"}


class Ec2(BaseHTTPRequestHandler):
    """The instance metadata service of a spot machine with the worker node's address."""

    notice: str | None = None

    def do_PUT(self) -> None:
        self.answer(200, TOKEN if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] else "")

    def do_GET(self) -> None:
        name = self.path.removeprefix("/latest/meta-data/")
        value = {"local-ipv4": WORKER_IP, "spot/instance-action": Ec2.notice}.get(name)
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


@pytest.fixture
def metadata() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ec2)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    Ec2.notice = None


def test_a_job_on_two_nodes_hears_of_a_spot_notice(environment: dict[str, str], metadata: str, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    submit = ["ray", "job", "submit", "--log-color", "false", "--working-dir", str(tmp_path), "--", "python", "job.py"]
    watch = [sys.executable, str(ROOT / "cluster" / "spot_watch.py"), "--poll-seconds", "0.2"]
    watch += ["--metadata", metadata, "--address", environment["RAY_ADDRESS"]]
    with (
        subprocess.Popen(submit, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job,
        subprocess.Popen(watch, env=environment, stderr=subprocess.PIPE, text=True) as watcher,
    ):
        assert job.stdout is not None
        lines = []
        for line in job.stdout:
            lines.append(line)
            if line.startswith("nodes"):
                assert watcher.poll() is None, "no notice yet"
                taken_away = datetime.now(UTC) + timedelta(minutes=2)
                Ec2.notice = json.dumps({"action": "terminate", "time": f"{taken_away:%Y-%m-%dT%H:%M:%SZ}"})
        if Ec2.notice is None:
            watcher.kill()
        _, log = watcher.communicate()
    output = "".join(lines)
    assert job.returncode == 0, output + log
    assert watcher.returncode == 0, log
    assert "nodes 127.0.0.2 127.0.0.3\n" in output
    (_, ip, seconds) = next(line for line in lines if line.startswith("draining")).split()
    assert ip == WORKER_IP
    assert 90 < float(seconds) <= 110


def test_a_node_is_killed_with_all_its_processes(cluster: Path) -> None:
    cluster_id = id_of(cluster)
    assert [line for line in left_over(cluster_id) if "worker-1" in line]
    removed = local("remove-node", "worker-1", folder=cluster)
    assert removed.returncode == 0, removed.stderr
    assert not [line for line in left_over(cluster_id) if "worker-1" in line]
    assert left_over(cluster_id), "the head is still there"


def test_mistakes_are_one_message_and_exit_2(cluster: Path, tmp_path: Path) -> None:
    for args, folder, message in (
        (["start"], cluster, "already runs"),
        (["remove-node", "worker-7"], cluster, "no worker node worker-7"),
        (["env"], tmp_path, "no cluster runs"),
        (["begin"], tmp_path, "local.sh start"),
    ):
        done = local(*args, folder=folder)
        assert done.returncode == 2
        assert message in done.stderr
