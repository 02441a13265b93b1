"""What a reader of the documentation has at hand: pictures, masks, a published file. All of it is made."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from pipeline.data.readers.scenes import draw_scene
from pipeline.model.checkpoints import load_model
from pipeline.model.published import to_published
from pipeline.weights import located

SIZE = (240, 320)
ROOT = Path(__file__).resolve().parents[2]


def give(folder: Path) -> None:
    """Fill a new folder as the pages assume it.

    photo.jpg, photos/{cat,street}.jpg    pictures
    mine/images, mine/masks               four pictures with a mask each
    labelled/images, annotations.json     the same as a COCO file
    weights/simpleclick.pth               the packaged model in the published layout, as a stand-in
    docs/                                 the repository's, for its photograph
    """
    for name in ("photos", "mine/images", "mine/masks", "labelled/images", "weights"):
        (folder / name).mkdir(parents=True)
    (folder / "docs").symlink_to(ROOT / "docs")
    images, annotations = [], []
    for index in range(4):
        scene = draw_scene(np.random.default_rng(index), *SIZE)
        bgr, mask = scene.image[..., ::-1], scene.things[-1].mask
        cv2.imwrite(str(folder / f"mine/images/{index}.jpg"), bgr)
        cv2.imwrite(str(folder / f"labelled/images/{index}.jpg"), bgr)
        cv2.imwrite(str(folder / f"mine/masks/{index}.png"), mask.astype(np.uint8) * 255)
        images.append({"id": index, "file_name": f"{index}.jpg", "height": SIZE[0], "width": SIZE[1]})
        contour = max(cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
        annotations.append(
            {
                "id": index + 1,
                "image_id": index,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": [contour.reshape(-1).tolist()],
                "bbox": list(cv2.boundingRect(contour)),
                "area": int(mask.sum()),
            }
        )
        if index < 3:
            name = ("photo.jpg", "photos/cat.jpg", "photos/street.jpg")[index]
            cv2.imwrite(str(folder / name), bgr)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "labelled/annotations.json").write_text(json.dumps(content))
    torch.save(to_published(load_model(located("small"))[0]), folder / "weights/simpleclick.pth")
