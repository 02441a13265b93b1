"""Clicks of many images to masks on Ray: the units, the actors and the parts of an evaluation, without a truth.

The position of a prediction is the set of parts that exist, as of an evaluation: the same command again does what is
missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.config import Cfr
from pipeline.config.evaluation import PredictConfig
from pipeline.data.fingerprint import checksum
from pipeline.data.manifest import Manifest, read_table
from pipeline.data.readers.pictures import PictureReader
from pipeline.data.shards import write_shards
from pipeline.engine.device import on_gpu
from pipeline.engine.preflight import check_everywhere
from pipeline.errors import UserError
from pipeline.evaluate import results
from pipeline.evaluate.job import make_parts
from pipeline.evaluate.plan import DataSet, Place, plan
from pipeline.evaluate.pool import ActorPool, actors_for
from pipeline.evaluate.request import claim
from pipeline.evaluate.sources import default_crop
from pipeline.model.checkpoints import CheckpointInfo, load_model
from pipeline.model.segmenter import check_crop
from pipeline.predict.click_files import ClickedObject, read_clicks
from pipeline.predict.outputs import write_outputs
from pipeline.weights import located

IDENTITY = "prediction.json"
NAME = "pictures"


@dataclass(frozen=True)
class CheckedPrediction:
    """A prediction that can be carried out.

    Attributes:
        objects: of the click file; an object's number in the list is its number everywhere.
    """

    config: PredictConfig
    out: str
    images: str
    checkpoint: CheckpointInfo
    crop: int
    objects: list[ClickedObject]


def check(config: PredictConfig) -> CheckedPrediction:
    """Check a prediction without starting anything; then claim the output folder for it.

    Raises:
        UserError: no such checkpoint, images or clicks, a crop that does not fit, an output folder of something else.
    """
    out, images, clicks = (storage.absolute(uri) for uri in (config.out, config.images, config.clicks))
    if not storage.is_folder(images):
        raise UserError(f"There is no folder of images {images} (--images).")
    objects = read_clicks(clicks)
    _, checkpoint = load_model(located(config.checkpoint))
    crop = config.crop or default_crop("", checkpoint)
    check_crop(checkpoint.model, crop, "--crop")
    checked = CheckedPrediction(config, out, images, checkpoint, crop, objects)
    identity = {
        "format": 1,
        "checkpoint": checkpoint.sha256,
        "images": images,
        "clicks": checksum([[o.image, o.name, [list(c) for c in o.clicks]] for o in objects]),
        "cfr": asdict(settings_of(checked)),
        "batch_size": config.batch_size or 1,
    }
    claim(storage.join(out, IDENTITY), identity, "a prediction", {})
    return checked


def settings_of(checked: CheckedPrediction) -> Cfr:
    """The inner loop."""
    return replace(checked.config.cfr, steps=checked.config.cfr_steps, crop=checked.crop)


def predict(checked: CheckedPrediction) -> dict[str, Any]:
    """Carry out a prediction on the connected cluster.

    Writes masks/, annotations.json, objects.parquet, rejected.parquet, summary.json and report.html.

    Returns:
        The summary.

    Raises:
        UserError: more CPUs or GPUs asked for than the cluster has, too many bad images or objects.
    """
    config = replace(checked.config, gpu=on_gpu(checked.config.device, checked.config.gpu))
    actors = actors_for(config.eval, "Prediction")
    check_everywhere([checked.checkpoint.uri, checked.images], checked.out)
    reader = PictureReader(checked.images, sorted({one.image for one in checked.objects}))
    shards = storage.join(checked.out, "data")
    manifest = write_shards(reader, shards, "", name=NAME, max_bad_fraction=config.max_bad_fraction)
    data = clicked_dataset(manifest, shards, checked)
    units = list(plan([data]))
    pool = ActorPool(config, checked.checkpoint, actors)
    parts = make_parts(pool, units, checked.out, lambda crop: {0: settings_of(checked)}, "predicting")
    found, rejected = results.merge(results.read_parts(units, parts, [0]))
    listed = pa.concat_tables([rejected, _lost(shards, checked)])
    results.write_table(storage.join(checked.out, "rejected.parquet"), listed)
    results.check_bad(data, rejected, config.eval)
    reasons = dict(Counter(row["reason"] for row in listed.to_pylist()))
    return write_outputs(checked.out, checked.objects, units, parts, found, _about(checked, reasons))


def clicked_dataset(manifest: Manifest, shards: str, checked: CheckedPrediction) -> DataSet:
    """The clicked objects by the row groups of their images; those whose image was set aside are not there."""
    numbers: dict[str, list[int]] = {}
    for number, one in enumerate(checked.objects):
        numbers.setdefault(one.image, []).append(number)
    groups: list[tuple[str, int, list[Place]]] = []
    for shard in manifest.shards:
        for group in range(len(shard.row_groups)):
            images = read_table(storage.join(shards, shard.path), group, columns=["image_id"])["image_id"].to_pylist()
            places = list(_places(images, numbers, checked.objects))
            if places:
                groups.append((shard.path, group, places))
    return DataSet(NAME, shards, manifest.source, checked.crop, groups, {})


def _places(images: list[str], numbers: dict[str, list[int]], objects: list[ClickedObject]) -> Iterator[Place]:
    for row, image in enumerate(images):
        for number in numbers[image]:
            yield Place(row, image, number, objects[number].clicks)


def _lost(shards: str, checked: CheckedPrediction) -> pa.Table:
    """Every object whose image could not be used, in schema `results.REJECTED`."""
    uri = storage.join(shards, "rejected.parquet")
    images = {row["image_id"]: row for row in results.read_table(uri).to_pylist()} if storage.exists(uri) else {}
    rows = [
        {**images[one.image], "dataset": NAME, "object_id": number}
        for number, one in enumerate(checked.objects)
        if one.image in images
    ]
    return pa.Table.from_pylist(rows, schema=results.REJECTED)


def _about(checked: CheckedPrediction, rejected: dict[str, int]) -> dict[str, Any]:
    cfr = settings_of(checked)
    return {
        "schema_version": 1,
        "checkpoint": checked.checkpoint.to_dict(),
        "folder": checked.images,
        "clicks": storage.absolute(checked.config.clicks),
        "options": {
            **{f"cfr.{name}": value for name, value in asdict(cfr).items()},
            "batch_size": checked.config.batch,
        },
        "rejected": rejected,
    }
