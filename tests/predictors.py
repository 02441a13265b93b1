"""Predictors that `jobs.evaluate --predictor` is tried with."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline import Predictor


class Colour:
    """What has nearly the colour of a positive click, in a square around it."""

    def __init__(self, reach: int = 60, tolerance: int = 40) -> None:
        self.reach, self.tolerance = reach, tolerance

    def set_image(self, image: np.ndarray) -> None:
        self.image = image.astype(int)

    def predict(self, point_coords: np.ndarray, point_labels: np.ndarray, mask_input: np.ndarray | None = None) -> Any:
        mask = np.zeros(self.image.shape[:2], bool)
        for (x, y), label in zip(point_coords.astype(int), point_labels):
            near = np.abs(self.image - self.image[y, x]).max(axis=2) <= self.tolerance
            rows, cols = (slice(max(0, at - self.reach), at + self.reach) for at in (y, x))
            mask[rows, cols] = mask[rows, cols] | near[rows, cols] if label else mask[rows, cols] & ~near[rows, cols]
        return mask[None], np.ones(1), np.where(mask, 1.0, -1.0)[None]


class Several(Colour):
    """Three masks of which the second is the best, as a model may answer that takes `multimask_output`."""

    def predict(self, *given: Any, multimask_output: bool = True, **named: Any) -> Any:
        assert multimask_output is False
        mask, _, logits = super().predict(*given, **named)
        return np.concatenate([~mask, mask, ~mask]), np.array([0.1, 0.9, 0.2]), np.concatenate([logits] * 3)


class Broken(Colour):
    def predict(self, *given: Any, **named: Any) -> Any:
        return super().predict(*given, **named)[0][:, :5], np.ones(1), None


def colour() -> Colour:
    return Colour()


def several() -> Several:
    return Several()


def broken() -> Broken:
    return Broken()


def small() -> Predictor:
    return Predictor.load("small", device="cpu")


def nothing() -> object:
    return object()


def fails() -> object:
    raise ValueError("no weights")
