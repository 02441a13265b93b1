"""Label Studio's protocol for models: requests as 1.23.2 sends them, and the brush masks that it takes."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
import torch
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import Predictor
from pipeline.clicks.encode import Click
from pipeline.config import Cfr
from pipeline.data.images import decode_sample
from pipeline.errors import BadRow
from pipeline.serve import label_studio, label_studio_rle
from pipeline.serve.annotator import Annotator
from pipeline.serve.clerk import Clerk
from pipeline.serve.clicker import Clicker
from pipeline.serve.folder import Folder
from pipeline.serve.label_studio_images import TaskImages
from pipeline.serve.label_studio_routes import routes
from pipeline.serve.refusal import Refused
from pipeline.serve.web import application
from tests.made import SIDE, rows_of_blobs, small_model

CONFIG = (
    '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n  <BrushLabels name="mask" '
    'toName="image" smart="false">\n    <Label value="object" background="#0072b2"/>\n    <Label value="other" '
    'background="#d55e00"/>\n  </BrushLabels>\n  <KeyPointLabels name="click" toName="image" smart="true" '
    'smartOnly="true" snap="pixel">\n    <Label value="object" background="#0072b2"/>\n    <Label value="other" '
    'background="#d55e00"/>\n  </KeyPointLabels>\n</View>'
)
HEIGHT, WIDTH = 72, 88
POINTS = [
    {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {"x": 100 * (x + 0.5) / WIDTH, "y": 100 * (y + 0.5) / HEIGHT, "width": 0.26, **labels},
        "is_positive": positive,
        "id": name,
        "from_name": "click",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }
    for x, y, positive, name in ((30, 40, True, "uw3NPZSn_P"), (70, 9, False, "vutKQGnTHM"))
    for labels in [{"labels": ["object"], "keypointlabels": ["object"]}]
]
CLICKS = (Click(40, 30, True), Click(9, 70, False))


def body(
    points: Any = POINTS, image: str = "/data/upload/1/7517b11c-a_photo.png", config: str = CONFIG
) -> dict[str, Any]:
    """What Label Studio posts to /predict; without `points` as it does when a task is opened."""
    task = {
        "id": 7,
        "data": {"image": image},
        "meta": {},
        "created_at": "2026-11-29T11:28:19.770235Z",
        "is_labeled": False,
        "inner_id": 1,
        "total_annotations": 0,
        "project": 1,
        "file_upload": 1,
        "drafts": [],
        "annotations": [],
        "predictions": [],
    }
    context = None if points is None else {"result": points}
    params = {"login": None, "password": None, "context": context}
    return copy.deepcopy({"tasks": [task], "project": "1.1795951699", "label_config": config, "params": params})


@given(st.integers(1, 40), st.integers(1, 400), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_masks_go_there_and_back(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert np.array_equal(label_studio_rle.decode(label_studio_rle.encode(mask), mask.shape), mask)


def test_runs_longer_than_a_block() -> None:
    mask = np.zeros((300, 300), bool)
    mask[20:290] = True
    coded = label_studio_rle.encode(mask)
    assert len(coded) < 60 and np.array_equal(label_studio_rle.decode(coded, mask.shape), mask)


def test_bytes_are_those_of_label_studio_itself() -> None:
    """Both lists were written by label-studio-sdk 2.1.2 (converter/brush.py)."""
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    coded = [0, 0, 0, 24, 57, 27, 252, 96, 19, 255, 206, 1, 31, 248]
    assert label_studio_rle.encode(mask) == coded
    # RGBA 1 2 3 0, 9 9 9 255, 4 4 5 7: repeated values and such that are not
    picture = [0, 0, 0, 12, 57, 27, 248, 0, 32, 1, 0, 6, 0, 4, 65, 32, 127, 194, 8, 0, 40, 0, 224]
    assert label_studio_rle.decode(picture, (1, 3)).tolist() == [[False, True, True]]


@pytest.mark.parametrize("damaged", [[], [0, 0], ["a"], [300], "half", "other"])
def test_damaged_bytes(damaged: Any) -> None:
    whole = label_studio_rle.encode(np.eye(9, dtype=bool))
    coded = {"half": whole[: len(whole) // 2], "other": label_studio_rle.encode(np.eye(8, dtype=bool))}
    with pytest.raises(BadRow, match="run lengths"):
        label_studio_rle.decode(coded[damaged] if isinstance(damaged, str) else damaged, (9, 9))


def test_a_request_as_label_studio_sends_it() -> None:
    asked = label_studio.read(body())
    assert asked is not None
    assert (asked.task, asked.reference, asked.size) == (7, "/data/upload/1/7517b11c-a_photo.png", (HEIGHT, WIDTH))
    (one,) = asked.objects
    assert (one.label, one.brush, one.image, one.clicks) == ("object", "mask", "image", CLICKS)
    (again,) = (label_studio.read(body(POINTS[:1])) or asked).objects
    assert again.id == one.id and again.clicks == CLICKS[:1], "a region stays the same while clicks are added"


def test_without_clicks_there_is_nothing_to_answer() -> None:
    assert label_studio.read(body(None)) is None
    assert label_studio.read(body([])) is None
    left = {name: value for name, value in POINTS[1].items() if name != "is_positive"}
    assert label_studio.read(body([left])) is None, "keypoints of a draft after a reload say nothing of their sign"
    (one,) = (label_studio.read(body([left, POINTS[0]])) or pytest.fail("no object")).objects
    assert one.clicks == CLICKS[:1]


def test_labels_are_objects_of_their_own() -> None:
    second = {**POINTS[1], "value": {**POINTS[1]["value"], "keypointlabels": ["other"]}}
    asked = label_studio.read(body([POINTS[0], second]))
    assert asked is not None
    assert [(one.label, one.clicks) for one in asked.objects] == [("object", CLICKS[:1]), ("other", CLICKS[1:])]


@given(st.integers(1, 9000).flatmap(lambda side: st.tuples(st.just(side), st.integers(0, side - 1))), st.booleans())
def test_the_middle_of_a_pixel_is_that_pixel(place: tuple[int, int], positive: bool) -> None:
    side, pixel = place
    point = {"value": {"x": 100 * (pixel + 0.5) / side, "y": 100.0}, "is_positive": positive}
    assert label_studio.to_click(point, (10, side)) == Click(9, pixel, positive)


def changed(**fields: Any) -> list[dict[str, Any]]:
    return [{**POINTS[0], **fields}]


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ([], 400, "no request of Label Studio"),
        ({}, 400, "no request of Label Studio"),
        ({**body(), "tasks": [1]}, 400, "no request of Label Studio"),
        ({**body(), "tasks": body()["tasks"] * 2}, 400, "one task"),
        (body(changed(value={"x": 101, "y": 1, "keypointlabels": ["object"]})), 400, "no request"),
        (body(changed(value={"x": float("nan"), "y": 1, "keypointlabels": ["object"]})), 400, "no request"),
        (body([POINTS[0], *changed(original_width=5)]), 400, "differ"),
        (body(changed(image_rotation=90)), 422, "turn it back"),
        (body(changed(item_index=1)), 422, "one image"),
        (body(changed(to_name="photo")), 422, '<Image name="photo">'),
        (body(changed(value={"x": 1, "y": 1, "keypointlabels": ["cat"]})), 422, "'cat'"),
        (body(image=""), 422, "'image'"),
        (body(config="<View>"), 422, "no XML"),
        (body(config='<!DOCTYPE a [<!ENTITY b "c">]>' + CONFIG), 422, "DOCTYPE"),
        (body(config=CONFIG.replace("$image", "a.jpg")), 422, "value="),
    ],
)
def test_what_has_no_answer(asked: Any, status: int, says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        label_studio.read(asked)
    assert refused.value.status == status


MODEL, TOKEN = small_model(), "a-token-of-the-test"
CFR = Cfr(crop=SIDE, steps=1)


@pytest.fixture(scope="module")
def clerk() -> Clerk:
    return Clerk("")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, clerk: Clerk) -> Iterator[str]:
    """URL of a server with one image, a photo.png."""
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(photo()).save(folder / "a photo.png")
    clicker = Clicker(MODEL, CFR, torch.device("cpu"))
    annotator = Annotator(clicker, clerk, Folder(str(folder)), False, ("runs/small", "0123456789abcdef"))
    app = application(annotator, ["127.0.0.1"], TOKEN)
    app.include_router(routes(annotator, TaskImages(annotator, None)))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def photo() -> np.ndarray:
    return decode_sample(rows_of_blobs(1, size=(HEIGHT, WIDTH))[0]).image


def ask(url: str, path: str, data: Any = None, password: str = TOKEN) -> requests.Response:
    """As Label Studio asks with basic authentication."""
    method = "GET" if data is None else "POST"
    return requests.request(method, url + path, json=data, auth=("any", password), timeout=60)


def test_a_model_is_connected(served: str) -> None:
    assert ask(served, "/health").json()["status"] == "UP"
    setup = {
        "project": "1.1",
        "schema": CONFIG,
        "hostname": "http://evil",
        "access_token": "0" * 40,
        "extra_params": None,
    }
    assert ask(served, "/setup", setup).json() == {"model_version": "small 01234567"}
    assert ask(served, "/versions").json() == {"versions": ["small 01234567"]}
    assert ask(served, "/webhook", {"action": "ANNOTATION_CREATED"}).status_code == 200
    assert ask(served, "/health", password="wrong").status_code == 401
    assert ask(served, "/predict", body(), password="").status_code == 401


def test_masks_are_those_of_the_predictor(served: str) -> None:
    predictor = Predictor(MODEL, CFR)
    predictor.set_image(photo())
    for number in (1, 2):
        answer = ask(served, "/predict", body(POINTS[:number])).json()
        (result,) = answer["results"]
        (region,) = result["result"]
        assert result["model_version"] == "small 01234567" and 0 <= region["score"] <= 1
        about = ("from_name", "to_name", "type", "original_width", "original_height", "image_rotation")
        assert [region[name] for name in about] == ["mask", "image", "brushlabels", WIDTH, HEIGHT, 0]
        assert region["value"]["format"] == "rle" and region["value"]["brushlabels"] == ["object"]
        clicks = CLICKS[:number]
        expected = predictor.predict([[c.col, c.row] for c in clicks], [int(c.positive) for c in clicks])[0][0]
        assert np.array_equal(label_studio_rle.decode(region["value"]["rle"], (HEIGHT, WIDTH)), expected)


def test_requests_that_bring_all_masks_of_a_task_are_long(served: str) -> None:
    asked = body()
    asked["tasks"][0]["drafts"] = [{"result": [{"value": {"rle": [255] * 500_000}}]}]
    assert ask(served, "/predict", asked).status_code == 200


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        (body(image="/data/upload/1/7517b11c-other.png"), 404, "--images has no image"),
        (body(image="http://127.0.0.1:9/a.png"), 404, "--images has no image"),
        (body(image="/data/local-files/?d=../../etc/passwd"), 422, "where its image lies"),
        (body([{**one, "original_width": 10} for one in POINTS]), 409, "10 x 72 pixels"),
        (body(POINTS * 101), 400, "at most 200 clicks"),
    ],
)
def test_refusals_say_why(served: str, clerk: Clerk, asked: Any, status: int, says: str) -> None:
    clerk.told()
    answer = ask(served, "/predict", asked)
    assert answer.status_code == status and says in answer.json()["error"]
    assert clerk.told() == [f"Label Studio was refused ({status}): {answer.json()['error']}"]


@pytest.mark.parametrize("data", ["{", "[" * 100_000, b"\xff"])
def test_a_body_that_is_no_json(served: str, data: Any) -> None:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    answer = requests.post(f"{served}/predict", data, headers=headers, timeout=60)
    assert answer.status_code == 400 and "JSON" in answer.json()["error"]


def test_a_task_that_is_opened(served: str) -> None:
    assert ask(served, "/predict", body(None)).json() == {"results": []}
