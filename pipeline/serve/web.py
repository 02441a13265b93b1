"""The annotator's HTTP interface: what is asked for becomes calls of the clicker, the folder and the results."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from pipeline.clicks.encode import Click
from pipeline.errors import Unavailable, UserError
from pipeline.serve import pages
from pipeline.serve.clicker import MAX_CLICKS, MAX_STEPS, Answer, Clicker
from pipeline.serve.folder import Folder, type_of
from pipeline.serve.guard import Guard, too_long
from pipeline.serve.pictures import MAX_BYTES, MAX_PIXELS, Picture, read_picture, sha_of
from pipeline.serve.refusal import Refused

WAITING = 24  # clicks that may be in work or wait in one process; the next one is refused


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Point(_Body):
    """A click: pixels of the image as it is shown, x to the right, y down, from 0."""

    x: float
    y: float
    positive: bool = True


class Clicked(_Body):
    """An object: its image and all its clicks in their order.

    `image`: SHA-256 of the file, as an upload answers it. `name`: of the image in the folder, if it is of the folder.
    """

    image: str = Field(pattern=r"^[0-9a-f]{64}$")
    name: str | None = Field(None, max_length=1024)
    clicks: list[Point] = Field(max_length=MAX_CLICKS)
    steps: int | None = Field(None, ge=0, le=MAX_STEPS)
    adaptive: bool | None = None


@dataclass(frozen=True)
class Annotator:
    """What answers requests.

    Attributes:
        folder: of images to annotate, None without.
        about: what /api/settings tells of the checkpoint.
    """

    clicker: Clicker
    folder: Folder | None
    about: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate", Gate(WAITING))

    def picture(self, sha: str, name: str | None) -> Picture:
        """An image that a client names by its hash.

        Raises:
            Refused: it has to be sent again (404, upload), or the folder has another one of that name (409).
        """
        found = self.clicker.picture(sha)
        if found is None and name is not None and self.folder is not None:
            data = self.folder.read(name)
            if sha_of(data) != sha:
                raise Refused(409, f"{name!r} has changed in the folder: open it again.")
            found = read_picture(data)
            self.clicker.show(found)
        if found is None:
            raise Refused(404, "The image is not known here (any more): send it again.", upload=True)
        return found

    def answer(self, asked: Clicked) -> Answer:
        """The mask of clicks; see `Clicker.answer`."""
        clicks = [to_click(point) for point in asked.clicks]
        return self.clicker.answer(self.picture(asked.image, asked.name), clicks, asked.steps, asked.adaptive)


def to_click(point: Point) -> Click:
    row, col = (int(v) if v.is_integer() else v for v in (point.y, point.x))
    return Click(row, col, point.positive)


class Gate:
    """Lets so many in at a time, and refuses the next one."""

    def __init__(self, most: int) -> None:
        self._most, self._inside = most, 0
        self._lock = threading.Lock()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Raises: Refused: too many are inside (429)."""
        with self._lock:
            if self._inside >= self._most:
                raise Refused(429, "Too many clicks are waiting: try again in a second.")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1


def application(annotator: Annotator, names: Sequence[str], token: str = "") -> FastAPI:
    """The ASGI application; `names` and `token` as of `Guard`."""
    api = FastAPI(title="CFR-ICL annotator", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    api.add_middleware(Guard, names=names, token=token)
    _errors(api)
    gate = Gate(WAITING)

    @api.get("/", include_in_schema=False)
    def page() -> Response:
        return pages.read("index.html")

    @api.get("/page/{name}", include_in_schema=False)
    def page_file(name: str) -> Response:
        return pages.read(name)

    @api.get("/api", include_in_schema=False)
    def interface() -> Response:
        return pages.interface(api.openapi())

    @api.get("/api/settings")
    def settings() -> dict[str, Any]:
        """The checkpoint, how it is asked, and the limits."""
        cfr = annotator.clicker.cfr
        return {
            "checkpoint": annotator.about["checkpoint"],
            "cfr": {"steps": cfr.steps, "adaptive": cfr.adaptive, "clicks": cfr.clicks, "crop": cfr.crop},
            "folder": annotator.folder is not None,
            "saves": False,
            "limits": {"bytes": MAX_BYTES, "pixels": MAX_PIXELS, "clicks": MAX_CLICKS, "steps": MAX_STEPS},
        }

    @api.get("/api/images")
    def images(start: int = 0, count: int = 100) -> dict[str, Any]:
        """Some of the folder's images, by name."""
        found = _folder(annotator).names()
        listed = found[max(0, start) : max(0, start) + min(max(0, count), 1000)]
        return {
            "total": len(found),
            "images": [{"name": name, "state": "open", "objects": 0, "holder": None} for name in listed],
        }

    @api.get("/api/images/{name:path}")
    def image(name: str) -> Response:
        """The bytes of an image of the folder; the header X-Image tells their SHA-256."""
        data = _folder(annotator).read(name)
        return Response(data, media_type=type_of(name), headers={"X-Image": sha_of(data)})

    @api.get("/api/thumbnails/{name:path}")
    def small(name: str) -> Response:
        """A JPEG of at most 160 pixels a side."""
        data = _folder(annotator).thumbnail(name)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})

    @api.put("/api/uploads")
    async def upload(request: Request) -> dict[str, Any]:
        """Take the bytes of an image file; answers its SHA-256 and its size as it is shown."""
        data = await request.body()
        if len(data) > MAX_BYTES:
            raise Refused(413, too_long(MAX_BYTES))

        def take() -> dict[str, Any]:
            picture = read_picture(data)
            annotator.clicker.show(picture)
            return {"image": picture.sha, "width": picture.size[1], "height": picture.size[0]}

        return await run_in_threadpool(take)

    @api.post("/api/masks")
    def mask(asked: Clicked) -> dict[str, Any]:
        """The mask after all clicks of an object, as a PNG inside of its box."""
        with gate.entered():
            answer = annotator.answer(asked)
        return {
            "box": answer.box,
            "png": answer.png,
            "score": round(answer.score, 4),
            "passes": answer.passes,
            "milliseconds": round(answer.milliseconds, 1),
        }

    return api


def _folder(annotator: Annotator) -> Folder:
    if annotator.folder is None:
        raise Refused(404, "This server has no folder of images: start it with --images FOLDER.")
    return annotator.folder


def _errors(api: FastAPI) -> None:
    """Every error as {"error": one sentence}."""

    @api.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        extra = {"Retry-After": "1"} if error.status == 429 else None
        return JSONResponse(error.content, error.status, extra)

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"The request is not understood: {where or 'body'}: {first['msg']}."}, 400)

    @api.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        text = f"There is nothing at {request.url.path}: see /api." if error.status_code == 404 else str(error.detail)
        return JSONResponse({"error": text}, error.status_code)

    @api.exception_handler(UserError)
    @api.exception_handler(Unavailable)
    async def storage_fails(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 503)
