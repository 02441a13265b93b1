"""Predictors that are no network of ours, behind the interface of SAM's `SamPredictor`: the same simulated clicks.

A predictor has `set_image(image)`, image (H, W, 3) uint8 RGB, and `predict(point_coords, point_labels, mask_input)`,
which returns masks (C, H, W), scores (C,) and logits (C, ...). It is called after every click with all clicks so far,
(N, 2) x and y in pixels and (N,) 1 or 0, and with the logits of its best mask from the click before, None at the first.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.clicks.encode import Click
from pipeline.clicks.simulate import next_click_center
from pipeline.config import Eval
from pipeline.errors import UserError, describe, did_you_mean
from pipeline.evaluate.metrics import iou
from pipeline.evaluate.shared import ObjectResult, SettingResult, SharedResult, Target
from pipeline.model.checkpoints import CheckpointInfo

EXAMPLE = "--predictor package.module:factory names a function without arguments that returns a predictor"


@dataclass(frozen=True)
class PredictorInfo:
    """Where a predictor comes from, in the place of a `CheckpointInfo`.

    Attributes:
        uri: package.module:factory.
        sha256: of the module's file, hex.
        folder: that the command was given in; modules are looked for there too.
    """

    uri: str
    sha256: str
    folder: str
    format: Literal["predictor"] = "predictor"
    step: None = None
    model: None = None
    config: None = None
    mlflow_run: None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a summary.json."""
        return {"uri": self.uri, "format": self.format, "sha256": self.sha256, "mlflow_run": None, "model": None}


Origin = CheckpointInfo | PredictorInfo
"""Where what is evaluated came from."""


def find(spec: str) -> PredictorInfo:
    """Find a factory without calling it.

    Raises:
        UserError: no such module or function, or one that cannot be imported.
    """
    info = PredictorInfo(spec, "", os.getcwd())
    _factory(info)
    origin = getattr(sys.modules[spec.partition(":")[0]], "__file__", None)
    return replace(info, sha256=hashlib.sha256(Path(origin).read_bytes() if origin else b"").hexdigest())


def _factory(info: PredictorInfo) -> Callable[[], Any]:
    name, colon, function = info.uri.partition(":")
    if not (name and colon and function):
        raise UserError(f"{EXAMPLE}, got {info.uri!r}.")
    if info.folder not in sys.path:
        sys.path.insert(0, info.folder)
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever somebody's module raises when it is imported
        raise UserError(f"--predictor {info.uri}: the module {name} cannot be imported ({_place(error)}).") from error
    found = getattr(module, function, None)
    if not callable(found):
        names = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise UserError(f"--predictor {info.uri}: {name} has no function {function}.{did_you_mean(function, names)}")
    return found


def _place(error: Exception) -> str:
    """An error and the line of somebody's code that it comes from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]  # importlib's own
    return f"{describe(error)}, {frames[-1].filename} line {frames[-1].lineno}"


class Foreign:
    """A predictor at work.

    Attributes:
        moved: called after each of its answers.
    """

    def __init__(self, info: PredictorInfo, moved: Callable[..., Any] = lambda: None) -> None:
        """Build it.

        Raises:
            UserError: the factory fails, or what it returns has not the interface.
        """
        self.info, self.moved = info, moved
        try:
            self.predictor = _factory(info)()
        except UserError:
            raise
        except Exception as error:  # whatever somebody's code raises
            raise UserError(f"--predictor {info.uri}: the factory fails ({_place(error)}).") from error
        for method in ("set_image", "predict"):
            if not callable(getattr(self.predictor, method, None)):
                kind = type(self.predictor).__name__
                raise UserError(f"--predictor {info.uri} returns a {kind}, which has no method {method}. {EXAMPLE}.")
        parameters = inspect.signature(self.predictor.predict).parameters
        self._extra = {"multimask_output": False} if "multimask_output" in parameters else {}
        self._image: np.ndarray | None = None

    def begin(self, image: np.ndarray) -> None:
        """The image of the next object; objects of one image that follow one another set it once."""
        if image is not self._image:
            self.predictor.set_image(image)
            self._image = image

    def masks(self, clicks: list[Click], logits: np.ndarray | None, size: tuple[int, int]) -> tuple[np.ndarray, Any]:
        """The (H, W) bool mask after the last of some clicks, and the logits for the next call.

        Raises:
            UserError: an answer of another form.
        """
        coords = np.array([[c.col, c.row] for c in clicks], np.float64)
        labels = np.array([int(c.positive) for c in clicks])
        answer = self.predictor.predict(point_coords=coords, point_labels=labels, mask_input=logits, **self._extra)
        self.moved()
        if not isinstance(answer, tuple) or len(answer) != 3:
            raise UserError(f"{self.info.uri}: predict returns a {type(answer).__name__}, not (masks, scores, logits).")
        masks, scores, onward = (np.asarray(part) if part is not None else None for part in answer)
        if masks is None or masks.ndim != 3 or masks.shape[1:] != size:
            shape = None if masks is None else masks.shape
            raise UserError(f"{self.info.uri}: masks are {shape}, not (C, {size[0]}, {size[1]}) of the image.")
        best = int(np.argmax(scores)) if scores is not None and scores.size == len(masks) > 1 else 0
        mask = masks[best] if masks.dtype == bool else masks[best] > 0
        return mask, None if onward is None else onward[best : best + 1]


@dataclass
class ForeignSession:
    """What an observer sees of an object (as of a `cfr.Session`)."""

    clicks: list[Click]
    ious: list[float]
    forwards: list[int]
    mask: np.ndarray
    done: bool = False


ForeignObserver = Callable[[Any, ForeignSession], None]


def click_objects(
    foreign: Foreign, targets: Iterable[Target], name: Any, rules: Eval, observe: ForeignObserver | None
) -> Iterator[SharedResult]:
    """Click objects one after the other, as `batch.evaluate_settings` does with a network.

    Args:
        name: of the one setting in the results.
        observe: called with (target's key, name) after each click.
    """
    for target in targets:
        since = time.perf_counter()
        size = (target.truth.shape[0], target.truth.shape[1])
        session = ForeignSession([], [], [], np.zeros(size, bool))
        foreign.begin(target.image)
        logits: Any = None
        while not session.done:
            session.clicks.append(next_click_center(target.truth, session.mask, session.clicks))
            session.mask, logits = foreign.masks(session.clicks, logits, size)
            session.ious.append(iou(target.truth, session.mask))
            session.forwards.append(1)
            reached = session.ious[-1] >= rules.target_iou and not rules.full_curve
            session.done = reached or len(session.clicks) == rules.max_clicks
            if observe is not None:
                observe((target.key, name), session)
        seconds = time.perf_counter() - since
        count = len(session.ious)
        result = ObjectResult(target.key, session.clicks, session.ious, session.forwards, [], seconds)
        yield SharedResult(target.key, {name: SettingResult(result, "", count, float(count))}, count, count)
