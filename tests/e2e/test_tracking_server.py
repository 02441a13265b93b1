"""Tracking against a real `mlflow server` over HTTP that is slow, down or restarted."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests
from mlflow import MlflowClient

from pipeline import Predictor, config
from pipeline.predict.mlflow_model import write_mlflow_model
from pipeline.tracking.run import Run, open_run
from pipeline.train.run_folder import MetricsFile
from tests.made import write_checkpoint

from .conftest import MlflowServer, Switch, free_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def start(uri: str, out: Path, **changes: Any) -> Run:
    arguments: dict[str, Any] = {"kind": "train", "name": out.parent.name, "params": {"lr": 0.1}, **changes}
    return open_run(config.Tracking(uri=uri, experiment="server"), out=str(out), **arguments)


def history(server: MlflowServer, run_id: str | None, key: str = "loss") -> list[int]:
    return [m.step for m in MlflowClient(server.uri).get_metric_history(run_id or "", key)]


def picture(out: Path, step: int) -> None:
    (out / "pictures").mkdir(exist_ok=True)
    (out / "pictures" / f"{step}.png").write_bytes(b"a picture")


def pictures(server: MlflowServer, run_id: str | None) -> int:
    return len(MlflowClient(server.uri).list_artifacts(run_id or "", "pictures"))


def log(run: Run, out: Path, steps: int) -> None:
    """As a training job does: values go to the run, and are saved in the output."""
    metrics = MetricsFile(str(out), 0)
    for step in range(steps):
        run.metrics({"loss": 1.0}, step, metrics.add(step, {"loss": 1.0}))
    metrics.save()


def runs_named(server: MlflowServer, name: str) -> list[Any]:
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("server")
    assert experiment
    return client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")


def test_server_down_in_the_middle(mlflow_server: MlflowServer, switch: Switch, tmp_path: Path) -> None:
    run = start(switch.uri, tmp_path / "run")
    assert run.run_id
    for step in range(90):
        if step == 30:
            assert run.flush()
            switch.mode = "refuse"
        if step == 60:
            switch.mode = "on"
        begin = time.perf_counter()
        run.metrics({"loss": 1.0}, step)
        if step % 10 == 0:
            picture(tmp_path / "run", step)
            run.file(f"pictures/{step}.png")
        assert time.perf_counter() - begin < 1
        time.sleep(0.02)
    assert run.close(timeout=60)
    assert history(mlflow_server, run.run_id) == list(range(90))
    assert pictures(mlflow_server, run.run_id) == 9
    (found,) = runs_named(mlflow_server, tmp_path.name)
    assert found.info.status == "FINISHED"


def test_server_down_at_the_start_and_hanging_later(
    mlflow_server: MlflowServer, switch: Switch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    switch.mode = "refuse"
    begin = time.monotonic()
    run = start(switch.uri, tmp_path / "run")
    assert run.run_id is None
    assert time.monotonic() - begin < 15
    log(run, tmp_path / "run", 20)
    switch.mode = "hang"
    assert not run.close(timeout=1)
    switch.mode = "on"
    with start(mlflow_server.uri, tmp_path / "run") as again:  # the same command, the server back
        for step in range(10, 30):
            again.metrics({"loss": 1.0}, step)
    (found,) = runs_named(mlflow_server, tmp_path.name)
    assert found.info.run_id == again.run_id
    assert found.data.params == {"lr": "0.1"}
    said = capfd.readouterr().out
    assert said.count("cannot be reached") == 1 and "jobs.track_sync" in said
    assert sorted(history(mlflow_server, again.run_id)) == list(range(30))


def test_a_run_made_while_the_answer_was_lost_is_not_made_twice(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_run
    lost = []

    def create_and_lose_the_answer(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        run = create(self, *args, **kwargs)
        if not lost:
            lost.append(run.info.run_id)
            raise ConnectionResetError("the answer is lost")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", create_and_lose_the_answer)
    run = start(mlflow_server.uri, tmp_path / "run")
    run.metrics({"loss": 1.0}, 1)
    assert run.close(timeout=30)
    assert [found.info.run_id for found in runs_named(mlflow_server, tmp_path.name)] == lost == [run.run_id]
    assert history(mlflow_server, run.run_id) == [1]


def test_server_killed_and_started_again_while_another_process_logs(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    script = f"""
        import sys, time
        from pipeline.config import Tracking
        from pipeline.tracking.run import open_run
        with open_run(Tracking(uri={mlflow_server.uri!r}, experiment="server"), kind="train",
                      name={tmp_path.name!r}, params={{"lr": 1}}, out={str(tmp_path / "run")!r}) as run:
            print("begun", flush=True)
            for step in range(400):
                run.metrics({{"loss": 1.0}}, step)
                time.sleep(0.01)
            print("done", flush=True)
            sys.stdin.readline()
            assert run.flush(90)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "begun\n"
        mlflow_server.stop(signal.SIGKILL)
        lines = [process.stdout.readline()]
        while lines[-1] != "done\n":
            assert lines[-1], lines
            lines.append(process.stdout.readline())
        mlflow_server.start()
        process.stdin.write("\n")
        process.stdin.flush()
        lines += process.stdout.read().splitlines()
        assert process.wait(60) == 0
    (found,) = runs_named(mlflow_server, tmp_path.name)
    assert history(mlflow_server, found.info.run_id) == list(range(400))
    assert found.info.status == "FINISHED"
    assert sum("cannot be reached" in line for line in lines) == 1
    assert any("is back" in line for line in lines)


def test_a_server_so_slow_that_the_job_ends_first(mlflow_server: MlflowServer, switch: Switch, tmp_path: Path) -> None:
    """Every request takes two seconds or more; what is left goes by `python -m jobs.track_sync`, once it can."""
    folder = tmp_path / "bucket" / "run"
    out = f"file://{folder}"
    switch.delay = 2.0
    begin = time.monotonic()
    run = open_run(
        config.Tracking(uri=switch.uri, experiment="server"),
        kind="train",
        name=tmp_path.name,
        params={"lr": 0.1},
        out=out,
        wait=1.0,
    )
    log(run, folder, 300)
    for step in range(3):
        picture(folder, step)
    assert not run.close(timeout=1.0)
    assert time.monotonic() - begin < 6
    ended = time.time() * 1000
    switch.delay, switch.mode = 0.0, "refuse"
    away = track_sync(out)
    assert away.returncode == 1
    assert "1 of 1 runs could not be sent" in away.stderr and "Traceback" not in away.stdout + away.stderr
    switch.mode = "on"
    back = track_sync(out)
    assert back.returncode == 0, back.stdout + back.stderr
    assert back.stdout.endswith(f"sent to {switch.uri}\n")
    (found,) = runs_named(mlflow_server, tmp_path.name)
    assert found.info.status == "FINISHED" and found.info.start_time <= found.info.end_time <= ended
    assert history(mlflow_server, found.info.run_id) == list(range(300))
    assert pictures(mlflow_server, found.info.run_id) == 3
    assert json.loads((folder / "tracking.json").read_text())["run_id"] == found.info.run_id


def track_sync(out: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.track_sync", out]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_a_model_over_http(tmp_path: Path) -> None:
    """`mlflow models serve` on a model of ours: an image and clicks in, a mask out."""
    write_mlflow_model(write_checkpoint(tmp_path / "checkpoint"), str(tmp_path / "model"))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    image = cv2.imencode(".png", pixels)[1].tobytes()
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(tmp_path / "model")]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the server starts uvicorn by its name
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "PATH": path}
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "serve.log").read_text()[-3000:]
            try:
                requests.get(f"http://127.0.0.1:{port}/ping", timeout=2).raise_for_status()
                break
            except requests.RequestException:
                time.sleep(0.3)
        row = {"image": base64.b64encode(image).decode(), "clicks": [[20, 30, 1], [5, 5, 0]]}
        asked = {"dataframe_records": [row], "params": {"cfr_steps": 2}}
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json=asked, timeout=60)
        answer.raise_for_status()
        (found,) = answer.json()["predictions"]
        png = np.frombuffer(base64.b64decode(found["mask"]), np.uint8)
        mask = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    predictor = Predictor.load(str(tmp_path / "checkpoint"), cfr_steps=2)
    predictor.set_image(image)
    assert mask is not None
    assert np.array_equal(mask > 0, predictor.predict([[20, 30], [5, 5]], [1, 0])[0][0])
