"""Evaluation as a Ray Data job: whole, resumed, with a killed actor, bad rows, raw folders, and the command line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from pycocotools.coco import COCO

from jobs import evaluate as command
from pipeline.config import Cfr, Eval
from pipeline.config.evaluation import EvaluateConfig
from pipeline.data.images import decode_sample
from pipeline.data.readers.synthetic import write_synthetic
from pipeline.engine.progress import Progress
from pipeline.errors import UserError
from pipeline.evaluate.batch import evaluate_objects
from pipeline.evaluate.job import Evaluation, evaluate
from pipeline.evaluate.metrics import IOU_LEVELS, noc
from pipeline.evaluate.pool import ActorPool
from pipeline.evaluate.request import check
from pipeline.evaluate.results import OBJECTS, clicks_of
from pipeline.evaluate.shared import ObjectResult, Target
from pipeline.evaluate.views import view
from pipeline.model.checkpoints import load_model
from tests.conftest import Exits
from tests.made import SIDE, rows_of_blobs, write_checkpoint, write_dataset

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
PICTURES = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a data set of 10 pictures with 2 objects each."""
    folder = tmp_path_factory.mktemp("made")
    write_checkpoint(folder / "checkpoint")
    write_dataset(folder / "blobs", rows_of_blobs(PICTURES))
    return folder


def request(made: Path, to: Path, **changes: object) -> EvaluateConfig:
    base = EvaluateConfig(
        checkpoint=str(made / "checkpoint"),
        data=(f"blobs={made / 'blobs'}",),
        out=str(to),
        cfr_steps=(0, 2),
        eval=Eval(max_clicks=3, actors=1),
    )
    return dataclasses.replace(base, **changes)


def without_time(objects: pa.Table) -> list[dict[str, Any]]:
    return objects.drop_columns(["seconds"]).to_pylist()


def alone(made: Path, steps: int) -> dict[tuple[str, int], ObjectResult]:
    """The same objects in this process, one at a time."""
    model, _ = load_model(str(made / "checkpoint"))
    samples = [decode_sample(row) for row in rows_of_blobs(PICTURES)]
    targets = (Target((s.image_id, k), s.image, s.target(k)) for s in samples for k in range(len(s.objects)))
    return {r.key: r for r in evaluate_objects(model, targets, Cfr(steps=steps, crop=SIDE), Eval(max_clicks=3))}


@pytest.fixture(scope="module")
def whole(made: Path, ray_session: None) -> Evaluation:
    """An uninterrupted evaluation."""
    return evaluate(
        check(request(made, made / "whole", eval=Eval(max_clicks=3, actors=2))), lambda: {"command": "this"}
    )


def test_every_object_is_there_once_as_if_evaluated_alone(made: Path, whole: Evaluation) -> None:
    table = pq.read_table(made / "whole" / "objects.parquet")
    assert table.schema == OBJECTS and table.equals(whole.objects)
    keys = [(r["cfr_steps"], r["image_id"], r["object_id"]) for r in table.to_pylist()]
    assert keys == [(s, f"blob-{i:03d}", k) for s in (0, 2) for i in range(PICTURES) for k in (0, 1)]
    for steps in (0, 2):
        expected = alone(made, steps)
        for row in table.to_pylist():
            if row["cfr_steps"] == steps:
                result = expected[row["image_id"], row["object_id"]]
                assert clicks_of(row) == result.clicks
                assert row["iou"] == pytest.approx(result.ious, abs=1e-6)
                assert row["forward_passes"] == sum(result.forwards)
                assert row["seconds"] > 0
    assert pq.read_table(made / "whole" / "rejected.parquet").num_rows == 0


def test_summary_says_what_the_table_holds(made: Path, whole: Evaluation) -> None:
    summary = json.loads((made / "whole" / "summary.json").read_text())
    assert summary == whole.summary
    assert summary["command"] == "this" and summary["checkpoint"]["step"] == 7
    assert [(r["dataset"], r["cfr_steps"], r["crop"]) for r in summary["results"]] == [
        ("blobs", 0, SIDE),
        ("blobs", 2, SIDE),
    ]
    rows = whole.objects.to_pylist()
    for entry in summary["results"]:
        curves = [r["iou"] for r in rows if r["cfr_steps"] == entry["cfr_steps"]]
        for level in IOU_LEVELS:
            assert entry["noc"][str(level)] == sum(noc(c, level, 3) for c in curves) / len(curves)
        assert entry["objects"] == 2 * PICTURES and len(entry["mean_iou"]) == 3


def test_only_what_is_missing_is_evaluated_again(made: Path, whole: Evaluation, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", request(made, tmp_path / "out")
    shutil.copytree(made / "whole", out)
    parts = sorted((out / "parts").iterdir())
    lost = parts[1::2]
    for file in (*lost, out / "objects.parquet", out / "summary.json"):
        file.unlink()
    kept = {part: part.stat().st_mtime_ns for part in parts if part not in lost}
    again = evaluate(check(asked), dict)
    assert sorted((out / "parts").iterdir()) == parts
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert without_time(again.objects) == without_time(whole.objects)
    times = {part: part.stat().st_mtime_ns for part in parts}
    evaluate(check(asked), dict)  # nothing is missing: only the tables are written again
    assert {part: part.stat().st_mtime_ns for part in parts} == times


def test_masks_of_a_finished_evaluation_are_written_from_its_parts(
    made: Path, whole: Evaluation, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made / "whole", out)
    times = {part: part.stat().st_mtime_ns for part in (out / "parts").iterdir()}
    again = evaluate(check(request(made, out, masks=True)), dict)
    assert {part: part.stat().st_mtime_ns for part in (out / "parts").iterdir()} == times
    assert again.summary["masks"] == {f"masks/blobs/{name}": 2 * PICTURES for name in ("cfr0", "cfr2")}
    for folder, steps in (("cfr0", 0), ("cfr2", 2)):
        coco: Any = COCO(str(out / "masks" / "blobs" / folder / "annotations.json"))
        rows = {(r["image_id"], r["object_id"]): r for r in again.objects.to_pylist() if r["cfr_steps"] == steps}
        for annotation in coco.loadAnns(list(coco.anns)):
            image_id = coco.imgs[annotation["image_id"]]["file_name"].removesuffix(".png")
            masks = view(rows[image_id, annotation["object"]], again.units, again.parts).masks
            assert np.array_equal(coco.annToMask(annotation) > 0, masks[max(masks)])


def test_bad_rows_are_listed_and_fatal_above_the_limit(made: Path, tmp_path: Path, ray_session: None) -> None:
    rows = rows_of_blobs(PICTURES)
    rows[3] = dataclasses.replace(rows[3], image=rows[3].image[:40])
    data = (f"spoilt={write_dataset(tmp_path / 'spoilt', rows)}",)
    asked = request(made, tmp_path / "out", data=data)
    with pytest.raises(UserError, match=r"2 of 20 objects of spoilt.*image does not decode: 2.*--max-bad-fraction"):
        evaluate(check(asked), dict)
    assert not (tmp_path / "out" / "summary.json").exists()
    allowed = dataclasses.replace(asked, eval=dataclasses.replace(asked.eval, max_bad_fraction=0.1))
    done = evaluate(check(allowed), dict)
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [(r["dataset"], r["image_id"], r["object_id"]) for r in rejected] == [
        ("spoilt", "blob-003", 0),
        ("spoilt", "blob-003", 1),
    ]
    assert done.summary["rejected"] == {"spoilt": {"image does not decode": 2}}
    assert [entry["objects"] for entry in done.summary["results"]] == [18, 18]


def test_a_raw_folder_is_prepared_on_the_way(made: Path, tmp_path: Path, ray_session: None) -> None:
    write_synthetic(str(tmp_path / "raw"), train=2, val=2, seed=3, size=(96, 128), evaluation=4)
    data = (f"davis={tmp_path / 'raw' / 'eval'}", f"blobs={made / 'blobs'}")
    asked = request(made, tmp_path / "out", data=data, cfr_steps=(0,), batch_size=3, limit=4)
    done = evaluate(check(asked), dict)
    assert [(e["dataset"], e["objects"]) for e in done.summary["results"]] == [("davis", 4), ("blobs", 4)]
    uri = str(tmp_path / "raw" / "eval")
    assert done.summary["data"]["davis"] == {"uri": uri, "source": "davis", "images": 4, "objects": 4}
    row = done.objects.to_pylist()[0]
    seen = view(row, done.units, done.parts)
    assert seen.image.shape == (96, 128, 3) and (seen.truth == 1).any()
    assert max(seen.masks) == len(row["iou"]) == len(seen.clicks)
    assert all(mask.shape == (96, 128) for mask in seen.masks.values())
    assert without_time(evaluate(check(asked), dict).objects) == without_time(done.objects)


def test_actors_that_die_give_their_units_back(
    made: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both die in calls of several units, when the first part is there."""
    actors: list[Any] = []
    started, told = ActorPool._new, Progress.update

    def new(pool: ActorPool) -> Any:
        actors.append(started(pool))
        return actors[-1]

    def update(progress: Progress, n: int = 1, note: str = "") -> None:
        if len(actors) == 2:
            for actor in actors[:2]:
                ray.kill(actor)
            actors.append(None)
        told(progress, n, note)

    monkeypatch.setattr(ActorPool, "_new", new)
    monkeypatch.setattr(Progress, "update", update)
    rules = Eval(max_clicks=10, actors=2, full_curve=True)
    done = evaluate(check(request(made, tmp_path / "out", eval=rules, batch_size=3)), dict)
    assert len(actors) > 3
    keys = [(r["cfr_steps"], r["image_id"], r["object_id"]) for r in done.objects.to_pylist()]
    assert keys == [(s, f"blob-{i:03d}", k) for s in (0, 2) for i in range(PICTURES) for k in (0, 1)]


def test_more_than_the_cluster_has_is_refused(made: Path, tmp_path: Path, ray_session: None) -> None:
    for rules, kind in ((Eval(actors=99), "99 CPUs"), (Eval(gpu=True), "1 GPUs")):
        with pytest.raises(UserError, match=kind):
            evaluate(check(request(made, tmp_path / kind, eval=rules)), dict)


@pytest.mark.slow
def test_command_line(made: Path, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--checkpoint", str(made / "checkpoint"), "--data", f"blobs={made / 'blobs'}", "--cfr-steps", "0", "1"]
    args += ["--max-clicks", "5", "--adaptive", "--out", str(tmp_path / "out")]
    args += ["--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    command.job(args)
    said = capsys.readouterr().out
    assert "A-CFR-1" in said and f"Report: {tmp_path}/out/report.html\nMLflow: http://127.0.0.1:5000/#/" in said
    assert f"-m jobs.tune cfr --checkpoint {made}/checkpoint --data blobs={made}/blobs --trials 24" in said
    assert f"-m mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db" in said
    out = tmp_path / "out"
    assert all((out / name).stat().st_size > 0 for name in ("report.html", "report.md", "summary.json"))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["mlflow_run"] and summary["environment"]["versions"]["torch"]
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run(summary["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["blobs/acfr1/noc90"] == summary["results"][1]["noc"]["90"]
    assert run.data.tags["checkpoint_sha256"] == summary["checkpoint"]["sha256"]
    curve = client.get_metric_history(summary["mlflow_run"], "blobs/acfr0/mean_iou")
    assert sorted((m.step, m.value) for m in curve) == list(enumerate(summary["results"][0]["mean_iou"], start=1))
    assert "report.html" in [f.path for f in client.list_artifacts(summary["mlflow_run"])]
    assert "| blobs | A-CFR-1 |" in run.data.tags["mlflow.note.content"]
    (data,) = run.inputs.dataset_inputs if run.inputs else []
    assert (data.dataset.name, data.tags[0].value) == ("blobs", "test")
    assert json.loads(data.dataset.profile or "")["objects"] == summary["results"][0]["objects"]
    children = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    found = {child.data.params["cfr.steps"]: child.data.metrics for child in children}
    for entry in summary["results"]:
        assert found[str(entry["cfr_steps"])]["blobs/noc90"] == entry["noc"]["90"]
        assert found[str(entry["cfr_steps"])]["noc90"] == entry["noc"]["90"]
    assert {child.data.params["checkpoint"] for child in children} == {run.data.params["checkpoint"]}
    command.job(args)  # finds everything there
    again = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    assert {child.info.run_id for child in again} == {child.info.run_id for child in children}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--cfr-stepz", "1"], "--cfr-steps"),
        (["--crop", "65"], "--crop 65"),
        (["--data", "nothing=/nowhere"], "no data set /nowhere"),
        (["--compare", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_mistakes_end_with_one_message_and_exit_2(
    made: Path, tmp_path: Path, ray_session: None, exits: Exits, args: list[str], message: str
) -> None:
    base = ["--checkpoint", str(made / "checkpoint"), "--data", f"blobs={made / 'blobs'}", "--out", str(tmp_path / "o")]
    code, out, err = exits(command.job, *base, *args)
    assert code == 2 and message in out + err and "Traceback" not in err
    assert not (tmp_path / "o").exists()
