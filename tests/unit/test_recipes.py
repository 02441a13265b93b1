"""Every constant of every recipe against a literal table, and the networks they build."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jobs.recipes import RECIPES
from jobs.train import parse
from pipeline import config
from pipeline.config import io as config_io
from pipeline.errors import UserError
from pipeline.model.checkpoints import shapes_of
from pipeline.model.published import VARIANTS, unused_shapes
from pipeline.model.segmenter import check_crop
from pipeline.report.claims import CLAIMS, Identity, identify

# What all published recipes (and ours) have in common: every option of a training config that the tables below do not
# set. Options that say where and how a run is done rather than what it computes are left out (OPERATION).
COMMON: dict[str, Any] = {
    "seed": 0,
    "data.crop": 448,
    "clicks.gamma": 0.80,
    "clicks.merge_prob": 0.15,
    "clicks.max_merged": 2,
    "clicks.use_hierarchy": False,
    "clicks.erode_prob": 0.9,
    "clicks.erode_iters": 3,
    "clicks.negative_background": 0.1,
    "clicks.negative_other": 0.4,
    "clicks.negative_border": 0.5,
    "clicks.border_ratio": 0.1,
    "suem.exclusion_weight": 1.0,
    "suem.union_weight": 1.0,
    "suem.distractor_weight": 1.0,
    "suem.alpha_min": 0.5,
    "suem.max_donors": 5,
    "suem.min_uncovered": 20,
    "model.head_dropout": 0.1,
    "model.train_size": 448,
    "model.click_radius": 5,
    "loss.prev_mask_drop_prob": 0.0,
    "loss.alpha": 0.5,
    "loss.gamma": 2.0,
    "loss.weights": (1.0, 2.0, 3.0),
    "optim.betas": (0.9, 0.999),
    "optim.eps": 1e-8,
    "optim.schedule": "steps",
    "optim.factor": 0.1,
    "optim.average": 0.0,
    "optim.warmup_steps": 0,
    "optim.layer_decay": 1.0,
    "optim.weight_decay": 0.0,
    "optim.clip_norm": 0.0,
    "train.batch": 32,
    "train.accumulate": 1,
    "train.steps": 0,
    "train.precision": "fp32",
    "train.compile": False,
    "cfr.steps": 0,
    "cfr.clicks": 1,
    "cfr.adaptive": False,
    "cfr.adaptive_pixels": 20,
    "cfr.threshold": 0.49,
    "cfr.crop": 448,
    "cfr.flip": True,
    "cfr.zoom_threshold": 0.50,
    "cfr.expansion": 1.4,
    "cfr.min_crop": 200,
    "cfr.recompute_iou": 0.5,
    "eval.max_clicks": 20,
    "eval.target_iou": 0.95,
    "eval.full_curve": False,
}
OPERATION = ("recipe", "out", "data.train", "data.val", "data.chunk", "data.workers", "data.max_bad_fraction")
OPERATION += ("model.activation_checkpointing", "eval.actors", "eval.gpu", "eval.max_bad_fraction", "tracking.")
OPERATION += ("train.workers", "train.gpu", "train.cpus_per_worker", "train.log_every", "train.val_every")
OPERATION += ("train.val_objects", "train.checkpoint_every", "train.keep", "train.max_failures", "train.hang_seconds")
OPERATION += ("eval.hang_seconds", "eval.device", "train.device")
OPERATION += ("train.min_workers", "train.parallel", "train.wait_for_workers", "train.explode_factor")
OPERATION += ("train.threads",)

_SHAPE = ("model.patch", "model.dim", "model.depth", "model.heads", "model.neck_dims", "model.head_dim")
MODELS: dict[str, dict[str, Any]] = {
    size: dict(zip(_SHAPE, values, strict=True))
    for size, values in {
        "base": (16, 768, 12, 12, (128, 256, 512, 1024), 256),
        "large": (16, 1024, 24, 16, (192, 384, 768, 1536), 256),
        "huge": (14, 1280, 32, 16, (240, 480, 960, 1920), 256),
        "xtiny": (16, 160, 8, 4, (96, 192, 288, 384), 128),
    }.items()
}
_DATA = ("data.augmentation", "data.resize", "data.keep_background_prob", "data.stuff_prob")
DATA: dict[str, dict[str, Any]] = {
    "cocolvis": dict(zip(_DATA, ("coco-lvis", (0.75, 1.40), 0.05, 0.30), strict=True)),
    "sbd": dict(zip(_DATA, ("sbd", (0.75, 1.25), 0.01, 0.0), strict=True)),
}
_STYLE = ("suem.simple_prob", "suem.paste_prob", "suem.mix_prob", "clicks.shuffle_order")
_STYLE += ("loss.mode", "loss.passes", "loss.click_rows")
STYLES: dict[str, dict[str, Any]] = {
    "simpleclick": dict(zip(_STYLE, (0.0, 0.0, 0.0, False, "iter_mask", (0, 3), "from_end"), strict=True)),
    "suem": dict(zip(_STYLE, (0.5, 0.5, 0.5, True, "iter_mask", (1, 3), "first_free"), strict=True)),
    # passes belongs to iter_mask and is not read
    "suem and icl": dict(zip(_STYLE, (0.5, 0.5, 0.5, True, "icl", (0, 3), "first_free"), strict=True)),
}
_ROW = ("optim.lr", "train.epochs", "data.epoch_samples", "optim.milestones")
_ROW += ("clicks.max_points", "data.min_object_area", "model.start")
MAE = "timm:vit_{}_224.mae"
TABLE: dict[str, tuple[str, str, str, tuple[Any, ...]]] = {
    # recipe: size, data, style, (lr, epochs, draws, milestones, points, least area, start)
    "simpleclick_base_cocolvis": (
        *("base", "cocolvis", "simpleclick"),
        (5e-5, 55, 30_000, (50, 55), 24, 1000, MAE.format("base_patch16")),
    ),
    "simpleclick_base_sbd": (
        *("base", "sbd", "simpleclick"),
        (5e-5, 55, 8_498, (50, 55), 24, 80, MAE.format("base_patch16")),
    ),
    "simpleclick_large_cocolvis": (
        *("large", "cocolvis", "simpleclick"),
        (5e-5, 55, 30_000, (50, 55), 24, 1000, MAE.format("large_patch16")),
    ),
    "simpleclick_large_sbd": (
        *("large", "sbd", "simpleclick"),
        (5e-5, 55, 8_498, (50, 55), 24, 80, MAE.format("large_patch16")),
    ),
    "simpleclick_huge_cocolvis": (
        *("huge", "cocolvis", "simpleclick"),
        (5e-5, 55, 30_000, (50, 55), 24, 1000, MAE.format("huge_patch14")),
    ),
    "simpleclick_huge_sbd": (
        *("huge", "sbd", "simpleclick"),
        (5e-5, 55, 8_498, (50, 55), 24, 80, MAE.format("huge_patch14")),
    ),
    "simpleclick_xtiny_cocolvis": (
        *("xtiny", "cocolvis", "simpleclick"),
        (5e-5, 230, 30_000, (200, 230), 24, 1000, ""),
    ),
    "simpleclick_xtiny_sbd": ("xtiny", "sbd", "simpleclick", (1e-5, 1001, 8_498, (800, 900), 24, 80, "")),
    "cfr_icl_base_cocolvis": ("base", "cocolvis", "suem", (5e-6, 5, 30_000, (50, 55), 24, 1000, "")),
    "cfr_icl_base_sbd": ("base", "sbd", "suem", (5e-6, 20, 8_498, (50, 55), 24, 20, "")),
    "cfr_icl_huge_cocolvis": ("huge", "cocolvis", "suem and icl", (5e-6, 1, 3_000, (50, 55), 12, 1000, "")),
    "cfr_icl_huge_sbd": ("huge", "sbd", "suem and icl", (5e-6, 5, 8_498, (50, 55), 12, 20, "")),
    "icl_suem_base_cocolvis": ("base", "cocolvis", "suem and icl", (5e-6, 5, 30_000, (50, 55), 24, 1000, "")),
    "icl_suem_large_cocolvis": ("large", "cocolvis", "suem and icl", (5e-6, 5, 30_000, (50, 55), 24, 1000, "")),
}
VARIANT = {"base": "ViT-B", "large": "ViT-L", "huge": "ViT-H", "xtiny": "ViT-xtiny"}
TRAINED_ON = {"cocolvis": "C+L", "sbd": "SBD"}
PARAMETERS = {"base": 97_067_969, "large": 322_991_809, "huge": 660_713_201, "xtiny": 3_845_281}


def test_the_table_has_every_recipe() -> None:
    assert {"tiny", "small", *TABLE} == RECIPES.keys()


@pytest.mark.parametrize("name", TABLE)
def test_every_constant(name: str) -> None:
    size, data, style, row = TABLE[name]
    wanted = {**COMMON, **MODELS[size], **DATA[data], **STYLES[style], **dict(zip(_ROW, row, strict=True))}
    have = {k: v for k, v in config_io.flatten(RECIPES[name].config).items() if not k.startswith(OPERATION)}
    assert have == wanted


@pytest.mark.parametrize("name", RECIPES)
def test_the_text_says_what_it_is_about(name: str) -> None:
    text = RECIPES[name].about
    for word in ("Reproduces: ", "Start: ", "Hardware: ", "Expected: "):
        assert word in text
    if name.startswith("icl_suem"):
        assert text.startswith("Ours: ")


@pytest.mark.parametrize("name", TABLE)
def test_the_claims_table_knows_it(name: str) -> None:
    """A model trained by the recipe is compared with the claims of its own kind."""
    size, data, _, _ = TABLE[name]
    run = RECIPES[name].config
    known = identify({"format": "cfr-icl", "uri": "x", "recipe": name, "model": config_io.to_dict(run.model)})
    system = "SimpleClick" if name.startswith("simpleclick") else "ICL"
    assert known == Identity(system, VARIANT[size], TRAINED_ON[data])


def test_every_claimed_model_has_a_recipe() -> None:
    runs = {name: RECIPES[name].config for name in TABLE if not name.startswith("icl_suem")}
    known = [
        identify({"format": "cfr-icl", "uri": "x", "recipe": name, "model": config_io.to_dict(run.model)})
        for name, run in runs.items()
    ]
    assert len(set(known)) == len(known)
    assert {claim.model for claim in CLAIMS} <= set(known)


@pytest.mark.parametrize("size", MODELS)
def test_the_network(size: str) -> None:
    """Built without memory: the transformer's shapes by hand, all parameters by count."""
    model = next(RECIPES[name].config.model for name, row in TABLE.items() if row[0] == size)
    check_crop(model, 448, "crop")
    assert VARIANTS[model.patch, model.dim, model.depth] == model.heads
    dim, patch, grid = model.dim, model.patch, 448 // model.patch
    shapes = {k: tuple(v) for k, v in shapes_of(model).items()}
    assert shapes["backbone.pos_embed"] == (1, grid * grid, dim)
    assert shapes["backbone.patch_embed.proj.weight"] == (dim, 3, patch, patch)
    assert shapes["click_embed.proj.weight"] == (dim, 3, patch, patch)
    last = f"backbone.blocks.{model.depth - 1}."
    assert shapes[f"{last}attn.qkv.weight"] == (3 * dim, dim)
    assert shapes[f"{last}mlp.fc1.weight"] == (4 * dim, dim)
    assert f"backbone.blocks.{model.depth}.norm1.weight" not in shapes
    blocks = sum(math.prod(s) for k, s in shapes.items() if k.startswith("backbone.blocks."))
    assert blocks == model.depth * (12 * dim * dim + 13 * dim)
    c4, c2, c1, c05 = model.neck_dims
    wide = {"base": (384, 384, 1536), "large": (512, 512, 2048), "huge": (640, 640, 2560), "xtiny": (192, 192, 384)}
    assert shapes["neck.x4.0.weight"] == (dim, wide[size][0], 2, 2)
    assert shapes["neck.x4.5.weight"] == (c4, wide[size][0] // 2, 1, 1)
    assert shapes["neck.x2.0.weight"] == (dim, wide[size][1], 2, 2)
    assert shapes["neck.x2.2.weight"] == (c2, wide[size][1], 1, 1)
    assert shapes["neck.x1.0.weight"] == (c1, dim, 1, 1)
    assert shapes["neck.x05.0.weight"] == (wide[size][2], dim, 2, 2)
    assert shapes["neck.x05.2.weight"] == (c05, wide[size][2], 1, 1)
    assert shapes["head.fuse.weight"] == (model.head_dim, 4 * model.head_dim, 1, 1)
    assert sum(math.prod(s) for s in shapes.values()) == PARAMETERS[size]
    unused = unused_shapes(model)
    assert unused["head.up_conv1.0.weight"] == (model.head_dim, model.head_dim // 2, 2, 2)
    assert unused["backbone.head.weight"] == (1000, dim)


NEEDING = [name for name, recipe in RECIPES.items() if recipe.needs]


def arguments(name: str, *more: str) -> list[str]:
    return [name, "--data.train", "/data/shards", "--out", "/data/run", *more]


def test_the_recipes_that_need_a_start() -> None:
    assert set(NEEDING) == {name for name in TABLE if not name.startswith("simpleclick")}


@pytest.mark.parametrize("name", NEEDING)
def test_a_recipe_without_its_start_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} starts from the complete SimpleClick .*--model\.start"):
        parse(arguments(name))
    run = parse(arguments(name, "--model.start", "/data/model.pth"))
    assert run.model.start == "/data/model.pth"


def test_schedule_of_the_published_recipes() -> None:
    """55 epochs of 30,000 draws are 51,535 steps; the incomplete batch of an epoch is dropped."""
    steps = {name: RECIPES[name].config.total_steps for name in TABLE}
    assert steps["simpleclick_huge_cocolvis"] == 55 * 937
    assert steps["simpleclick_base_sbd"] == 55 * 265
    assert steps["cfr_icl_huge_cocolvis"] == 93
    assert isinstance(RECIPES["cfr_icl_huge_sbd"].config, config.TrainConfig)
