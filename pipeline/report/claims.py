"""What the paper claims, beside what an evaluation measured (arXiv 2303.05620).

A measured figure stands beside a claim only when the benchmark (all of its objects), the model, its training set, the
CFR steps and the options of the published evaluation agree. Everything else is "not run", with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline import config
from pipeline.config import io as config_io

TOLERANCE = 0.05  # clicks
Status = Literal["verified", "not verified", "not run"]


@dataclass(frozen=True)
class Identity:
    """A published model: system ("ICL" or "SimpleClick"), variant ("ViT-H", ...), training set ("C+L" or "SBD")."""

    system: str
    variant: str
    trained_on: str


@dataclass(frozen=True)
class Claim:
    """NoC@level of a model with CFR-`cfr_steps` on a benchmark, as published."""

    benchmark: str
    model: Identity
    cfr_steps: int
    level: int
    value: float


@dataclass(frozen=True)
class ClaimRow:
    """A claim and what became of it.

    Attributes:
        measured: NoC of the matching result; None when there is none.
        note: why there is none, or the difference from the claim.
        objects, sha256, run: of the matching result: objects evaluated, checkpoint, MLflow run of the evaluation.
    """

    claim: Claim
    status: Status
    note: str
    measured: float | None = None
    objects: int | None = None
    sha256: str | None = None
    run: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark.

    Attributes:
        names: that it goes by.
        images, objects: how many it has. (Berkeley's 96 photographs are 100 files, one for each object.)
        layout: source of its raw folder, as the published evaluations read it.
        where: people get it, and its size.
        crop: side of the network's input, pixels.
    """

    names: tuple[str, ...]
    images: int
    objects: int
    layout: str
    where: str
    crop: int = 448


_ZIPS = "https://github.com/saic-vul/fbrs_interactive_segmentation/releases/download/v1.0"
BENCHMARKS = {
    "GrabCut": Benchmark(("grabcut",), 50, 50, "grabcut", f"{_ZIPS}/GrabCut.zip (11 MB)"),
    "Berkeley": Benchmark(("berkeley",), 100, 100, "berkeley", f"{_ZIPS}/Berkeley.zip (7 MB)"),
    "DAVIS": Benchmark(("davis", "davis345"), 345, 345, "davis", f"{_ZIPS}/DAVIS.zip (43 MB)", crop=672),
    "SBD": Benchmark(
        ("sbd", "sbdval"), 2857, 6671, "sbd", "http://home.bharathh.info/pubs/codes/SBD/download.html (1.4 GB)"
    ),
    "PASCAL VOC": Benchmark(
        ("voc", "vocgrey", "pascalvoc", "voc2012", "pascalvoc2012"),
        1449,
        3417,
        "voc-grey",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ (2 GB)",
    ),
}

_ICL_CL = Identity("ICL", "ViT-H", "C+L")
_ICL_SBD = Identity("ICL", "ViT-H", "SBD")
_SIMPLECLICK_SBD = Identity("SimpleClick", "ViT-H", "SBD")
WEIGHTS = {
    _ICL_CL: (
        "cocolvis_icl_vit_huge.pth",
        "https://github.com/TitorX/CFR-ICL-Interactive-Segmentation/releases/tag/v1.0 (three parts of one 7z archive)",
    ),
    _ICL_SBD: (
        "sbd_icl_vit_huge.pth",
        "not among the files of the paper's release; `jobs.train cfr_icl_huge_sbd` trains one",
    ),
    _SIMPLECLICK_SBD: ("sbd_vit_huge.pth", "the list of models in https://github.com/uncbiag/SimpleClick"),
}
"""Of each model in CLAIMS the name of its file, and where people get it."""
CLAIMS = (
    Claim("Berkeley", _ICL_CL, 1, 90, 1.46),
    Claim("DAVIS", _ICL_CL, 1, 90, 4.24),
    Claim("GrabCut", _SIMPLECLICK_SBD, 1, 90, 1.32),
    Claim("GrabCut", _ICL_SBD, 1, 90, 1.42),
    Claim("PASCAL VOC", _ICL_CL, 1, 95, 2.45),
    Claim("SBD", _SIMPLECLICK_SBD, 1, 90, 4.08),
)

# (patch, dim, depth) of the published variants, and the word for each in file and recipe names.
_SHAPES = {(16, 768, 12): "ViT-B", (16, 1024, 24): "ViT-L", (14, 1280, 32): "ViT-H", (16, 160, 8): "ViT-xtiny"}
_SIZES = {"base": "ViT-B", "large": "ViT-L", "huge": "ViT-H", "xtiny": "ViT-xtiny"}
_TRAINING_SETS = {"cocolvis": "C+L", "sbd": "SBD"}


def identify(checkpoint: Mapping[str, Any]) -> Identity | None:
    """Which published model a checkpoint is.

    Args:
        checkpoint: `summary["checkpoint"]`. A published file is known by its name (`cocolvis_icl_vit_huge.pth`,
            `sbd_vit_huge.pth`), one of ours by its recipe, which must name the system (`icl` or `simpleclick`).

    Returns:
        None when the name does not say, or says another architecture than the weights have.
    """
    if checkpoint["format"] == "predictor":
        return None
    published = checkpoint["format"] == "published"
    name = checkpoint["uri"].rstrip("/").rsplit("/", 1)[-1] if published else checkpoint.get("recipe") or ""
    model = checkpoint["model"]
    shape = _SHAPES.get((model["patch"], model["dim"], model["depth"]))
    found = named(name)
    if found is None or found.variant != shape or not (published or {"icl", "simpleclick"} & _words(name)):
        return None
    return found


def named(name: str) -> Identity | None:
    """The published model that a file's, folder's or recipe's name says; None when it does not."""
    words = _words(name)
    sizes = [variant for word, variant in _SIZES.items() if word in words]
    sets = [known for word, known in _TRAINING_SETS.items() if word in words]
    if len(sizes) != 1 or len(sets) != 1:
        return None
    return Identity("ICL" if "icl" in words else "SimpleClick", sizes[0], sets[0])


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower().replace("coco_lvis", "cocolvis").removesuffix(".pth")))


def compare(claims: Sequence[Claim], summary: Mapping[str, Any]) -> list[ClaimRow]:
    """Each claim with the matching result of an evaluation, if it has one.

    Args:
        claims: usually CLAIMS.
        summary: content of `summary.json`.
    """
    return [_compare(claim, summary) for claim in claims]


def _compare(claim: Claim, summary: Mapping[str, Any]) -> ClaimRow:
    checkpoint = summary["checkpoint"]
    model = identify(checkpoint)
    candidates = [
        row
        for row in summary["results"]
        if _is(claim.benchmark, row["dataset"], summary) and row["cfr_steps"] == claim.cfr_steps
    ]
    if not candidates:
        return ClaimRow(claim, "not run", f"no CFR-{claim.cfr_steps} result on {claim.benchmark} in this evaluation")
    if model != claim.model:
        return ClaimRow(claim, "not run", f"this checkpoint is {_describe(model)}")
    reasons = []
    for row in candidates:
        if reason := _difference(claim, row, summary):
            reasons.append(reason)
            continue
        measured = row["noc"][str(claim.level)]
        close = abs(measured - claim.value) <= TOLERANCE + 1e-9
        return ClaimRow(
            claim,
            "verified" if close else "not verified",
            f"{measured - claim.value:+.2f} clicks",
            measured,
            row["objects"],
            checkpoint["sha256"],
            summary.get("mlflow_run"),
        )
    return ClaimRow(claim, "not run", reasons[0])


def _describe(model: Identity | None) -> str:
    if model is None:
        return "not one of the published models, by its name or recipe"
    return f"{model.system} {model.variant} trained on {model.trained_on}"


def _is(benchmark: str, dataset: str, summary: Mapping[str, Any]) -> bool:
    """Whether a data set of the evaluation is this benchmark, by its source when known, else by its name."""
    return goes_by(summary.get("data", {}).get(dataset, {}).get("source") or dataset, benchmark)


def goes_by(name: str, benchmark: str) -> bool:
    """Whether a data set of this name, or of this source, is the benchmark."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) in BENCHMARKS[benchmark].names


def _difference(claim: Claim, row: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Why a result of the right benchmark and model does not measure the claim; "" if it does."""
    benchmark = BENCHMARKS[claim.benchmark]
    if row["objects"] != benchmark.objects:
        return f"{row['objects']} objects evaluated, the benchmark has {benchmark.objects}"
    if row["adaptive"] or row["cfr_clicks"] != 1:
        return "the claim is for refinement of the first click only, not adaptive"
    if row.get("crop", benchmark.crop) != benchmark.crop:
        return f"network input of {row['crop']} px, published {benchmark.crop} px"
    options = summary["options"]
    if options.get("eval.max_clicks", 20) != 20:
        return f"eval.max_clicks is {options['eval.max_clicks']}, published 20"
    for name, published in config_io.flatten(config.Cfr(), "cfr.").items():
        if (
            name not in ("cfr.steps", "cfr.clicks", "cfr.adaptive", "cfr.crop")
            and options.get(name, published) != published
        ):
            return f"{name} is {options[name]}, published {published}"
    if row["noc"].get(str(claim.level)) is None:
        return f"objects were not clicked up to IoU {claim.level} %"
    return ""
