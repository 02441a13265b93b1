"""The main test: prepare, train and evaluate entirely on s3:// through `ray job submit` on two nodes, with MLflow."""

from __future__ import annotations

import io
import json

import pyarrow.parquet as pq
from mlflow import MlflowClient

from pipeline import storage
from pipeline.data.manifest import load_manifest
from pipeline.model.checkpoints import load_model
from pipeline.train.state import complete_checkpoints, step_of

from .conftest import Reference
from .local_cluster import EVERY, STEPS, Local


def test_prepare_train_evaluate_on_s3_through_ray_job_submit(local: Local, reference: Reference) -> None:
    for uri, rows in ((reference.train, 24), (reference.val, 6)):
        assert load_manifest(uri).rows == rows
    assert "24/24 images" in reference.logs["prepare train"]

    steps = [step_of(uri) for uri in complete_checkpoints(reference.run)]
    assert steps == list(range(0, STEPS + 1, EVERY))
    metrics = [json.loads(line) for line in storage.read_bytes(f"{reference.run}/metrics.jsonl").splitlines()]
    assert [row["step"] for row in metrics if "train/loss" in row] == list(range(5, STEPS + 1, 5))
    assert {"time/data_wait_share_rank_0", "time/data_wait_share_rank_1"} <= metrics[0].keys()
    assert f"{STEPS}/{STEPS} steps" in reference.logs["train"]
    assert load_model(reference.run)[1].step == STEPS

    objects = pq.read_table(io.BytesIO(storage.read_bytes(f"{reference.evaluation}/objects.parquet"))).to_pylist()
    keys = [(r["dataset"], r["cfr_steps"], r["image_id"], r["object_id"]) for r in objects]
    assert len(set(keys)) == len(keys) and {key[0] for key in keys} == {"davis", "val"}
    summary = json.loads(storage.read_bytes(f"{reference.evaluation}/summary.json"))
    assert sum(entry["objects"] for entry in summary["results"]) == len(objects)
    assert storage.size_of(f"{reference.evaluation}/report.html") > 10_000

    client = MlflowClient(local.env["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    kinds = {run.data.tags["kind"]: run for run in runs if run.data.tags["out"].startswith(local.bucket)}
    assert {"train", "evaluate"} <= kinds.keys()
    assert all(run.info.status == "FINISHED" for run in kinds.values())
    history = client.get_metric_history(kinds["train"].info.run_id, "train/loss")
    assert [m.step for m in history] == list(range(5, STEPS + 1, 5))
    assert kinds["evaluate"].data.tags["training_run"] == kinds["train"].info.run_id


def test_no_credential_is_written_anywhere(local: Local, reference: Reference) -> None:
    secret = local.env["AWS_SECRET_ACCESS_KEY"]
    assert len(secret) > 20
    for name, said in reference.logs.items():
        assert secret not in said, name
    for uri in storage.list_files(local.bucket, ".json") + storage.list_files(local.bucket, ".md"):
        assert secret.encode() not in storage.read_bytes(uri), uri
    assert secret.encode() not in (local.folder / "mlflow.db").read_bytes()
    for log in (local.folder / "logs").rglob("*.log"):
        assert secret.encode() not in log.read_bytes(), log
