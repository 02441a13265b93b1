"""Click on your own image in Python: the interface of SAM's predictor, the masks of `jobs.evaluate`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Literal, Self

import numpy as np
import torch

from pipeline.clicks.encode import Click
from pipeline.config import Cfr, Eval
from pipeline.config.evaluation import GPU_BATCH
from pipeline.errors import UserError, did_you_mean
from pipeline.evaluate.batch import evaluate_objects
from pipeline.evaluate.cfr import Refinement, Replay, Session
from pipeline.evaluate.photo import Photo
from pipeline.evaluate.shared import GivenClicks, Network
from pipeline.evaluate.sources import default_crop
from pipeline.model.checkpoints import CheckpointInfo, load_model
from pipeline.model.precision import forward_precision, set_float32
from pipeline.model.segmenter import check_crop
from pipeline.predict.clicked import ClickedObject, score_of
from pipeline.predict.fetched import fetched
from pipeline.predict.inputs import to_click, to_clicks, to_device, to_pixels
from pipeline.weights import located

Precision = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
Answer = tuple[np.ndarray, np.ndarray, np.ndarray]
EDGE = 1e-6  # probabilities this near 0 and 1 have no larger logits than +-13.8


class Predictor:
    """One object being clicked on one image.

        predictor = Predictor.load("small", cfr_steps=1)
        predictor.set_image("photo.jpg")
        masks, scores, logits = predictor.predict(point_coords=[[210, 140]], point_labels=[1])

    or click by click: `click`, `undo`, `reset`, with `mask` and `overlay` to look at. Masks are to the pixel those of
    `jobs.evaluate` for the same clicks. Coordinates are SAM's: x to the right, y down, pixels, from 0.

    Threads: a call waits for the one before it on the same predictor, so a predictor may be shared, and is never seen
    half-way; whoever serves several people gives each object a predictor of its own by `new`, which shares the network
    (forward passes of several predictors run side by side, and nothing of the network is changed by one).

    Attributes:
        cfr: how a click is refined, and the zoom-in.
        device: that the network is on.
        info: where the network came from, None for one that was handed over.
    """

    def __init__(
        self,
        model: Network,
        cfr: Cfr,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        info: CheckpointInfo | None = None,
    ) -> None:
        """`model`: in evaluation mode, on `device`. `load` reads one from a file."""
        self.cfr, self.device, self.info = cfr, torch.device(device), info
        self.precision: Precision = precision
        self._model = model
        self._lock = threading.RLock()
        self._pixels: np.ndarray | None = None
        self._photo: Photo | None = None
        self._object: ClickedObject | None = None

    @classmethod
    def load(
        cls,
        checkpoint: str,
        cfr_steps: int = 0,
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        crop: int = 0,
        **cfr: Any,
    ) -> Self:
        """A predictor with the network of a checkpoint.

        Args:
            checkpoint: a run folder, a checkpoint, a published .pth file, as path or URI, `small` of the package, or a
                model in MLflow (models:/NAME/1, models:/NAME@latest, runs:/RUN/model).
            cfr_steps: n of CFR-n: further passes that refine the first click.
            device: auto (a GPU where there is one), cpu, cuda, cuda:1, ...
            precision: fp32, tf32 (NVIDIA GPUs, of the whole process) or bf16; fp32 gives the masks of an evaluation.
            crop: side of the network's input, pixels; 0: as it was trained.
            cfr: further options of `config.Cfr`: adaptive=True, clicks=20, flip=False, threshold=0.5, ...

        Raises:
            UserError: no such checkpoint, option or device, or a crop that does not fit the network.
        """
        known = [field.name for field in fields(Cfr)]
        for name in cfr:
            if name not in known:
                raise UserError(f"Predictor.load has no option {name!r}.{did_you_mean(name, known)}")
        if precision not in PRECISIONS:
            raise UserError(f"precision is fp32, tf32 or bf16, not {precision!r}.")
        found = to_device(device)
        model, info = load_model(located(fetched(str(checkpoint))), str(found))
        side = crop or default_crop("", info)
        check_crop(info.model, side, "crop")
        if precision == "tf32":
            set_float32(tf32=True)
        return cls(model, Cfr(**{**cfr, "steps": cfr_steps, "crop": side}), found, precision, info)

    def new(self, **cfr: Any) -> Self:
        """Another predictor with the same network, for another object or image; `cfr`: options that are different."""
        return type(self)(self._model, replace(self.cfr, **cfr), self.device, self.precision, self.info)

    def set_image(self, image: Any, image_format: str = "RGB") -> None:
        """Begin with an image; clicks of the one before are forgotten.

        Args:
            image: path, URI, bytes of a file, Pillow image, or (H, W, 3) uint8. Files and Pillow images are turned as
                their EXIF orientation says.
            image_format: RGB or BGR, of an array.

        Raises:
            UserError: no image.
        """
        if image_format not in ("RGB", "BGR"):
            raise UserError(f"image_format is RGB or BGR, not {image_format!r}.")
        pixels = to_pixels(image)
        if image_format == "BGR":
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        with self._lock:
            self._pixels, self._photo = pixels, Photo(pixels, self.device)
            self.reset()

    def reset(self) -> None:
        """Begin a new object on the same image."""
        with self._lock:
            if self._photo is not None:
                self._object = ClickedObject(self.network, self._photo, self.cfr, self.device)

    def click(self, x: float, y: float, positive: bool = True) -> np.ndarray:
        """One more click; returns the new mask, (H, W) bool.

        Raises:
            UserError: no image, or a click outside of it.
        """
        with self._lock:
            current = self._current()
            current.add([to_click(x, y, positive, current.now.size)])
            return self.mask

    def undo(self) -> np.ndarray:
        """Take the last click back; returns the mask before it. Without clicks nothing happens."""
        with self._lock:
            current = self._current()
            current.back_to(max(0, current.finished - 1))
            return self.mask

    @property
    def clicks(self) -> list[Click]:
        """The clicks so far, (row, col, positive)."""
        with self._lock:
            return list(self._current().now.clicks)

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool after the last click; all false before the first."""
        with self._lock:
            return self._current().now.mask.copy()

    @property
    def probability(self) -> np.ndarray:
        """(H, W) float32 of the last forward pass; zeros before the first."""
        with self._lock:
            return self._current().now.probability.cpu().numpy().copy()

    def overlay(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the image with the mask and the numbered clicks."""
        from pipeline.report.overlay import overlay  # draws with matplotlib's fonts

        with self._lock:
            now = self._current().now
            assert self._pixels is not None
            return overlay(self._pixels, now.mask, clicks=now.clicks)

    def predict(
        self,
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = False,
        return_logits: bool = False,
    ) -> Answer:
        """The mask for all clicks of an object, given in their order (SAM's `SamPredictor.predict`).

        Clicks are taken one after the other, each seeing the map of those before. A list that goes on from the last
        call's costs the new clicks only.

        Args:
            point_coords: (N, 2), x and y of each click, pixels of the image.
            point_labels: (N,), 1 positive, 0 negative.
            box: not known to this network; click the object's middle.
            mask_input: (H, W) or (1, H, W) float32 logits of the image: the map to begin from. All clicks then see it
                at once, as one click does that refines it. With the logits that the last call gave, its clicks and
                more, the object goes on, one new click after the other.
            multimask_output: there is one mask.
            return_logits: logits in place of masks.

        Returns:
            masks: (1, H, W) bool (float32 logits with `return_logits`).
            scores: (1,) float32: IoU to expect if the probabilities are right, see `metrics.expected_iou`.
            logits: (1, H, W) float32, for `mask_input`.

        Raises:
            UserError: no image, no click, a click outside of the image, an option that the network has not.
        """
        if box is not None:
            raise UserError("This network takes clicks and no box: click the middle of the object, then what is wrong.")
        if multimask_output:
            raise UserError("This network gives one mask: call predict with multimask_output=False.")
        with self._lock:
            current = self._current()
            clicks = to_clicks(point_coords, point_labels, current.now.size)
            if mask_input is None:
                current.follow(clicks)
            elif self._goes_on(start := np.asarray(mask_input), clicks):
                for click in clicks[len(current.now.clicks) :]:
                    current.add([click])
            else:
                current.begin_with(start)
                current.add(clicks)
            return self._answer(current.now, return_logits)

    def predict_objects(
        self,
        point_coords: Sequence[Any],
        point_labels: Sequence[Any],
        *,
        batch_size: int = 0,
        return_logits: bool = False,
    ) -> Answer:
        """Several objects of the image at once, each with its own clicks; the clicks of `click` stay as they are.

        Args:
            point_coords, point_labels: of each of B objects, as in `predict`; they may have different numbers.
            batch_size: objects that share a forward pass; 0: 16 on a GPU, else 1. Above 1 masks may differ by rounding.
            return_logits: as in `predict`.

        Returns:
            masks (B, 1, H, W), scores (B, 1), logits (B, 1, H, W), as in `predict`.
        """
        with self._lock:
            size = self._current().now.size
            if len(point_coords) != len(point_labels) or not len(point_coords):
                raise UserError(f"{len(point_coords)} objects have point_coords and {len(point_labels)} point_labels.")
            assert self._photo is not None
            given = [
                GivenClicks(number, self._photo, to_clicks(coords, labels, size))
                for number, (coords, labels) in enumerate(zip(point_coords, point_labels, strict=True))
            ]
            answers: dict[int, Answer] = {}

            def keep(number: int, session: Session | Replay) -> None:
                if session.done:
                    answers[number] = self._answer(session, return_logits)

            batch = batch_size or (GPU_BATCH if self.device.type == "cuda" else 1)
            list(evaluate_objects(self.network, given, self.cfr, Eval(), batch, self.device, observe=keep))
            masks, scores, logits = zip(*(answers[number] for number in range(len(given))), strict=True)
            return np.stack(masks), np.stack(scores), np.stack(logits)

    def network(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """One forward pass in the predictor's precision, see `shared.Network`."""
        with forward_precision(self.precision, self.device):
            return self._model(image, prev_mask, points)

    def _goes_on(self, logits: np.ndarray, clicks: list[Click]) -> bool:
        """Whether these are the logits of the object as it is, and its clicks and more."""
        now = self._current().now
        begun = bool(now.clicks) and clicks[: len(now.clicks)] == now.clicks
        return begun and np.array_equal(logits, logits_of(now))

    def _current(self) -> ClickedObject:
        if self._object is None:
            raise UserError("There is no image yet: call set_image first.")
        return self._object

    def _answer(self, now: Refinement, return_logits: bool) -> Answer:
        logits, mask = logits_of(now), now.mask.copy()
        score = score_of(now)
        return logits if return_logits else mask[None], np.array([score], np.float32), logits


def logits_of(now: Refinement) -> np.ndarray:
    """(1, H, W) float32 logits of an object's map."""
    return torch.logit(now.probability, eps=EDGE).cpu().numpy()[None]
