"""Validation during training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.config import io as config_io
from pipeline.evaluate.validate import choose, validate, validation_rows
from tests.made import rows_of_blobs, small_config, small_model, write_dataset


def test_objects_come_from_different_pictures_first() -> None:
    rows = rows_of_blobs(3)
    rows[0] = dataclasses.replace(rows[0], objects=[dataclasses.replace(rows[0].objects[0], kind="stuff")])
    assert choose(rows, 2) == [[], [0], [0]]
    assert choose(rows, 3) == [[], [0, 1], [0]]
    assert choose(rows, 0) == [[], [0, 1], [0, 1]]


def test_only_as_many_row_groups_as_needed_are_read(tmp_path: Path) -> None:
    uri = write_dataset(tmp_path / "blobs", rows_of_blobs(10), rows_per_group=4)
    assert [len(validation_rows(uri, n)) for n in (1, 4, 5, 0, 99)] == [4, 4, 8, 10, 10]


def test_figures_and_the_model_is_left_as_it_was() -> None:
    run = config_io.replace(small_config(), **{"eval.max_clicks": 3, "train.val_objects": 5})
    model = small_model().train()
    rows = rows_of_blobs(4)
    rows[3] = dataclasses.replace(rows[3], image=b"broken")
    figures = validate(model, rows, run)
    assert model.training
    assert figures.keys() == {"noc80", "noc85", "noc90", "iou1", "iou3", "objects"}
    assert figures["objects"] == 4  # of the 5 chosen, one is on the broken picture
    assert figures == validate(model, rows, run)
    assert 1 <= figures["noc80"] <= figures["noc90"] <= 3
    assert figures["iou1"] == pytest.approx(figures["iou1"]) and 0 <= figures["iou1"] <= 1


def test_nothing_to_validate_on() -> None:
    assert validate(small_model(), [], small_config()) == {"objects": 0.0}
