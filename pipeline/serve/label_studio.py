"""What Label Studio asks a model, and what it takes as an answer: keypoints to clicks, masks to brush regions.

Label Studio sends the keypoints that were set with its smart tool, of one label at a time, each `is_positive` unless
the Alt key was held; places are percent of the image's width and height. It takes regions of the `BrushLabels` that
stand beside the `KeyPointLabels` in the project's labelling configuration. Nothing here reads an image or a network.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from pipeline.clicks.encode import Click
from pipeline.serve import label_studio_rle
from pipeline.serve.refusal import Refused


@dataclass(frozen=True)
class Clicked:
    """The keypoints of a label on a task's image: an object.

    Attributes:
        id: of the region that its mask becomes; the same as long as its first keypoint stays.
        label: of the region.
        brush: name of the BrushLabels tag.
        image: name of the Image tag.
    """

    id: str
    label: str
    brush: str
    image: str
    clicks: tuple[Click, ...]


@dataclass(frozen=True)
class Asked:
    """A task with keypoints.

    Attributes:
        task: its number.
        reference: what the task says of where its image lies.
        size: (H, W) of the image as it is shown.
        objects: one for each label.
    """

    task: int
    reference: str
    size: tuple[int, int]
    objects: tuple[Clicked, ...]


def read(body: Any) -> Asked | None:
    """What a body of /predict asks; None where nobody has clicked.

    Raises:
        Refused: no such body (400), or a labelling configuration or keypoints that it has no answer to (422).
    """
    try:
        tasks, config = list(body["tasks"]), str(body["label_config"])
        context = (body.get("params") or {}).get("context") or {}
        # A click of the smart tool says is_positive; any other keypoint is an annotation, or left from before a reload.
        points = [one for one in context.get("result") or [] if "is_positive" in one]
        points = [one for one in points if one.get("type") == "keypointlabels"]
        if not points:
            return None
        if len(tasks) != 1:
            raise Refused(400, f"Keypoints are of one task, not of {len(tasks)}.")
        first = points[0]
        tags = Tags(config)
        data = tags.data(str(first["to_name"]))
        size = int(first["original_height"]), int(first["original_width"])
        labels = list(dict.fromkeys(_label(one) for one in points))
        objects = [_clicked([one for one in points if _label(one) == label], label, size, tags) for label in labels]
        reference = tasks[0]["data"].get(data)
        if not isinstance(reference, str) or not reference:
            raise Refused(422, f"Task {tasks[0]['id']} has no text {data!r} that says where its image is.")
        return Asked(int(tasks[0]["id"]), reference, size, tuple(objects))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise Refused(400, "This is no request of Label Studio's for a prediction.") from error


def _label(point: Mapping[str, Any]) -> str:
    return str(point["value"]["keypointlabels"][0])


def _clicked(points: Sequence[Mapping[str, Any]], label: str, size: tuple[int, int], tags: Tags) -> Clicked:
    image = str(points[0]["to_name"])
    for point in points:
        if point.get("item_index") or point["to_name"] != image:
            raise Refused(422, "A task may have one image: lists of images are not known to this network.")
        if point.get("image_rotation"):
            raise Refused(422, "The image was turned in Label Studio: turn it back before clicking.")
        if (int(point["original_height"]), int(point["original_width"])) != size:
            raise Refused(400, "Keypoints on one image differ in its size.")
    name = hashlib.sha256(f"mask of {points[0]['id']}".encode()).hexdigest()[:10]
    return Clicked(name, label, tags.brush(image, label), image, tuple(to_click(point, size) for point in points))


def to_click(point: Mapping[str, Any], size: tuple[int, int]) -> Click:
    """The pixel that a keypoint lies in; `size`: (H, W).

    Raises:
        ValueError: outside of the image.
    """
    places = []
    for axis, pixels in (("y", size[0]), ("x", size[1])):
        percent = float(point["value"][axis])
        if not 0 <= percent <= 100:
            raise ValueError(f"{axis} of a keypoint is {percent} %")
        places.append(min(pixels - 1, math.floor(percent / 100 * pixels)))
    return Click(places[0], places[1], bool(point["is_positive"]))


class Tags:
    """A labelling configuration: which tag takes masks of an image, and which entry of a task is the image."""

    def __init__(self, config: str) -> None:
        """Raises: Refused: not to be read (422)."""
        if "<!" in config.replace("<!--", ""):  # no entities, which can be made to fill the memory
            raise Refused(422, "The labelling configuration must not hold <!DOCTYPE or <![CDATA[.")
        try:
            found = list(ElementTree.fromstring(config).iter())
        except ElementTree.ParseError as error:
            raise Refused(422, f"The labelling configuration is no XML ({error}).") from error
        self._tags = [(tag, {name.lower(): value for name, value in tag.attrib.items()}) for tag in found]

    def _of(self, kind: str) -> Iterable[tuple[ElementTree.Element, dict[str, str]]]:
        return ((tag, named) for tag, named in self._tags if str(tag.tag).lower() == kind)

    def data(self, image: str) -> str:
        """The entry of a task's data that an Image tag shows.

        Raises:
            Refused: no such tag, or one of several images (422).
        """
        for _, named in self._of("image"):
            if named.get("name") == image:
                value = named.get("value", "")
                if value.startswith("$") and len(value) > 1:
                    return value[1:]
                raise Refused(422, f'<Image name="{image}"> needs value="$..." with the entry of a task that is shown.')
        raise Refused(422, f'The labelling configuration has no <Image name="{image}">.')

    def brush(self, image: str, label: str) -> str:
        """The name of the BrushLabels tag that has a label.

        Raises:
            Refused: none (422).
        """
        for tag, named in self._of("brushlabels"):
            labels = {child.attrib.get("value") for child in tag if str(child.tag).lower() == "label"}
            if named.get("toname") == image and label in labels and named.get("name"):
                return named["name"]
        raise Refused(422, f"The labelling configuration has no BrushLabels of {image} with a label {label!r}.")


def region(one: Clicked, mask: np.ndarray, score: float) -> dict[str, Any]:
    """A mask, (H, W) bool, as a region of Label Studio's; `score` between 0 and 1."""
    height, width = mask.shape
    return {
        "id": one.id,
        "from_name": one.brush,
        "to_name": one.image,
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": label_studio_rle.encode(mask), "brushlabels": [one.label]},
        "score": round(score, 4),
    }


def answer(regions: Sequence[dict[str, Any]], version: str) -> dict[str, Any]:
    """The answer of /predict for a task with keypoints; `version`: what Label Studio writes down as the model's."""
    score = min((one["score"] for one in regions), default=0.0)
    return {"results": [{"result": list(regions), "score": score, "model_version": version}]}


NOTHING: dict[str, Any] = {"results": []}
"""The answer where nobody has clicked: Label Studio then keeps no prediction."""
