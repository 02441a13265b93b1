"""The routes of Label Studio's protocol for models ("ML backend"), for its interactive pre-annotations."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from pipeline.serve import label_studio
from pipeline.serve.annotator import Annotator
from pipeline.serve.label_studio_images import TaskImages
from pipeline.serve.refusal import Refused


def routes(annotator: Annotator, images: TaskImages) -> APIRouter:
    """Masks for what is clicked in Label Studio, on `images`; nothing is saved here."""
    router = APIRouter(tags=["Label Studio"])
    name, sha = annotator.checkpoint
    version = f"{name.rstrip('/').rsplit('/', 1)[-1]} {sha[:8]}"

    @router.get("/health")
    def health() -> dict[str, Any]:
        """That the server is up."""
        return {"status": "UP", "model_class": "CFR-ICL"}

    @router.post("/setup")
    def setup() -> dict[str, Any]:
        """The version of the model. The token of Label Studio's that comes with this request is not read."""
        return {"model_version": version}

    @router.get("/versions")
    def versions() -> dict[str, Any]:
        return {"versions": [version]}

    @router.post("/webhook")
    def webhook() -> dict[str, Any]:
        """What Label Studio tells of annotations is not needed: nothing is trained here."""
        return {}

    @router.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        """Masks for a task's keypoints."""
        body = await request.body()
        return await run_in_threadpool(answered, body)

    def answered(body: bytes) -> dict[str, Any]:
        try:
            asked = label_studio.read(_json(body))
            if asked is None:
                return label_studio.NOTHING
            with annotator.gate.entered():
                return _answer(asked)
        except Refused as refused:
            annotator.clerk.tell(f"Label Studio was refused ({refused.status}): {refused.text}")  # it shows no reason
            raise

    def _answer(asked: label_studio.Asked) -> dict[str, Any]:
        picture = images.picture(asked.reference, asked.task)
        if picture.size != asked.size:
            shown, found = (f"{size[1]} x {size[0]}" for size in (asked.size, picture.size))
            raise Refused(409, f"Label Studio shows an image of {shown} pixels; the one found here has {found}.")
        regions = []
        for one in asked.objects:
            answer = annotator.clicker.answer(picture, one.clicks)
            regions.append(label_studio.region(one, answer.mask, answer.score))
        return label_studio.answer(regions, version)

    return router


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is no JSON.") from error
