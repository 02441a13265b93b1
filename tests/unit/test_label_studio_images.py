"""Where the image of a Label Studio task may be taken from: a folder, and one Label Studio, never another host."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch

from pipeline.config import Cfr
from pipeline.errors import UserError
from pipeline.serve import label_studio_images
from pipeline.serve.annotator import Annotator
from pipeline.serve.clerk import Clerk
from pipeline.serve.clicker import Clicker
from pipeline.serve.folder import Folder
from pipeline.serve.label_studio_images import LabelStudio, TaskImages, folder_name
from pipeline.serve.refusal import Refused
from tests.made import SIDE, small_model

NAMES = ["a.jpg", "cats/a.jpg", "cats/b c.jpg", "cats/deep/d.jpg", "ü-1.jpg", "twice.jpg", "x/twice.jpg"]


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("/data/local-files/?d=photos/set/cats/a.jpg", "cats/a.jpg"),
        ("/data/local-files/?d=set/a.jpg", "a.jpg"),
        ("/data/local-files/?d=cats/deep/d.jpg", "cats/deep/d.jpg"),
        ("/data/local-files/?d=d.jpg", "cats/deep/d.jpg"),
        ("/data/local-files/?d=cats%2Fb%20c.jpg", "cats/b c.jpg"),
        ("http://localhost:8080/data/local-files/?d=cats/b c.jpg", "cats/b c.jpg"),
        ("/data/upload/12/0a1b2c3d-b_c.jpg", "cats/b c.jpg"),
        ("/data/upload/12/0a1b2c3d-%C3%BC-1.jpg", "ü-1.jpg"),
        ("/storage-data/uploaded/?filepath=upload/12/0a1b2c3d-d.jpg", "cats/deep/d.jpg"),
        ("s3://bucket/photos/set/cats/a.jpg", "cats/a.jpg"),
        ("https://elsewhere.example/cats/deep/d.jpg?x=1", "cats/deep/d.jpg"),
    ],
)
def test_an_image_of_the_folder(reference: str, name: str) -> None:
    assert folder_name(reference, "/mnt/photos/set/", NAMES) == name


@pytest.mark.parametrize(
    ("reference", "status"),
    [
        ("/data/local-files/?d=dogs/a.jpg", 404),  # another folder's image of that name
        ("/data/local-files/?d=other/set/cats/a.jpg", 404),
        ("/data/upload/12/0a1b2c3d-e.jpg", 404),
        ("/data/upload/12/a.jpg.png", 404),
        ("s3://bucket/more/set/cats/a.jpg", 404),
        ("/data/local-files/?d=twice.jpg", 409),
        ("/data/upload/12/0a1b2c3d-a.jpg", 409),
        ("/data/local-files/?d=cats/../a.jpg", 422),
        ("/data/local-files/?d=cats/%2e%2e/a.jpg", 422),
        ("/data/local-files/?d=", 404),
        ("data:image/png;base64,iVBORw0KGgo=", 422),
        ("http://[half/a.jpg", 422),
        ("", 422),
    ],
)
def test_no_image_of_the_folder(reference: str, status: int) -> None:
    with pytest.raises(Refused) as refused:
        folder_name(reference, "/mnt/photos/set", NAMES)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("/data/upload/1/0a1b2c3d-a.jpg", "/data/upload/1/0a1b2c3d-a.jpg"),
        ("/data/local-files/?d=a/b.jpg", "/data/local-files/?d=a/b.jpg"),
        ("http://studio.example/data/upload/1/a.jpg", "/data/upload/1/a.jpg"),
        ("http://STUDIO.example:80/data/upload/1/a.jpg", "/data/upload/1/a.jpg"),
        ("/storage-data/uploaded/?filepath=upload/1/a.jpg", "/storage-data/uploaded/?filepath=upload/1/a.jpg"),
        ("/tasks/3/resolve/?fileuri=abc", "/tasks/3/resolve/?fileuri=abc"),
        ("s3://b/k.jpg", f"/tasks/7/resolve/?fileuri={base64.urlsafe_b64encode(b's3://b/k.jpg').decode()}"),
        ("https://studio.example/data/upload/1/a.jpg", None),
        ("http://studio.example:8080/data/upload/1/a.jpg", None),
        ("http://studio.example:99999/data/upload/1/a.jpg", None),
        ("http://studio.example@evil.example/data/upload/1/a.jpg", None),
        ("http://evil.example/data/upload/1/a.jpg", None),
        ("//evil.example/data/upload/1/a.jpg", None),
        ("/data/upload/../../api/users", None),
        ("/data/upload/%2e%2e/%2e%2e/api/users", None),
        ("/data/upload/..\\..\\api", None),
        ("/api/users", None),
        ("/user/logout", None),
        ("file:///etc/passwd", None),
        ("a.jpg", None),
    ],
)
def test_what_lies_at_label_studio(reference: str, path: str | None) -> None:
    assert LabelStudio("http://studio.example").path(reference, 7) == path


def test_label_studio_below_a_path() -> None:
    studio = LabelStudio("https://host.example/studio/")
    assert studio.path("/studio/data/upload/1/a.jpg", 1) == "/studio/data/upload/1/a.jpg"
    assert studio.path("/data/upload/1/a.jpg", 1) == "/studio/data/upload/1/a.jpg"


@pytest.mark.parametrize(
    "url", ["", "studio.example", "ftp://studio.example", "http://", "http://[", "http://a:b@studio.example"]
)
def test_no_address(url: str) -> None:
    with pytest.raises(UserError, match="--label-studio-url"):
        LabelStudio(url)


PNG = cv2.imencode(".png", np.full((20, 30, 3), 77, np.uint8))[1].tobytes()
LEGACY, PERSONAL = "0" * 40, "head.body.signature"


class Standing(ThreadingHTTPServer):
    """In Label Studio's place.

    Attributes:
        asked: (path, Authorization) of every request.
        good: the Authorization that opens images.
    """

    asked: list[tuple[str, str | None]]
    good: str


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = cast(Standing, self.server)
        sent = self.headers.get("Authorization")
        server.asked.append((self.path, sent))
        if self.path.startswith("/data/upload/9/"):
            return self.answer(302, b"", Location="http://127.0.0.1:9/a.png")
        if sent != server.good:
            return self.answer(401, b"{}")
        if self.path.startswith("/data/upload/1/"):
            return self.answer(200, PNG)
        if self.path.startswith("/data/upload/2/"):
            return self.answer(200, b"0" * 5000)
        return self.answer(404, b"{}")

    def do_POST(self) -> None:
        server = cast(Standing, self.server)
        server.asked.append((self.path, self.headers.get("Authorization")))
        known = PERSONAL.encode() in self.rfile.read(int(self.headers["Content-Length"]))
        server.good = f"Bearer access-{len(server.asked)}"
        self.answer(200 if known else 401, f'{{"access": "access-{len(server.asked)}"}}'.encode())

    def answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...  # pyright: ignore[reportIncompatibleMethodOverride]


@pytest.fixture
def standing() -> Iterator[Standing]:
    with Standing(("127.0.0.1", 0), Answers) as server:
        server.asked, server.good = [], f"Token {LEGACY}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def at(server: Standing, token: str) -> LabelStudio:
    return LabelStudio(f"http://127.0.0.1:{server.server_port}", token)


def annotator(folder: Path | None = None) -> Annotator:
    clicker = Clicker(small_model(), Cfr(crop=SIDE), torch.device("cpu"))
    return Annotator(clicker, Clerk(""), Folder(str(folder)) if folder else None, False, ("small", "0" * 64))


def test_an_image_is_fetched_once(standing: Standing) -> None:
    images = TaskImages(annotator(), at(standing, LEGACY))
    for _ in range(3):
        assert images.picture("/data/upload/1/a.png", 1).size == (20, 30)
    assert standing.asked == [("/data/upload/1/a.png", f"Token {LEGACY}")]


def test_a_personal_token_is_renewed(standing: Standing) -> None:
    studio = at(standing, PERSONAL)
    assert studio.fetch("/data/upload/1/a.png") == PNG
    standing.good = "Bearer none"  # the access token has run out
    assert studio.fetch("/data/upload/1/b.png") == PNG
    paths = [path for path, _ in standing.asked]
    renewal = "/api/token/refresh/"
    assert paths == [renewal, "/data/upload/1/a.png", "/data/upload/1/b.png", renewal, "/data/upload/1/b.png"]
    assert PERSONAL not in str(standing.asked), "the personal token itself goes to its renewal alone"


@pytest.mark.parametrize(
    ("token", "path", "status"),
    [
        (LEGACY, "/data/upload/9/a.png", 403),  # sends to another host
        (LEGACY, "/data/upload/3/a.png", 404),
        (LEGACY, "/data/upload/2/a.png", 413),
        ("1" * 40, "/data/upload/1/a.png", 403),
        ("", "/data/upload/1/a.png", 403),
        ("a.b.c", "/data/upload/1/a.png", 403),
    ],
)
def test_images_that_are_not_given(
    standing: Standing, token: str, path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_studio_images, "MAX_BYTES", 4000)
    with pytest.raises(Refused, match=r"label-studio|shrink") as refused:
        at(standing, token).fetch(path)
    assert refused.value.status == status and len(standing.asked) == 1
    assert not token or token not in refused.value.text


def test_no_label_studio_there() -> None:
    with Standing(("127.0.0.1", 0), Answers) as server:
        studio = at(server, LEGACY)
    with pytest.raises(Refused, match="is it running") as refused:
        studio.fetch("/data/upload/1/a.png")
    assert refused.value.status == 503


def test_other_hosts_are_never_asked(standing: Standing) -> None:
    other = f"http://127.0.0.1:{standing.server_port}/data/upload/1/a.png"
    images = TaskImages(annotator(), LabelStudio("http://127.0.0.1:9"))
    with pytest.raises(Refused, match="no other place is asked"):
        images.picture(other, 1)
    with pytest.raises(Refused, match="--images or --label-studio-url"):
        TaskImages(annotator(), None).picture(other, 1)
    assert standing.asked == []


def test_cloud_storage_is_the_folder_and_uploads_are_fetched(standing: Standing, tmp_path: Path) -> None:
    for name, grey in (("a.png", 10), ("b.png", 20)):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), grey, np.uint8))
    images = TaskImages(annotator(tmp_path), at(standing, LEGACY))
    assert images.picture("s3://bucket/b.png", 1).pixels[0, 0, 0] == 20
    assert images.picture("/data/upload/1/a.png", 1).pixels[0, 0, 0] == 77
    assert images.picture("a.png", 1).pixels[0, 0, 0] == 10
