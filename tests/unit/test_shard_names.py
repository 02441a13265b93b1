"""File names that are no UTF-8, as old zip programs leave them, in a prepared data set."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from pipeline.data.readers.folder import FolderReader
from pipeline.data.shards import Job, write_shard

NAME = os.fsdecode(b"caf\xe9")


def test_such_a_name_is_prepared_under_its_escaped_form(tmp_path: Path) -> None:
    root, out = tmp_path / "raw", tmp_path / "out"
    mask = np.zeros((16, 20), np.uint8)
    mask[4:9, 5:12] = 255
    for folder, picture in (("images", np.full((16, 20, 3), 90, np.uint8)), ("masks", mask)):
        (root / folder).mkdir(parents=True)
        data = cv2.imencode(".png", picture)[1].tobytes()
        for name in ("plain", NAME):
            (root / folder / f"{name}.png").write_bytes(data)
    (root / "images" / f"{NAME}2.png").write_bytes(b"no picture")
    reader = FolderReader(str(root))
    items = pickle.dumps([pickle.dumps(item) for item in reader.items()])
    text = write_shard(0, items, Job(reader, str(out), 8))
    result = json.loads(text)
    assert pq.read_table(out / "shard-00000.parquet")["image_id"].to_pylist() == ["caf\\udce9", "plain"]
    assert [reject["image_id"] for reject in result["rejected"]] == ["caf\\udce92"]
    assert text.encode() and all(value.encode() for reject in result["rejected"] for value in reject.values())
