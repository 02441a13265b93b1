"""What the annotator leaves in OUT: whole files, versions, a data set that `jobs.prepare` reads, and who holds what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import Predictor
from pipeline.clicks.encode import Click
from pipeline.config import Cfr
from pipeline.data.images import decode_sample
from pipeline.data.readers.coco_instances import CocoInstancesReader
from pipeline.errors import UserError
from pipeline.evaluate.results import decode_mask
from pipeline.serve.annotator import Annotator, Asked
from pipeline.serve.clerk import Clerk
from pipeline.serve.clicker import Clicker
from pipeline.serve.folder import Folder
from pipeline.serve.holds import HOLD_SECONDS, Holds
from pipeline.serve.pictures import sha_of
from pipeline.serve.refusal import Refused
from pipeline.serve.results import Results
from tests.made import SIDE, rows_of_blobs, small_model

MODEL = small_model()
CFR = Cfr(crop=SIDE, threshold=0.45, zoom_threshold=0.45)  # of a random network, whose masks are empty at 0.49
ROWS = rows_of_blobs(2)
SHAS = [sha_of(row.image) for row in ROWS]
NAMES = ["a.png", "below/b c.png"]
CLICKS = [Click(30, 40, True), Click(50, 60, True)]


@pytest.fixture
def annotator(tmp_path: Path) -> Annotator:
    for name, row in zip(NAMES, ROWS, strict=True):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(row.image)
    return begin(tmp_path)


def begin(tmp_path: Path) -> Annotator:
    clerk, folder = Clerk(str(tmp_path / "out")), Folder(str(tmp_path / "photos"))
    return Annotator(Clicker(MODEL, CFR, torch.device("cpu")), clerk, folder, True, ("made", "0" * 64))


def asked(number: int, clicks: list[Click]) -> Asked:
    return Asked(SHAS[number], NAMES[number], clicks)


def predicted(number: int, clicks: list[Click]) -> np.ndarray:
    predictor = Predictor(MODEL, CFR)
    predictor.set_image(ROWS[number].image)
    for click in clicks:
        predictor.click(click.col, click.row, click.positive)
    return predictor.mask


def test_out_is_a_data_set(annotator: Annotator, tmp_path: Path) -> None:
    out = tmp_path / "out"
    annotator.save(asked(0, CLICKS[:1]), "one", "cat", None)
    annotator.save(asked(1, CLICKS), "two", "", None)
    annotator.clerk.close()
    coco = json.loads((out / "annotations.json").read_text())
    labels = {c["id"]: c["name"] for c in coco["categories"]}
    assert [(one["object"], labels[one["category_id"]]) for one in coco["annotations"]] == [
        ("one", "cat"),
        ("two", "object"),
    ]
    assert decode_mask((out / "masks" / NAMES[1] / "two.png").read_bytes()).tolist() == predicted(1, CLICKS).tolist()
    reader = CocoInstancesReader(str(out))
    rows = [reader.read(item) for item in reader.items()]
    for number, (row, clicks) in enumerate(zip(rows, (CLICKS[:1], CLICKS), strict=True)):
        sample = decode_sample(row)
        assert row.image == ROWS[number].image
        assert np.array_equal(sample.target(0) == 1, predicted(number, clicks))


def test_another_start_goes_on(annotator: Annotator, tmp_path: Path) -> None:
    version = annotator.save(asked(0, CLICKS), "one", "cat", None)
    annotator.clerk.set_done(NAMES[0], True)
    (tmp_path / "out" / "annotations.json").unlink(missing_ok=True)  # as if it had been killed before
    again = begin(tmp_path)
    objects, holder = again.clerk.objects(NAMES[0], "")
    assert [(one["id"], one["version"], one["label"]) for one in objects] == [("one", version, "cat")]
    assert again.clerk.overview(NAMES, "")[0] == 1 and holder is None
    again.clerk.close()
    assert len(json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]) == 1
    (tmp_path / "out" / "objects" / "x.json").write_text("{}")
    with pytest.raises(UserError, match="no object of an annotator"):
        Results(str(tmp_path / "out"))


def test_the_last_writer_of_an_object_is_refused(annotator: Annotator, tmp_path: Path) -> None:
    first = annotator.save(asked(0, CLICKS[:1]), "one", "cat", None)
    with pytest.raises(Refused, match="has changed it meanwhile") as refused:
        annotator.save(asked(0, CLICKS), "one", "dog", None)
    assert refused.value.content["version"] == first
    second = annotator.save(asked(0, CLICKS), "one", "dog", first)
    with pytest.raises(Refused, match="has changed it"):
        annotator.clerk.delete(NAMES[0], "one", first)
    annotator.clerk.delete(NAMES[0], "one", second)
    annotator.clerk.delete(NAMES[0], "one", second)  # gone stays gone
    with pytest.raises(Refused, match="has deleted it"):
        annotator.save(asked(0, CLICKS), "one", "dog", second)
    assert not [path for path in (tmp_path / "out" / "masks").rglob("*.png") if path.is_file()]
    annotator.clerk.close()
    assert json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"] == []


def test_a_repeated_saving_is_one(annotator: Annotator) -> None:
    results = annotator.clerk.results
    annotator.save(asked(0, CLICKS), "one", "", None)
    (kept,) = results.objects(NAMES[0])
    fields = {name: value for name, value in kept.items() if name not in ("number", "version", "mask")}
    saved: Any = type("Saved", (), {"fields": fields, "png": b""})
    assert results.save(NAMES[0], "one", saved, None, kept["version"], b"") == kept["version"]
    assert len(results.objects(NAMES[0])) == 1


@pytest.mark.parametrize(
    ("key", "name", "clicks", "message"),
    [
        ("../x", NAMES[0], CLICKS, "letters, digits"),
        ("x", "../photos/a.png", CLICKS, "no image"),
        ("x", "nowhere.png", CLICKS, "no image"),
        ("x", f"upload-{'0' * 16}.png", CLICKS, "send it again"),
        ("x", NAMES[0], [], "no pixel"),
        ("x", NAMES[1], CLICKS, "has changed in the folder"),
    ],
)
def test_what_is_not_saved(annotator: Annotator, key: str, name: str, clicks: list[Click], message: str) -> None:
    with pytest.raises(Refused, match=message):
        annotator.save(Asked(SHAS[0], name, clicks), key, "", None)


def test_uploads_have_results_too(annotator: Annotator, tmp_path: Path) -> None:
    name = annotator.upload(ROWS[0].image).upload_name
    annotator.save(Asked(SHAS[0], name, CLICKS), "x", "", None)
    with pytest.raises(Refused, match="The name of this image"):
        annotator.save(Asked(SHAS[0], f"upload-{'0' * 16}.png", CLICKS), "x", "", None)
    annotator.clerk.close()
    again = begin(tmp_path)  # the image is in OUT now
    assert again.image(name) == ROWS[0].image
    assert np.array_equal(again.answer(Asked(SHAS[0], name, CLICKS)).mask, predicted(0, CLICKS))


def test_an_image_that_out_holds_already_is_kept_when_it_is_another(annotator: Annotator, tmp_path: Path) -> None:
    """Of the same size too, as long as no object tells what it is."""
    kept = tmp_path / "out" / "images" / NAMES[0]
    kept.parent.mkdir(parents=True)
    kept.write_bytes(ROWS[0].image[:-1] + b"x")
    with pytest.raises(Refused, match="holds another file"):
        annotator.save(asked(0, CLICKS), "one", "", None)
    kept.write_bytes(ROWS[0].image)
    annotator.save(asked(0, CLICKS), "one", "", None)


def test_holds_are_forgotten() -> None:
    now = [0.0]
    holds = Holds(lambda: now[0])
    holds.hold("a", "1", "Ann")
    assert holds.hold("a", "2", "Bob") == "Ann"
    assert holds.holder("a") == "Ann"
    now[0] = HOLD_SECONDS + 1
    assert holds.hold("a", "2", "Bob") is None
    assert holds.holder("a") == "Bob" and holds.holder("b") is None
