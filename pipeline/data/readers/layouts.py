"""Signs of each raw layout: which sources a folder would fit, for the message when it is not the one asked for."""

from __future__ import annotations

import re

from pipeline import storage
from pipeline.errors import Unavailable, UserError

# Of what lies directly in the root: every pattern must be found (folders end in /). Several lines: any of them.
SIGNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "coco-lvis": ((r"(train|val)2017/", r"annotations/"),),
    "coco-instances": (
        (r"annotations\.json(\.gz)?",),
        (r"annotations/", r"images/|(train|val|test)\d*/"),
        (r"_annotations\.coco\.json",),
        (r"result\.json", r"images/"),
        (r"train/", r"(valid|test)/"),
    ),
    "merged": ((r"train/", r"val/"), (r"hannotation\.pickle",)),
    "sbd": ((r"img/", r"inst/"),),
    "voc": ((r"JPEGImages/", r"SegmentationObject/"),),
    "folder": ((r"images/", r"masks/"), (r"img/", r"gt/")),
    "grabcut": ((r"data_GT/", r"boundary_GT/"),),
    "berkeley": ((r"images/", r"masks/"),),
    "davis": ((r"img/", r"gt/"),),
    "coco-mval": ((r"img/", r"gt/"),),
    "brats": ((r"image/", r"annotation/"),),
    "sstem": ((r"raw/", r"mitochondria/"),),
    "oaizib": ((r"test/",),),
}
LOOKS = {
    "coco-lvis": "train2017/ val2017/ annotations/ of COCO panoptic and LVIS v1, under their published names",
    "merged": "train/ and val/, each images/ masks/*.pickle hannotation.pickle (COCO+LVIS as CFR-ICL publishes it)",
    "sbd": "img/ inst/*.mat train.txt val.txt",
    "voc": "JPEGImages/ SegmentationObject/ ImageSets/Segmentation/ of PASCAL VOC 2012",
    "voc-grey": "as voc, its masks read by grey values as in the published evaluations",
    "coco-instances": "images/ and annotations.json in COCO's format, or an export of CVAT, Label Studio, Roboflow",
    "synthetic": "no files: pictures are drawn (--root names the folder that they are drawn into)",
    "folder": "your own: images/ masks/ or img/ gt/, a mask named as its image (NAME_1, NAME_2: more objects)",
    "grabcut": "data_GT/ boundary_GT/",
    "berkeley": "images/ masks/, the masks grey as those of grabcut",
    "davis": "img/ gt/",
    "coco-mval": "img/ gt/",
    "brats": "image/ annotation/",
    "sstem": "raw/ mitochondria/",
    "oaizib": "test/image/ test/annotations/",
}
"""What lies in the root of each source, for `jobs.prepare --help`."""
ALIKE = {"voc-grey": "voc"}
SHOWN = 8


def other_layout(source: str, root: str) -> str:
    """What lies in the root and which sources that would fit, as the end of a message; "" when it fits `source`."""
    try:
        if (source not in SIGNS and source not in ALIKE) or not storage.is_folder(root):
            return ""
        inside = entries(root)
        if fits(ALIKE.get(source, source), inside):
            return ""
        found = f" {root} holds {', '.join(inside[:SHOWN])}{' and more' if len(inside) > SHOWN else ''}"
        below = [name for name in inside if name.endswith("/")]
        good = [name for name in SIGNS if name != source and fits(name, inside)]
        if good:
            return f"{found}: that fits {' or '.join(good)}."
        for name in below[:SHOWN]:
            deeper = entries(storage.join(root, name.rstrip("/")))
            good = [other for other in (source, *SIGNS) if fits(other, deeper)]
            if good:
                return (
                    f"{found}; {name} would fit {' or '.join(dict.fromkeys(good))}: --root {storage.join(root, name)}"
                )
        return f"{found}." if inside else f" {root} is empty."
    except (UserError, Unavailable):  # a hint is no reason for another message
        return ""


def entries(folder: str) -> list[str]:
    """Names directly in a folder, folders first and with / at the end."""
    folders = [uri.rstrip("/").rsplit("/", 1)[-1] + "/" for uri in storage.list_folders(folder)]
    return folders + [uri.rsplit("/", 1)[-1] for uri in storage.list_files(folder, recursive=False)]


def fits(source: str, inside: list[str]) -> bool:
    return any(
        all(any(re.fullmatch(sign, name, re.IGNORECASE) for name in inside) for sign in signs)
        for signs in SIGNS.get(source, ())
    )
