"""The annotator over HTTP, without an engine: every answer, and every refusal in one sentence."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from pipeline import Predictor
from pipeline.config import Cfr
from pipeline.evaluate.results import decode_mask
from pipeline.serve import pictures
from pipeline.serve.annotator import Annotator, Gate
from pipeline.serve.clerk import Clerk
from pipeline.serve.clicker import MAX_CLICKS, Clicker
from pipeline.serve.folder import Folder
from pipeline.serve.guard import MAX_JSON, POLICY, is_loopback, served_names
from pipeline.serve.pictures import sha_of
from pipeline.serve.web import application
from tests.made import SIDE, rows_of_blobs, small_model

MODEL = small_model()
CFR = Cfr(crop=SIDE, threshold=0.45, zoom_threshold=0.45)  # of a random network, whose masks are empty at 0.49
DATA = rows_of_blobs(1)[0].image
SHA = sha_of(DATA)
HERE = "http://127.0.0.1:8765"
CLICK = {"x": 40, "y": 30, "positive": True}
JSON, BYTES = {"Content-Type": "application/json"}, {"Content-Type": "application/octet-stream"}
TOKEN = "a-token-of-some-length"

Client = Callable[..., TestClient]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """client(token=""): of a server with a folder of one image, a link out of it, and an OUT."""
    photos = tmp_path / "photos"
    (photos / "below").mkdir(parents=True)
    (photos / "below" / "a.png").write_bytes(DATA)
    (photos / "notes.txt").write_text("secret")
    (tmp_path / "outside.png").write_bytes(DATA)
    (photos / "link.png").symlink_to(tmp_path / "outside.png")
    clerk = Clerk(str(tmp_path / "out"))

    def make(token: str = "", **other: Any) -> TestClient:
        clicker, folder = Clicker(MODEL, CFR, torch.device("cpu")), Folder(str(photos))
        given = {"clerk": clerk, "folder": folder, "saves": True, "checkpoint": ("made", "0" * 64), **other}
        return TestClient(application(Annotator(clicker=clicker, **given), ["127.0.0.1"], token), base_url=HERE)

    yield make
    clerk.close()


def ask(clicks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"image": SHA, "clicks": clicks, **more}


def test_from_an_image_to_a_saved_object(client: Client) -> None:
    web = client()
    settings = web.get("/api/settings").json()
    assert settings["folder"] and settings["saves"] and settings["cfr"]["crop"] == SIDE
    listed = web.get("/api/images").json()
    assert listed["total"] == 2 and listed["images"][0] == {
        "name": "below/a.png", "state": "open", "objects": 0, "holder": None
    }  # fmt: skip
    shown = web.get("/api/images/below/a.png")
    assert (shown.content, shown.headers["x-image"], shown.headers["content-type"]) == (DATA, SHA, "image/png")
    small = web.get("/api/thumbnails/below/a.png")
    assert Image.open(io.BytesIO(small.content)).format == "JPEG"
    assert web.post("/api/masks", json=ask([CLICK])).json()["upload"] is True
    answer = web.post("/api/masks", json=ask([CLICK], name="below/a.png")).json()
    predictor = Predictor(MODEL, CFR)
    predictor.set_image(DATA)
    mask, drawn = predictor.click(40, 30), np.zeros((72, 88), bool)
    x, y, width, height = answer["box"]
    drawn[y : y + height, x : x + width] = decode_mask(base64.b64decode(answer["png"]))
    assert np.array_equal(drawn, mask) and mask.any() and answer["passes"] == 1
    saved = web.put("/api/results/below/a.png/one", json=ask([CLICK], label="cat", version=None)).json()
    (one,) = web.get("/api/results/below/a.png").json()["objects"]
    assert (one["version"], one["png"], one["label"]) == (saved["version"], answer["png"], "cat")
    late = web.put("/api/results/below/a.png/one", json=ask([CLICK], version=None))
    assert late.status_code == 409 and late.json()["version"] == saved["version"]
    assert web.post("/api/holds/below/a.png", json={"client": "1", "who": "Ann"}).json() == {"holder": None}
    assert web.get("/api/results/below/a.png?client=1").json()["holder"] is None
    assert web.get("/api/results/below/a.png").json()["holder"] == "Ann"
    assert web.post("/api/results/below/a.png/done", json={"done": True}).json() == {"done": True}
    assert web.get("/api/images?count=1").json()["images"][0]["state"] == "done"
    gone = web.delete(f"/api/results/below/a.png/one?version={saved['version']}", headers=JSON)
    assert gone.status_code == 200 and web.get("/api/results/below/a.png").json()["objects"] == []


def test_uploads_are_turned_as_exif_says(client: Client) -> None:
    picture, exif = Image.new("RGB", (30, 20), "red"), Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    picture.save(data, "JPEG", exif=exif)
    answer = client().put("/api/uploads", content=data.getvalue(), headers={"Content-Type": "image/jpeg"}).json()
    assert (answer["width"], answer["height"]) == (20, 30)
    assert answer["name"] == f"upload-{answer['image'][:16]}.jpg"


def test_what_a_browser_cannot_show_is_a_png_of_the_same_pixels(client: Client, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "scan.tif")
    web = client()
    shown = web.get("/api/images/scan.tif")
    assert shown.headers["content-type"] == "image/tiff"
    sha = shown.headers["x-image"]
    assert web.get(f"/api/shown/{sha}").json()["upload"] is True
    folder = web.get(f"/api/shown/{sha}", params={"name": "scan.tif"})
    assert web.put("/api/uploads", content=shown.content, headers=BYTES).json()["image"] == sha
    for answer in (folder, web.get(f"/api/shown/{sha}")):
        assert answer.headers["content-type"] == "image/png"
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(answer.content))), pixels)
    assert client(uploads=Gate(0, "images")).get(f"/api/shown/{sha}").status_code == 429


def bomb() -> bytes:
    data = bytearray(DATA)
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"%PDF-1.7 no image", 415, "no image that can be read"),
        (b"", 415, "no image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "no image that can be read"),
        (DATA[:300], 422, "damaged"),
        (b"\xff\xd8\xff" + b"x" * 90, 422, "damaged"),
        (bomb(), 413, "megapixels"),
    ],
)
def test_what_is_no_image(client: Client, data: bytes, status: int, message: str) -> None:
    answer = client().put("/api/uploads", content=data, headers=BYTES)
    assert answer.status_code == status and message in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "more", "status", "message"),
    [
        ("POST", "/api/masks", {"content": "{}", "headers": {"Content-Type": "text/plain"}}, 415, "application/json"),
        ("POST", "/api/masks", {"data": {"image": SHA}}, 415, "application/json"),
        ("PUT", "/api/uploads", {"files": {"x": DATA}}, 415, "octet-stream"),
        ("POST", "/api/masks", {"content": b"{", "headers": JSON}, 400, "not understood"),
        ("POST", "/api/masks", {"json": ask([{"x": 1}])}, 400, "y: Field required"),
        ("POST", "/api/masks", {"json": ask([{"x": 500, "y": 1}], name="below/a.png")}, 400, "outside of the image"),
        ("POST", "/api/masks", {"json": ask([CLICK] * (MAX_CLICKS + 1))}, 400, "at most 200"),
        ("POST", "/api/masks", {"json": ask([CLICK], steps=99)}, 400, "less than or equal"),
        ("POST", "/api/masks", {"json": ask([CLICK], uri="http://x")}, 400, "uri"),
        ("POST", "/api/masks", {"json": {**ask([CLICK]), "image": "http://x"}}, 400, "image"),
        ("POST", "/api/masks", {"content": b"[" + b"1," * MAX_JSON, "headers": JSON}, 413, "at most 1 MiB"),
        ("POST", "/api/masks", {"content": iter([b"1" * MAX_JSON] * 2), "headers": JSON}, 413, "at most 1 MiB"),
        ("GET", "/api/images/notes.txt", {}, 404, "no image"),
        ("GET", "/api/images/..%2Foutside.png", {}, 404, "no image"),
        ("GET", "/api/images/%2Fetc%2Fpasswd", {}, 404, "no image"),
        ("GET", "/api/images/link.png", {}, 403, "leads out of the folder"),
        ("GET", "/api/thumbnails/link.png", {}, 403, "leads out of the folder"),
        ("GET", "/page/..%2Fweb.py", {}, 404, ""),
        ("GET", "/page/web.py", {}, 404, "no file"),
        ("GET", "/nowhere", {}, 404, "see /api"),
        ("GET", "/api/settings", {"headers": {"Host": "evil.example"}}, 403, "another name"),
        ("GET", "/api/settings", {"headers": {"Host": "["}}, 403, "another name"),
        ("GET", "/api/settings", {"headers": {"Origin": "http://evil.example"}}, 403, "another site"),
        ("POST", "/api/masks", {"json": {}, "headers": {"Origin": "null"}}, 403, "another site"),
    ],
)
def test_refusals(client: Client, method: str, path: str, more: dict[str, Any], status: int, message: str) -> None:
    answer = client().request(method, path, **more)
    assert answer.status_code == status and message in answer.json()["error"]
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_file_too_large_and_too_many_clicks_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    large = client().put("/api/uploads", content=b"\0" * (pictures.MAX_BYTES + 1), headers=BYTES)
    assert large.status_code == 413
    busy = client(gate=Gate(0)).post("/api/masks", json=ask([CLICK], name="below/a.png"))
    assert busy.status_code == 429 and busy.headers["retry-after"] == "1" and "try again" in busy.json()["error"]


def test_without_a_folder_and_without_out(client: Client) -> None:
    web = client(folder=None, saves=False, clerk=Clerk(""))
    assert "--images" in web.get("/api/images").json()["error"]
    upload = web.put("/api/uploads", content=DATA, headers=BYTES).json()
    assert web.post("/api/masks", json=ask([CLICK])).json()["passes"] == 1
    assert "--out" in web.put(f"/api/results/{upload['name']}/x", json=ask([CLICK])).json()["error"]
    assert web.post(f"/api/holds/{upload['name']}", json={"client": "1"}).json() == {"holder": None}


def test_the_token(client: Client) -> None:
    web = client(TOKEN)
    assert web.get("/").status_code in (200, 404) and web.get("/openapi.json").status_code == 200
    assert "<dt><code>POST /api/masks</code>" in web.get("/api").text
    basic = base64.b64encode(f"any:{TOKEN}".encode()).decode()
    for sent, status in (
        ("", 401),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer ü", 401),
        ("Basic !", 401),
        (f"Bearer {TOKEN}", 200),
        (f"Basic {basic}", 200),
    ):
        answer = web.get("/api/settings", headers=[(b"Authorization", sent.encode("latin-1"))])
        assert answer.status_code == status
    assert web.get(f"/api/settings?token={TOKEN}").status_code == 401
    assert web.get("/", headers={"Origin": HERE}).status_code != 403


def test_names_of_a_server() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("example.org")
    assert served_names("127.0.0.1", ["Proxy.Example"]) == ["127.0.0.1", "::1", "localhost", "proxy.example"]
    assert "0.0.0.0" in served_names("0.0.0.0", [])
