"""The annotator's HTTP interface: what is asked for becomes calls of the clicker, the folder and the results."""

from __future__ import annotations

from collections.abc import Sequence
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
from pipeline.serve.annotator import Annotator, Asked
from pipeline.serve.clicker import MAX_CLICKS, MAX_STEPS
from pipeline.serve.folder import type_of
from pipeline.serve.guard import Guard, too_long
from pipeline.serve.pictures import MAX_BYTES, MAX_PIXELS, sha_of
from pipeline.serve.refusal import Refused

MAX_LISTED = 1000  # images of one answer
OBJECT = ("id", "label", "clicks", "steps", "adaptive", "version", "box", "png", "score")


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

    def asked(self, name: str | None = None) -> Asked:
        clicks = [to_click(point) for point in self.clicks]
        return Asked(self.image, name or self.name, clicks, self.steps, self.adaptive)


class Labelled(Clicked):
    """An object to save: `version` as it was last seen, none of a new one."""

    label: str = Field("", max_length=200)
    version: str | None = Field(None, max_length=64)


class Done(_Body):
    """Whether an image is done."""

    done: bool


class Hold(_Body):
    """A client with an image open: a random id of its own, and what others read of it."""

    client: str = Field(min_length=1, max_length=64)
    who: str = Field("", max_length=200)


def to_click(point: Point) -> Click:
    row, col = (int(v) if v.is_integer() else v for v in (point.y, point.x))
    return Click(row, col, point.positive)


def application(annotator: Annotator, names: Sequence[str], token: str = "") -> FastAPI:
    """The ASGI application; `names` and `token` as of `Guard`."""
    api = FastAPI(title="CFR-ICL annotator", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    api.add_middleware(Guard, names=names, token=token)
    _errors(api)

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
            "checkpoint": annotator.checkpoint[0],
            "cfr": {"steps": cfr.steps, "adaptive": cfr.adaptive, "clicks": cfr.clicks, "crop": cfr.crop},
            "folder": annotator.folder is not None,
            "saves": annotator.saves,
            "limits": {"bytes": MAX_BYTES, "pixels": MAX_PIXELS, "clicks": MAX_CLICKS, "steps": MAX_STEPS},
        }

    @api.get("/api/images")
    def images(start: int = 0, count: int = 100, client: str = "") -> dict[str, Any]:
        """Some of the folder's images, by name; `client`: whose own hold is no holder to it."""
        found = annotator.images.names()
        first = max(0, start)
        done, listed = annotator.clerk.overview(found[first : first + min(max(0, count), MAX_LISTED)], client)
        return {"total": len(found), "done": done, "images": listed}

    @api.get("/api/images/{name:path}")
    def image(name: str) -> Response:
        """The bytes of an image of the folder; the header X-Image tells their SHA-256."""
        data = annotator.image(name)
        return Response(data, media_type=type_of(name), headers={"X-Image": sha_of(data)})

    @api.get("/api/shown/{image}")
    def shown(image: str, name: str | None = None) -> Response:
        """A known image as PNG, for clients that cannot show its file; `image` and `name` as of a click."""
        return Response(annotator.shown(image, name), media_type="image/png")

    @api.get("/api/thumbnails/{name:path}")
    def small(name: str) -> Response:
        """A JPEG of at most 160 pixels a side."""
        data = annotator.images.thumbnail(name)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})

    @api.put("/api/uploads")
    async def upload(request: Request) -> dict[str, Any]:
        """Take the bytes of an image file; answers its SHA-256, its size as it is shown, and its name in results."""
        data = await request.body()
        if len(data) > MAX_BYTES:
            raise Refused(413, too_long(MAX_BYTES))

        def take() -> dict[str, Any]:
            picture = annotator.upload(data)
            size = {"width": picture.size[1], "height": picture.size[0]}
            return {"image": picture.sha, **size, "name": picture.upload_name}

        return await run_in_threadpool(take)

    @api.post("/api/masks")
    def mask(asked: Clicked) -> dict[str, Any]:
        """The mask after all clicks of an object, as a PNG inside of its box."""
        answer = annotator.answer(asked.asked())
        return {
            "box": answer.box,
            "png": answer.png,
            "score": round(answer.score, 4),
            "passes": answer.passes,
            "milliseconds": round(answer.milliseconds, 1),
        }

    @api.get("/api/results/{name:path}")
    def results(name: str, client: str = "") -> dict[str, Any]:
        """The saved objects of an image, and who has it open."""
        annotator.check_saves(name)
        found, holder = annotator.clerk.objects(name, client)
        return {"objects": [{field: one[field] for field in OBJECT} for one in found], "holder": holder}

    @api.put("/api/results/{name:path}/{key}")
    def save(name: str, key: str, body: Labelled) -> dict[str, Any]:
        """Save an object: the server makes its mask from the clicks."""
        return {"version": annotator.save(body.asked(name), key, body.label.strip(), body.version)}

    @api.delete("/api/results/{name:path}/{key}")
    def delete(name: str, key: str, version: str | None = None) -> dict[str, Any]:
        """Delete an object, of the version that was last seen."""
        annotator.check_saves(name, key)
        annotator.clerk.delete(name, key, version)
        return {}

    @api.post("/api/results/{name:path}/done")
    def done(name: str, body: Done) -> dict[str, Any]:
        """Call an image done, or open again."""
        annotator.check_saves(name)
        annotator.clerk.set_done(name, body.done)
        return {"done": body.done}

    @api.post("/api/holds/{name:path}")
    def hold(name: str, body: Hold) -> dict[str, Any]:
        """Tell every 10 s that an image is open; answers who has it open besides."""
        annotator.check_name(name)
        return {"holder": annotator.clerk.hold(name, body.client, body.who)}

    return api


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
