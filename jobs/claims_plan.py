"""What of the paper's claims can be measured: the checkpoints and benchmarks that are there, the work, its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline import config, storage
from pipeline.config.evaluation import ClaimsConfig, EvaluateConfig
from pipeline.data.manifest import MANIFEST, PLAN, load_manifest
from pipeline.data.readers import open_reader
from pipeline.errors import UserError, did_you_mean
from pipeline.evaluate.sources import SPLIT, open_source
from pipeline.model.checkpoints import CheckpointInfo, load_model
from pipeline.report.claims import BENCHMARKS, CLAIMS, WEIGHTS, Claim, Identity, goes_by, identify, named

EFFICIENCY = 0.7  # of a network, of the rate of matrix products in float32 (benchmarks/results.md: 0.66 and 0.9)
MAX_CLICKS = 20


@dataclass(frozen=True)
class Weights:
    """A checkpoint under the name of a published one; `stand_in`: why it cannot be that one, "" when it may be."""

    uri: str
    info: CheckpointInfo
    stand_in: str = ""


@dataclass(frozen=True)
class Data:
    """A benchmark that was found.

    Attributes:
        word: as `--data` of jobs.evaluate takes it.
        images: that are there.
        other: how it differs from the published one, "" when it does not.
    """

    word: str
    images: int
    other: str = ""


@dataclass(frozen=True)
class Row:
    """A claim, and what there is to measure it by; `missing` says what is not there."""

    claim: Claim
    weights: Weights | None
    data: Data | None
    missing: str = ""

    @property
    def measurable(self) -> bool:
        return not self.missing

    @property
    def no_verdict(self) -> str:
        """Why a measurement would not be one of the claim; "" when it would."""
        reasons = [self.weights.stand_in if self.weights else "", self.data.other if self.data else ""]
        return "; ".join(reason for reason in reasons if reason)

    @property
    def state(self) -> str:
        """In a few words, for a table."""
        return self.missing or (f"runs, no verdict: {self.no_verdict}" if self.no_verdict else "can be measured")


def wanted(only: Sequence[str]) -> list[Claim]:
    """The claims about some benchmarks; all of them when none is named.

    Raises:
        UserError: a name that is none of a benchmark.
    """
    chosen = set()
    for name in only:
        found = [benchmark for benchmark in BENCHMARKS if goes_by(name, benchmark)]
        if not found:
            raise UserError(
                f"--only {name}: no such benchmark.{did_you_mean(name, BENCHMARKS)} Known: {', '.join(BENCHMARKS)}."
            )
        chosen.update(found)
    return [claim for claim in CLAIMS if not chosen or claim.benchmark in chosen]


def look(options: ClaimsConfig) -> list[Row]:
    """Every wanted claim with the checkpoint and the benchmark it takes, both checked.

    Raises:
        UserError: no such folder, a checkpoint that cannot be read, or, without `stand_ins`, one of another network.
    """
    claims = wanted(options.only)
    files, folders = entries(options.checkpoints, "--checkpoints"), entries(options.data, "--data")
    weights = {model: find_weights(model, files, options) for model in dict.fromkeys(c.model for c in claims)}
    data = {name: find_data(name, folders, options) for name in dict.fromkeys(c.benchmark for c in claims)}
    rows = []
    for claim in claims:
        model, benchmark = weights[claim.model], data[claim.benchmark]
        missing = [text for text in (model, benchmark) if isinstance(text, str)]
        rows.append(
            Row(
                claim,
                None if isinstance(model, str) else model,
                None if isinstance(benchmark, str) else benchmark,
                "missing: " + " and ".join(missing) if missing else "",
            )
        )
    return rows


def entries(folder: str, option: str) -> list[str]:
    """URIs of what lies directly in a folder.

    Raises:
        UserError: there is no such folder.
    """
    uri = storage.absolute(folder)
    if not storage.is_folder(uri):
        raise UserError(f"There is no folder {uri} ({option}).")
    return [*storage.list_folders(uri), *storage.list_files(uri, recursive=False)]


def find_weights(model: Identity, files: list[str], options: ClaimsConfig) -> Weights | str:
    """The checkpoint of a published model, or what is missing."""
    name = WEIGHTS[model][0]
    stem = name.removesuffix(".pth")
    found = [uri for uri in files if not _is_archive(uri) and named(_last(uri)) == model]
    if not found:
        packed = [_last(uri) for uri in files if _is_archive(uri) and _last(uri).startswith(stem)]
        return f"{name} ({packed[0]} is packed: 7z x {packed[0]})" if packed else name
    if len(found) > 1:
        raise UserError(f"--checkpoints holds {', '.join(map(_last, found))}: keep one of them as {name}.")
    _, info = load_model(found[0])
    if identify(info.to_dict()) == model:
        return Weights(found[0], info)
    shape = info.model
    held = f"{_last(found[0])} holds patches of {shape.patch}, dim {shape.dim}, depth {shape.depth}"
    if info.format != "published":
        held = f"{_last(found[0])} is a training run of ours"
    if not options.stand_ins:
        raise UserError(
            f"{held}: it is not the published {model.variant}. --stand-ins takes it in its place, without a verdict."
        )
    return Weights(found[0], info, f"stand-in, {held}")


def find_data(benchmark: str, folders: list[str], options: ClaimsConfig) -> Data | str:
    """A benchmark as it lies in a folder, or what is missing."""
    about = BENCHMARKS[benchmark]
    found = [uri for uri in folders if goes_by(_last(uri), benchmark)]
    if not found:
        return benchmark
    if len(found) > 1:
        raise UserError(f"--data holds {', '.join(map(_last, found))}: keep one of them as {benchmark}.")
    uri = found[0]
    if any(storage.exists(storage.join(uri, file)) for file in (MANIFEST, PLAN)):
        held = load_manifest(uri)
        name, images, objects = held.source.replace("+", "-"), held.rows, held.objects
        if not goes_by(name, benchmark):
            raise UserError(f"{uri} holds shards prepared as {held.source!r}, which are not {benchmark}.")
        word = f"{name}={uri}"
        other = objects != about.objects and f"{objects} objects, the benchmark has {about.objects}"
    else:
        word = f"{about.layout}={uri}"
        open_source(about.layout, uri, storage.absolute(options.out), about.crop, None)
        images = len(open_reader(about.layout, uri, SPLIT.get(about.layout, "")).items())
        other = images != about.images and f"{images} images, the benchmark has {about.images}"
    return Data(word, images, other or "")


def _last(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _is_archive(uri: str) -> bool:
    return ".7z" in _last(uri) or _last(uri).endswith((".zip", ".tar", ".gz"))


def evaluations(rows: Sequence[Row], options: ClaimsConfig) -> dict[str, tuple[list[Row], Any]]:
    """The evaluations that measure the rows, by the name of their folder: their rows, and their configs.

    Claims of one checkpoint up to the same IoU are one evaluation: objects end there, as in the published ones.
    """
    groups: dict[tuple[Identity, int, int], list[Row]] = {}
    for row in rows:
        if row.measurable:
            key = (row.claim.model, row.claim.level, row.claim.cfr_steps)
            groups.setdefault(key, []).append(row)
    found = {}
    for (model, level, steps), members in groups.items():
        name = f"{WEIGHTS[model][0].removesuffix('.pth')}-noc{level}"
        # One evaluation has one --crop, and DAVIS another one than the rest.
        crops = {BENCHMARKS[row.claim.benchmark].crop for row in members}
        for crop in sorted(crops):
            own = [row for row in members if BENCHMARKS[row.claim.benchmark].crop == crop]
            folder = name if len(crops) == 1 else f"{name}-crop{crop}"
            found[folder] = (own, _evaluation(own, level, steps, crop, folder, options))
    return found


def _evaluation(
    rows: list[Row], level: int, steps: int, crop: int, folder: str, options: ClaimsConfig
) -> EvaluateConfig:
    weights = rows[0].weights
    assert weights is not None
    return EvaluateConfig(
        checkpoint=weights.uri,
        data=tuple(row.data.word for row in rows if row.data),
        out=storage.join(storage.absolute(options.out), folder),
        cfr_steps=(steps,),
        crop=crop,
        batch_size=options.batch_size,
        eval=config.Eval(max_clicks=MAX_CLICKS, target_iou=level / 100, device=options.device, actors=options.actors),
        tracking=replace(options.tracking, name=f"claims {folder}"),
    )


@dataclass(frozen=True)
class Work:
    """TFLOP of all forward passes: if every claim holds, and if no object is ever good enough."""

    expected: float
    most: float


def work(rows: Sequence[Row]) -> Work:
    """What the forward passes of the rows compute; flipped inputs count twice."""
    expected = most = 0.0
    for row in rows:
        if row.measurable and row.weights and row.data:
            about, claim = BENCHMARKS[row.claim.benchmark], row.claim
            objects = about.objects * row.data.images / about.images
            each = 2 * tflop_of_pass(row.weights.info.model, about.crop)
            expected += objects * (claim.value + claim.cfr_steps) * each
            most += objects * (MAX_CLICKS + claim.cfr_steps) * each
    return Work(expected, most)


def tflop_of_pass(model: config.Model, crop: int) -> float:
    """TFLOP of one image's forward pass, counted by torch on tensors without content."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pipeline.model.segmenter import ClickSegmenter

    with torch.device("meta"), torch.no_grad():
        network = ClickSegmenter(model)
        image, mask, points = torch.zeros(1, 3, crop, crop), torch.zeros(1, 1, crop, crop), torch.zeros(1, 2, 3)
        with FlopCounterMode(display=False) as counter:
            network(image, mask, points)
    return counter.get_total_flops() / 1e12
