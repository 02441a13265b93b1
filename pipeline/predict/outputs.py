"""What a prediction leaves: masks as PNG, a COCO file, a table and a page with some of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import pyarrow as pa

from pipeline import storage
from pipeline.data.images import decode_sample
from pipeline.data.manifest import read_group
from pipeline.errors import describe
from pipeline.evaluate.exports import ANNOTATIONS, CocoFile, MaskFacts
from pipeline.evaluate.plan import WorkUnit
from pipeline.evaluate.results import decode_mask, read_table, write_table
from pipeline.predict.click_files import ClickedObject
from pipeline.report.blocks import Block, Facts, Heading, Paragraph, Picture
from pipeline.report.closeup import Panel, Window, window_for
from pipeline.report.naming import model_name
from pipeline.report.overlay import overlay, strip, whole_image
from pipeline.report.pages import write_pages
from pipeline.storage.json_files import write_json

CLICK = pa.struct([("x", pa.float64()), ("y", pa.float64()), ("positive", pa.bool_())])
OBJECTS = pa.schema(
    [
        ("image", pa.string()),
        ("object", pa.string()),
        ("mask", pa.string()),
        ("area", pa.int64()),
        ("bbox", pa.list_(pa.int32(), 4)),
        ("clicks", pa.list_(CLICK)),
        ("forward_passes", pa.int32()),
        ("seconds", pa.float32()),
    ]
)
"""One row for each object: `mask` is the PNG's path below the output, `bbox` x, y, width and height, pixels."""
SHOWN = 12
SHOWN_HEIGHT = 480


def mask_path(one: ClickedObject, number: int) -> str:
    """Path of an object's PNG: a folder for each image, a file for each object.

    A name that is not of letters, digits, - and _ gets the object's number in the click file; so does one without.
    """
    named = one.name
    if not re.fullmatch(r"[\w-]{1,80}", named):
        plain = re.sub(r"[^\w-]", "_", named)[:60] or "object"
        named = f"{plain}~{number}"  # no other name has a ~
    return f"masks/{one.image}/{named}.png"


def write_outputs(
    out: str,
    objects: Sequence[ClickedObject],
    units: Sequence[WorkUnit],
    parts: Mapping[str, str],
    found: pa.Table,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Write everything; returns the summary.

    Args:
        objects: of the click file, by number.
        found: `results.merge` of the parts.
        about: goes into the summary.
    """
    places = {row["object_id"]: row for row in found.select(["object_id", "forward_passes", "seconds"]).to_pylist()}

    def write(unit: WorkUnit) -> list[tuple[int, MaskFacts]]:
        made = []
        for row in read_table(parts[unit.name], ["object_id", "masks"]).to_pylist():
            if row["object_id"] in places:
                png = row["masks"][-1]["png"]
                storage.write_bytes(storage.join(out, mask_path(objects[row["object_id"]], row["object_id"])), png)
                made.append((row["object_id"], MaskFacts.of(decode_mask(png))))
        return made

    described = dict(one for some in storage.map_parallel(write, units) for one in some)
    rows, coco = [], CocoFile()
    for number, mask in sorted(described.items()):
        one, path = objects[number], mask_path(objects[number], number)
        clicks = [{"x": float(c.col), "y": float(c.row), "positive": c.positive} for c in one.clicks]
        figures = {"area": mask.area, "bbox": mask.bbox}
        rows.append(
            {**places[number], "image": one.image, "object": one.name, "mask": path, "clicks": clicks, **figures}
        )
        coco.add(number + 1, one.image, mask, object=one.name, clicks=clicks)
    coco.write(storage.join(out, ANNOTATIONS))
    write_table(storage.join(out, "objects.parquet"), pa.Table.from_pylist(rows, schema=OBJECTS))
    summary = {**about, "objects": len(rows), "images": len(coco.images)}
    write_pages(out, "Masks from clicks", _blocks(out, summary, objects, units, sorted(described)))
    write_json(storage.join(out, "summary.json"), summary)
    return summary


def _blocks(
    out: str, summary: dict[str, Any], objects: Sequence[ClickedObject], units: Sequence[WorkUnit], done: list[int]
) -> list[Block]:
    facts = [
        ("Model", model_name(summary["checkpoint"])),
        ("Checkpoint", summary["checkpoint"]["uri"]),
        ("Images", summary["folder"]),
        ("Clicks", summary["clicks"]),
        ("Objects", f"{summary['objects']} on {summary['images']} images"),
        ("Set aside", ", ".join(f"{reason}: {n}" for reason, n in summary["rejected"].items()) or "none"),
    ]
    blocks: list[Block] = [Heading("Masks from clicks", 1), Facts(facts)]
    step = max(1, -(-len(done) // SHOWN))
    wanted = set(done[::step])
    blocks.append(Paragraph(f"{len(wanted)} of {len(done)} objects; all are in masks/ and annotations.json."))
    for unit in units:
        for place in unit.places:
            if place.object_id in wanted:
                one = objects[place.object_id]
                try:
                    blocks.append(_picture(out, unit, place.row, one, place.object_id))
                except Exception as error:  # a picture that cannot be drawn costs no mask
                    print(f"report: {one.image} could not be drawn ({describe(error)})", flush=True)
    return blocks


def _picture(out: str, unit: WorkUnit, row: int, one: ClickedObject, number: int) -> Picture:
    image = decode_sample(read_group(unit.uri, unit.shard, unit.group)[row]).image
    mask = decode_mask(storage.read_bytes(storage.join(out, mask_path(one, number))))
    height = min(SHOWN_HEIGHT, image.shape[0])
    box = Window.of(mask)
    panel = Panel(image, window_for(box, one.clicks, image.shape, height), box, height)
    drawn = overlay(panel.image, panel.mask(mask), clicks=panel.clicks(one.clicks), radius=panel.radius)
    if not panel.whole:
        drawn = strip([whole_image(image, panel, height), drawn], ["", ""], height)
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not ok:
        raise ValueError("cannot encode the picture")
    caption = f"{one.image}{', object ' + one.name if one.name else ''}, {len(one.clicks)} click(s)"
    return Picture(f"object-{number:06d}.jpg", data.tobytes(), caption, drawn.shape[1])
