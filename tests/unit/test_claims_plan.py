"""What `jobs.claims` finds before it measures anything: checkpoints, benchmarks, what is missing, what stands in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from jobs import claims, claims_plan
from jobs.recipes.presets import MODELS
from pipeline.config import TrainConfig
from pipeline.config.evaluation import ClaimsConfig
from pipeline.errors import UserError
from pipeline.report.claims import CLAIMS
from tests.made import rows_of_blobs, write_checkpoint, write_dataset

NAMES = {"GrabCut", "Berkeley", "DAVIS", "SBD", "PASCAL VOC"}


def made(folder: Path) -> Path:
    """A Berkeley of two images, and no checkpoint."""
    for name in ("weights", "data/Berkeley/images", "data/Berkeley/masks"):
        (folder / name).mkdir(parents=True)
    for stem in ("a", "b"):
        mask = np.zeros((40, 60), np.uint8)
        mask[10:30, 20:40] = 255
        cv2.imwrite(str(folder / f"data/Berkeley/images/{stem}.jpg"), np.full((40, 60, 3), 90, np.uint8))
        cv2.imwrite(str(folder / f"data/Berkeley/masks/{stem}.png"), mask)
    return folder


def options(folder: Path, **changes: object) -> ClaimsConfig:
    given = {"checkpoints": str(folder / "weights"), "data": str(folder / "data"), "out": str(folder / "out")}
    return ClaimsConfig(**{**given, **changes})


def rows(given: ClaimsConfig) -> dict[tuple[str, str], claims_plan.Row]:
    return {(r.claim.benchmark, r.claim.model.system): r for r in claims_plan.look(given)}


def test_what_is_missing_is_named_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path)
    with pytest.raises(UserError, match="None of the claims can be measured"):
        claims.carry_out(options(tmp_path))
    said = capsys.readouterr().out
    assert said.count("missing: ") == len(CLAIMS)
    assert "missing: cocolvis_icl_vit_huge.pth\n" in said  # its Berkeley is there
    assert "missing: sbd_vit_huge.pth and SBD" in said
    for place in ("CFR-ICL-Interactive-Segmentation/releases", "uncbiag/SimpleClick", "GrabCut.zip (11 MB)", "2.6 GB"):
        assert place in said


def test_a_packed_file_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "weights/cocolvis_icl_vit_huge.pth.7z.001").write_bytes(b"7z")
    missing = rows(options(tmp_path))["Berkeley", "ICL"].missing
    assert "cocolvis_icl_vit_huge.pth.7z.001 is packed: 7z x" in missing


def test_another_network_is_refused_or_stands_in(tmp_path: Path) -> None:
    made(tmp_path)
    write_checkpoint(tmp_path / "weights/cocolvis_icl_vit_huge")
    with pytest.raises(UserError, match="not the published ViT-H"):
        claims_plan.look(options(tmp_path))
    row = rows(options(tmp_path, stand_ins=True))["Berkeley", "ICL"]
    assert row.measurable
    assert "stand-in" in row.no_verdict
    assert "2 images, the benchmark has 100" in row.no_verdict


def test_two_files_of_one_model_are_refused(tmp_path: Path) -> None:
    made(tmp_path)
    write_checkpoint(tmp_path / "weights/cocolvis_icl_vit_huge")
    write_checkpoint(tmp_path / "weights/coco_lvis_icl_vit_huge")
    with pytest.raises(UserError, match="keep one of them as cocolvis_icl_vit_huge"):
        claims_plan.look(options(tmp_path, stand_ins=True))


def test_shards_of_something_else_are_refused(tmp_path: Path) -> None:
    made(tmp_path)
    write_dataset(tmp_path / "data/GrabCut", rows_of_blobs(2))
    with pytest.raises(UserError, match="which are not GrabCut"):
        claims_plan.look(options(tmp_path))


def test_only_and_folders_that_do_not_exist(tmp_path: Path) -> None:
    made(tmp_path)
    assert {c.benchmark for c in claims_plan.wanted(["davis", "PascalVOC"])} == {"DAVIS", "PASCAL VOC"}
    assert {c.benchmark for c in claims_plan.wanted([])} == NAMES
    with pytest.raises(UserError, match="Did you mean 'DAVIS'"):
        claims_plan.wanted(["DAVSI"])
    with pytest.raises(UserError, match=r"no folder .*nowhere \(--data\)"):
        claims_plan.look(options(tmp_path, data=str(tmp_path / "nowhere")))


def test_evaluations_have_the_papers_settings(tmp_path: Path) -> None:
    made(tmp_path)
    write_checkpoint(tmp_path / "weights/cocolvis_icl_vit_huge")
    for name in ("img", "gt"):
        (tmp_path / "data/DAVIS" / name).mkdir(parents=True)
    for name in ("img/a.jpg", "gt/a.png"):
        cv2.imwrite(str(tmp_path / "data/DAVIS" / name), np.full((40, 60, 3), 255, np.uint8))
    given = options(tmp_path, stand_ins=True)
    plans = claims_plan.evaluations(claims_plan.look(given), given)
    assert set(plans) == {"cocolvis_icl_vit_huge-noc90-crop448", "cocolvis_icl_vit_huge-noc90-crop672"}
    for folder, (members, config) in plans.items():
        assert len(members) == 1
        assert (config.cfr_steps, config.eval.target_iou, config.eval.max_clicks) == ((1,), 0.9, 20)
        assert config.cfr == TrainConfig().cfr
        assert config.crop == (672 if "672" in folder else 448)
        assert config.data[0].startswith("davis=" if "672" in folder else "berkeley=")


def test_work_counts_objects_clicks_and_both_inputs(tmp_path: Path) -> None:
    made(tmp_path)
    write_checkpoint(tmp_path / "weights/cocolvis_icl_vit_huge")
    found = claims_plan.work(claims_plan.look(options(tmp_path, stand_ins=True)))
    model = claims_plan.look(options(tmp_path, stand_ins=True))[0].weights
    assert model is not None
    each = claims_plan.tflop_of_pass(model.info.model, 448)
    assert found.expected == pytest.approx(2 * (1.46 + 1) * 2 * each)
    assert found.most == pytest.approx(2 * 21 * 2 * each)
    assert 0.9 < claims_plan.tflop_of_pass(MODELS["huge"], 448) / 1.4 < 1.2  # 632 million weights, 1,024 tokens, twice
