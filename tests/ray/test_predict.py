"""`jobs.predict`: the masks of an evaluation for the same clicks, bad rows, resuming, and files that others read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from jobs import predict as command
from pipeline import Predictor
from pipeline.config import Cfr, Eval
from pipeline.config.evaluation import EvaluateConfig, PredictConfig
from pipeline.errors import UserError
from pipeline.evaluate.job import Evaluation, evaluate
from pipeline.evaluate.request import check as check_evaluation
from pipeline.evaluate.views import view
from pipeline.predict.job import check, predict
from tests.made import rows_of_blobs, write_checkpoint, write_dataset

pytestmark = pytest.mark.ray
PICTURES = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and pictures as shards and as files."""
    folder = tmp_path_factory.mktemp("made")
    write_checkpoint(folder / "checkpoint")
    rows = rows_of_blobs(PICTURES)
    write_dataset(folder / "blobs", rows)
    for row in rows:
        (folder / "images" / f"{row.image_id}.png").parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / f"{row.image_id}.png").write_bytes(row.image)
    return folder


@pytest.fixture(scope="module")
def evaluated(made: Path, ray_session: None) -> Evaluation:
    config = EvaluateConfig(
        checkpoint=str(made / "checkpoint"),
        data=(f"blobs={made / 'blobs'}",),
        out=str(made / "evaluation"),
        cfr_steps=(2,),
        eval=Eval(max_clicks=3, actors=1, full_curve=True),
    )
    return evaluate(check_evaluation(config), dict)


def write_clicks(evaluated: Evaluation, file: Path) -> list[dict[str, Any]]:
    """The clicks of an evaluation as a table, those of all objects mixed; returns the objects."""
    objects = evaluated.objects.to_pylist()
    lines: list[list[Any]] = [
        [f"{o['image_id']}.png", o["object_id"], click["col"], click["row"], int(click["positive"]), number]
        for o in objects
        for number, click in enumerate(o["clicks"])
    ]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "object", "x", "y", "positive", "number"])
        writer.writerows(line for _, line in sorted((line[-1], line) for line in lines))
    return objects


def request(made: Path, to: str, **changes: Any) -> PredictConfig:
    given = {"checkpoint": str(made / "checkpoint"), "images": str(made / "images"), "clicks": str(made / "clicks.csv")}
    return PredictConfig(**{**given, "out": str(made / to), "cfr_steps": 2, "actors": 1, **changes})


def png(path: Path) -> np.ndarray:
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    return mask > 0


def test_masks_are_those_of_the_evaluation_in_every_file(made: Path, evaluated: Evaluation) -> None:
    objects = write_clicks(evaluated, made / "clicks.csv")
    summary = predict(check(request(made, "whole")))
    assert (summary["objects"], summary["images"], summary["rejected"]) == (len(objects), PICTURES, {})
    out = made / "whole"
    table = {(r["image"], r["object"]): r for r in pq.read_table(out / "objects.parquet").to_pylist()}
    coco: Any = COCO(str(out / "annotations.json"))
    drawn = {
        (coco.imgs[a["image_id"]]["file_name"], a["object"]): coco.annToMask(a).astype(bool) for a in coco.anns.values()
    }
    for one in objects:
        want = view(one, evaluated.units, evaluated.parts).masks[3]
        key = (f"{one['image_id']}.png", str(one["object_id"]))
        row = table[key]
        assert np.array_equal(png(out / row["mask"]), want)
        assert np.array_equal(drawn[key], want)
        assert row["area"] == want.sum()
        assert len(row["clicks"]) == 3
        assert row["forward_passes"] == one["forward_passes"]
    annotation = next(iter(coco.anns.values()))
    assert rle.area(annotation["segmentation"]) == annotation["area"]
    page = (out / "report.html").read_text()
    assert page.count("<img") == len(objects)

    predictor = Predictor.load(str(made / "checkpoint"), cfr_steps=2)
    one = objects[0]
    predictor.set_image(made / "images" / f"{one['image_id']}.png")
    for click in one["clicks"]:
        predictor.click(click["col"], click["row"], click["positive"])
    path = table[f"{one['image_id']}.png", str(one["object_id"])]["mask"]
    assert np.array_equal(predictor.mask, png(out / path))


def test_the_same_command_goes_on_and_another_is_refused(made: Path, evaluated: Evaluation) -> None:
    objects = write_clicks(evaluated, made / "clicks.csv")
    predict(check(request(made, "again")))
    parts = sorted((made / "again" / "parts").iterdir())
    kept = {part: part.stat().st_mtime_ns for part in parts[1:]}
    masks = {path: path.read_bytes() for path in (made / "again" / "masks").glob("*/*.png")}
    assert len(masks) == len(objects)
    parts[0].unlink()
    for path in masks:
        path.unlink()
    predict(check(request(made, "again")))
    assert all(part.stat().st_mtime_ns == when for part, when in kept.items())
    assert {path: path.read_bytes() for path in masks} == masks
    with pytest.raises(UserError, match=r"another cfr\.steps"):
        check(request(made, "again", cfr_steps=1))
    with (made / "clicks.csv").open("a") as stream:
        stream.write(f"{objects[0]['image_id']}.png,extra,1,1,1,9\n")
    with pytest.raises(UserError, match="another clicks"):
        check(request(made, "again"))


def test_bad_rows_are_set_aside_and_too_many_are_fatal(made: Path, evaluated: Evaluation) -> None:
    objects = write_clicks(evaluated, made / "clicks.csv")
    (made / "images" / "broken.png").write_bytes(b"\x89PNG no")
    with (made / "clicks.csv").open("a") as stream:
        for image in ("broken.png", "nowhere.png", "../checkpoint/state.json"):
            stream.write(f"{image},1,1,1,1,9\n")
        stream.write(f"{objects[0]['image_id']}.png,far,999,1,1,9\n")
    with pytest.raises(UserError, match="image is missing"):
        predict(check(request(made, "fatal")))
    summary = predict(check(request(made, "bad", max_bad_fraction=0.9)))
    assert summary["objects"] == len(objects)
    assert sum(summary["rejected"].values()) == 4
    assert summary["rejected"]["click outside of the image"] == 1
    rejected = pq.read_table(made / "bad" / "rejected.parquet").to_pylist()
    assert {row["image_id"] for row in rejected} == {
        "broken.png", "nowhere.png", "../checkpoint/state.json", f"{objects[0]['image_id']}.png"
    }  # fmt: skip


def test_many_clicks_of_one_image_and_the_command_line(
    made: Path, evaluated: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    image = f"{evaluated.objects['image_id'][0].as_py()}.png"
    rows = [{"image": image, "object": f"o{i}", "x": 5 + i % 50, "y": 5 + i // 50} for i in range(60)]
    (made / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--checkpoint", str(made / "checkpoint"), "--images", str(made / "images")]
    words += ["--clicks", str(made / "many.jsonl"), "--out", str(made / "many"), "--batch-size", "4", "--no-flip"]
    assert command.parse(words).cfr == Cfr(flip=False)
    command.job(words)
    assert "60 masks on 1 images" in capsys.readouterr().out
    assert len(list((made / "many" / "masks" / image).iterdir())) == 60
    with pytest.raises(UserError, match="no folder of images"):
        command.job([*words[:2], "--images", str(made / "none"), *words[4:6], "--out", str(made / "x")])


def test_photographs_through_every_door(shared: Path, tmp_path: Path, ray_session: None) -> None:
    """The 24 objects by the clicks of `jobs.evaluate`: Predictor click by click, by lists, and `jobs.predict`."""
    photos = shared / "data" / "sample" / "eval"
    config = EvaluateConfig(
        checkpoint="small",
        data=(f"photos={photos}",),
        out=str(tmp_path / "evaluation"),
        cfr_steps=(1,),
        eval=Eval(max_clicks=5, full_curve=True),
    )
    evaluation = evaluate(check_evaluation(config), dict)
    suffix = {path.stem: path.suffix for path in (photos / "img").iterdir()}
    objects = evaluation.objects.to_pylist()
    assert len(objects) == 24
    rows = [
        {
            "image": f"{one['image_id']}{suffix[one['image_id']]}",
            "object": str(one["object_id"]),
            "clicks": [{"x": c["col"], "y": c["row"], "positive": c["positive"]} for c in one["clicks"]],
        }
        for one in objects
    ]
    (tmp_path / "clicks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given: dict[str, Any] = {
        "images": str(photos / "img"),
        "clicks": str(tmp_path / "clicks.jsonl"),
        "out": str(tmp_path / "out"),
    }
    predict(check(PredictConfig(checkpoint="small", cfr_steps=1, **given)))
    table = {(r["image"], r["object"]): r for r in pq.read_table(tmp_path / "out" / "objects.parquet").to_pylist()}
    predictor = Predictor.load("small", cfr_steps=1)
    for one, row in zip(objects, rows, strict=True):
        want = view(one, evaluation.units, evaluation.parts).masks
        assert np.array_equal(png(tmp_path / "out" / table[row["image"], row["object"]]["mask"]), want[5])
        predictor.set_image(photos / "img" / row["image"])
        for number, click in enumerate(row["clicks"], 1):
            mask = predictor.click(click["x"], click["y"], click["positive"])
            assert number not in want or np.array_equal(mask, want[number])
        predictor.reset()
        for number in (1, 3, 5):
            some = row["clicks"][:number]
            masks, _, _ = predictor.predict([[c["x"], c["y"]] for c in some], [int(c["positive"]) for c in some])
            assert np.array_equal(masks[0], want[number])
