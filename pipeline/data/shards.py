"""Raw data to Parquet shards: a resumable job, one Ray task per shard, the manifest last."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray

from pipeline import storage
from pipeline.data import fingerprint
from pipeline.data.manifest import FILES, MANIFEST, PLAN, REJECTED, Manifest, ShardInfo, load_manifest
from pipeline.data.readers.base import Reader, Skipped, check_apart
from pipeline.data.rejects import TWICE, counted, first, reject, write_rejected
from pipeline.data.schema import SCHEMA, SCHEMA_VERSION, Row, table
from pipeline.engine import lease
from pipeline.engine.connect import connect
from pipeline.engine.preflight import check_everywhere
from pipeline.engine.progress import Progress
from pipeline.engine.watch import STILL_SECONDS, pulse_of_process, watching
from pipeline.errors import BadRow, UserError
from pipeline.storage.json_files import read_json
from pipeline.storage.local_files import printable
from pipeline.storage.looks import look_of

CONVERSION = 2  # counts up when a reader or this module makes other rows of the same files
WORDS = {"conversion": "rows made by another version", "items_sha256": "other images or annotations"}  # of the plan
TASK_RETRIES = 2  # Ray's default retries a task that kills its worker for ever
ENCODED = ["image", "ignore", "layers.list.element"]  # JPEG and PNG: compressing them again saves nothing
PLAIN = ["image_id", "height", "width", "weight", "source"]
PLAIN += [f"objects.list.element.{name}" for name in ("layer", "label", "parent", "area", "kind")]
COMPRESSION: Any = {**dict.fromkeys(ENCODED, "NONE"), **dict.fromkeys(PLAIN, "ZSTD")}


@dataclass(frozen=True)
class Job:
    """What every task needs beside its items; `signs`: see `watch.watching`."""

    reader: Reader
    out: str
    rows_per_group: int
    signs: Any = None


def write_shards(
    reader: Reader,
    out: str,
    split: str,
    *,
    name: str = "",
    rows_per_group: int = 32,
    groups_per_shard: int = 8,
    seed: int = 0,
    max_bad_fraction: float = 0.01,
) -> Manifest:
    """Convert a raw data set; the same call again continues where it was interrupted.

    The raw layout is checked before Ray is needed. Items of a data set with splits are shuffled by `seed`, so that a
    row group is a random subset; others keep the order of their files. What a shard holds depends on the arguments
    only.

    Args:
        out: folder or URI of the shards.
        split: goes into the manifest; "" keeps the order of the files.
        name: of the data set; default: the last part of `out`.
        max_bad_fraction: share of images set aside as bad (or with an object set aside) above which this fails.

    Raises:
        UserError: the raw data is not what it should be, `out` holds something else, too many bad images, or none good.
    """
    out = storage.absolute(out)
    check_apart(out, reader.root)
    items = reader.items()
    if split:
        items = [items[i] for i in np.random.default_rng((seed, len(items))).permutation(len(items))]
    items, doubles = _unique(reader, items)
    total = len(items) + len(doubles)
    if not items:
        why = counted(Counter(reader.left_out) + Counter(d["reason"] for d in doubles), reader)
        raise UserError(f"{reader.source}: there is no image to convert in {reader.root}: {why}.")
    count = math.ceil(len(items) / (rows_per_group * groups_per_shard))
    # Pickled one by one, so that the fingerprint of the plan covers the annotations of every image.
    pickled = [pickle.dumps(item, protocol=5) for item in items]
    chunks = [pickled[part[0] : part[-1] + 1] for part in np.array_split(np.arange(len(items)), count)]
    options = {
        "schema_version": SCHEMA_VERSION,
        "conversion": CONVERSION,
        "source": reader.source,
        "split": split,
        "seed": seed,
        "images": len(items),
        "rows_per_group": rows_per_group,
        "groups_per_shard": groups_per_shard,
    }
    complete = _begin(out, {**options, "items_sha256": hashlib.sha256(b"".join(pickled)).hexdigest()}, reader.root)

    limit = max_bad_fraction * total
    done = _finished(out, count, complete)
    fingerprint.require_same_files(out, reader.root, [result["files"] for result in done.values()])
    if complete:
        return load_manifest(out)
    bad = len(doubles) + sum(_bad_images(result) for result in done.values())
    if todo := {i: pickle.dumps(chunks[i]) for i in range(count) if i not in done}:
        connect()
        check_everywhere([reader.root], out)
        progress = Progress(f"prepare {reader.source}", len(items), "images", done=sum(len(chunks[i]) for i in done))
        with watching(STILL_SECONDS) as signs:
            for result in _run(todo, Job(reader, out, rows_per_group, signs)):
                done[result["shard"]] = result
                bad += _bad_images(result)
                progress.update(len(chunks[result["shard"]]), note=f"{bad} set aside" if bad else "")
                if bad > limit:  # no later image can mend this
                    break
        progress.close()

    results = [done[i] for i in sorted(done)]
    rejected = doubles + [row for result in results for row in result["rejected"]]
    write_rejected(out, rejected)
    reasons = Counter(row["reason"] for row in rejected)
    seen = sum(len(chunks[i]) for i in done) + len(doubles)
    if bad > limit:
        raise UserError(
            f"{bad} of {seen} images are bad, more than --max-bad-fraction {max_bad_fraction:g} of {total} allows: "
            f"{counted(reasons, reader)}; first {first(rejected)}. They are listed in {storage.join(out, REJECTED)}. "
            "Mend them or allow more; the same command then continues."
        )
    shards = [ShardInfo(**result["info"]) for result in results if result["info"]]
    left_out, understood = Counter(reader.left_out), Counter[str]()
    for result in results:
        left_out.update(result["skipped"])
        understood.update(result.get("understood", {}))
    if not shards:
        raise UserError(f"{reader.source}: none of {total} images can be used: {counted(reasons + left_out, reader)}.")
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name or out.rsplit("/", 1)[-1],
        source=reader.source,
        split=split,
        rows=sum(sum(shard.row_groups) for shard in shards),
        objects=sum(result["objects"] for result in results),
        shards=shards,
        rejected=dict(sorted(reasons.items())),
        left_out={reason: n for reason, n in sorted(left_out.items()) if n},
        understood=dict(sorted(understood.items())),
    )
    storage.write_bytes(storage.join(out, MANIFEST), manifest.to_json())
    return manifest


def _run(todo: dict[int, bytes], job: Job) -> Iterator[dict[str, Any]]:
    """Results of the shards, each as soon as it is written.

    Plain tasks: Ray Data would start three processes of its own for work that moves no rows between tasks.
    """
    task: Any = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(write_shard)
    common = ray.put(job)
    left = [task.remote(index, items, common) for index, items in todo.items()]
    try:
        while left:
            (written,), left = ray.wait(left, num_returns=1)
            yield json.loads(ray.get(written))
    finally:
        for unwanted in left:
            ray.cancel(unwanted)


def write_shard(index: int, items: bytes, job: Job) -> str:
    """Ray task: read the items of one shard, write it, and leave its result beside it as JSON.

    Args:
        items: pickled list of pickled items.

    Returns:
        JSON text with shard, rows' ShardInfo (null when no row is good), objects, rejected, skipped.
    """
    job.reader.understood.clear()
    pulse = pulse_of_process(job.signs, "a conversion worker")
    rows: list[Row] = []
    rejected: list[dict[str, str]] = []
    skipped: Counter[str] = Counter()
    with fingerprint.recording(job.reader.root) as files:
        for item in map(pickle.loads, pickle.loads(items)):
            aside: list[BadRow] = []
            pulse.at(f"reading {job.reader.path_of(item)} for shard {index}")
            try:
                row = job.reader.read(item, aside)
                rows.append(replace(row, image_id=printable(row.image_id)))
            except Skipped as skip:
                skipped[skip.reason] += 1
            except BadRow as bad:
                aside.append(bad)
            rejected += [reject(job.reader, item, bad) for bad in aside]
    path = f"shard-{index:05d}.parquet"
    pulse.at(f"writing {path}")
    result = {
        "shard": index,
        "info": asdict(_write_rows(rows, job, path)) if rows else None,
        "objects": sum(len(row.objects) for row in rows),
        "rejected": rejected,
        "skipped": dict(skipped),
        "understood": dict(job.reader.understood),
        "files": files,
    }
    text = json.dumps(result)
    storage.write_bytes(_beside(job.out, path), text.encode())
    pulse.idle()
    return text


def _write_rows(rows: list[Row], job: Job, path: str) -> ShardInfo:
    groups = [part.tolist() for part in np.array_split(np.arange(len(rows)), math.ceil(len(rows) / job.rows_per_group))]
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer, SCHEMA, compression=COMPRESSION, use_dictionary=False, write_statistics=False, write_page_checksum=True
    ) as writer:
        for group in groups:
            writer.write_table(table([rows[i] for i in group]), row_group_size=len(group))
    data = buffer.getvalue()
    storage.write_bytes(storage.join(job.out, path), data)
    return ShardInfo(
        path=path,
        row_groups=[len(group) for group in groups],
        weights=[float(sum(rows[i].weight for i in group)) for group in groups],
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _bad_images(result: dict[str, Any]) -> int:
    return len({row["image_id"] for row in result["rejected"]})


def _beside(out: str, path: str) -> str:
    return storage.join(out, path.replace(".parquet", ".json"))


def _unique(reader: Reader, items: Sequence[Any]) -> tuple[list[Any], list[dict[str, str]]]:
    """Items whose image_id is that of no other, and the rejects that the others make, each naming them all."""
    same: dict[str, list[Any]] = {}
    for item in items:
        same.setdefault(reader.name_of(item), []).append(item)
    good, doubles = [], []
    for item in items:
        others = same[reader.name_of(item)]
        if len(others) == 1:
            good.append(item)
        else:
            doubles.append(
                reject(reader, item, BadRow(TWICE, ", ".join(reader.path_of(other) for other in others[:4])))
            )
    return good, doubles


def _begin(out: str, plan: dict[str, Any], root: str) -> bool:
    """Note the plan (and how files look) in `out`, or compare it with the one there; True when that one is finished."""
    files = _names(out)
    where = storage.join(out, PLAN)
    if PLAN in files:
        before = read_json(where)
        if before == plan:
            return MANIFEST in files
        differ = [key for key in plan if before.get(key) != plan[key]]
        seen = ", ".join(WORDS.get(key) or f"{key} {before.get(key)!r}, now {plan[key]!r}" for key in differ)
        raise UserError(f"{out} holds another data set or one begun from other files: {seen}. Choose another --out.")
    if files.keys() - {FILES} or (storage.exists(out) and not storage.is_folder(out)) or storage.list_folders(out):
        raise UserError(f"{out} holds something else than prepared data. Choose an empty or new folder for --out.")
    storage.write_bytes(storage.join(out, FILES), json.dumps(look_of(root)).encode())
    storage.write_bytes(where, (json.dumps(plan, indent=1) + "\n").encode())
    return False


def _names(out: str) -> dict[str, int]:
    """Bytes of the files directly in a folder by name; something that is no folder has none."""
    found = storage.file_sizes(out) if storage.is_folder(out) else {}
    return {uri.rsplit("/", 1)[1]: size for uri, size in found.items() if not uri.endswith(lease.FILE)}


def _finished(out: str, count: int, complete: bool) -> dict[int, dict[str, Any]]:
    """Results of the shards that an earlier run finished.

    When that run failed for bad images, the shards that have some are converted again: the images may be mended.
    """
    sizes = _names(out)
    paths = [f"shard-{index:05d}.parquet" for index in range(count)]
    paths = [path for path in paths if _beside(out, path).rsplit("/", 1)[1] in sizes]
    done = {}
    for path, result in zip(paths, storage.map_parallel(lambda p: read_json(_beside(out, p)), paths)):
        whole = result["info"] is None or sizes.get(path) == result["info"]["bytes"]
        if whole and (complete or not (result["rejected"] and REJECTED in sizes)):
            done[result["shard"]] = result
    return done
