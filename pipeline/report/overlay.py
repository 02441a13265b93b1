"""Pictures of objects, masks and clicks, as arrays. Images are (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.clicks.encode import Click, decode
from pipeline.report.closeup import NUMBERED, Panel, Window, fitted, mark_radius, window_for

# Okabe-Ito hues, told apart by colour-blind readers as well; positive and negative clicks differ in shape too.
MASK = (0, 114, 178)
MASK_EDGE = (86, 180, 233)
TRUTH = (240, 228, 66)
IGNORED = (128, 128, 128)
POSITIVE = (0, 158, 80)
NEGATIVE = (213, 30, 20)
PAPER = (255, 255, 255)
INK = (40, 40, 40)
TINT = 0.45

GAP = 6  # pixels between the panels of a strip


@lru_cache(maxsize=16)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _edge(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], width: int) -> None:
    """Draw the outline of an (H, W) bool mask into `image`."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, width, cv2.LINE_AA)


def _tint(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], strength: float) -> None:
    image[mask] = (image[mask] * (1 - strength) + np.array(colour) * strength).astype(np.uint8)


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    truth: np.ndarray | None = None,
    clicks: Sequence[Click] = (),
    radius: int = 0,
) -> np.ndarray:
    """An image with a mask (blue), the ground truth's outline (yellow) and numbered clicks.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        mask: (H, W) bool.
        truth: (H, W) bool, or int8 {1, 0, -1}; ignored pixels are greyed.
        clicks: in time order; positive ones are green disks, negative ones red squares. One beside the image is not
            drawn.
        radius: of a click's mark, pixels; 0: by the image's size.

    Returns:
        (H, W, 3) uint8.
    """
    picture = np.ascontiguousarray(image).copy()
    thickness = max(1, round(max(mask.shape) / 350))
    mask = np.asarray(mask, bool)
    if truth is not None and truth.dtype != bool:
        _tint(picture, truth == -1, IGNORED, 0.7)
    _tint(picture, mask, MASK, TINT)
    if truth is not None:
        _edge(picture, truth == 1, TRUTH, thickness + 1)
    _edge(picture, mask, MASK_EDGE, thickness)
    return _with_clicks(picture, clicks, radius)


def _truth_panel(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """An image with the ground truth tinted yellow and ignored pixels greyed."""
    picture = image.copy()
    _tint(picture, truth == -1, IGNORED, 0.7)
    _tint(picture, truth == 1, TRUTH, TINT)
    _edge(picture, truth == 1, TRUTH, 2)
    return picture


def _with_clicks(picture: np.ndarray, clicks: Sequence[Click], radius: int = 0) -> np.ndarray:
    """The picture with click marks, whole ones also at its border; small ones have no number.

    The first clicks lie on top: later ones crowd around small errors.
    """
    if not clicks:
        return picture
    height, width = picture.shape[:2]
    radius = radius or mark_radius(picture.shape)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for number, click in reversed(list(enumerate(clicks, 1))):
        if not (-0.5 <= click.row < height - 0.5 and -0.5 <= click.col < width - 0.5):
            continue
        x, y = (max(radius, min(size - radius - 1, at)) for at, size in ((click.col, width), (click.row, height)))
        box = (x - radius, y - radius, x + radius, y + radius)
        shape = draw.ellipse if click.positive else draw.rectangle
        shape(box, fill=POSITIVE if click.positive else NEGATIVE, outline=(255, 255, 255), width=max(1, radius // 5))
        if radius < NUMBERED:
            continue
        font = _font(max(7, round(radius * (1.35 if number < 10 else 1.1))), bold=True)
        draw.text((x, y), str(number), (255, 255, 255), font, anchor="mm")
    return np.asarray(canvas).copy()


def _caption(panel: np.ndarray, text: str, font_size: int) -> np.ndarray:
    """The panel with a line of text under it, smaller where the panel is narrow."""
    fitting = font_size * panel.shape[1] / max(1.0, _font(font_size).getlength(text))
    font = _font(max(9, min(font_size, int(fitting))))
    width = max(panel.shape[1], round(font.getlength(text)) + 4)
    canvas = Image.new("RGB", (width, panel.shape[0] + font_size + 9), PAPER)
    canvas.paste(Image.fromarray(panel), ((width - panel.shape[1]) // 2, 0))
    ImageDraw.Draw(canvas).text((width / 2, canvas.height - 3), text, INK, font, anchor="md")
    return np.asarray(canvas)


def strip(panels: Sequence[np.ndarray], captions: Sequence[str], height: int = 220) -> np.ndarray:
    """Panels side by side on white, all `height` pixels high, each with a caption under it.

    Args:
        panels: at least one (H, W, 3) uint8 image, sizes may differ.
        captions: one per panel; no room is left for captions when all are empty.

    Returns:
        (H', W', 3) uint8.
    """
    parts = [_to_height(np.ascontiguousarray(panel), height) for panel in panels]
    if any(captions):
        parts = [_caption(part, text, max(10, round(height / 13))) for part, text in zip(parts, captions, strict=True)]
    gap = np.full((parts[0].shape[0], GAP, 3), PAPER, np.uint8)
    spaced = [piece for part in parts for piece in (part, gap)][:-1]
    return np.concatenate(spaced, axis=1)


def _to_height(image: np.ndarray, height: int) -> np.ndarray:
    """The panel `height` pixels high; one that is too wide for that is made smaller and stands in the middle."""
    shown = image if image.shape[0] == height else fitted(image, height)
    missing = height - shown.shape[0]
    if not missing:
        return shown
    return cv2.copyMakeBorder(
        shown, missing // 2, missing - missing // 2, 0, 0, cv2.BORDER_CONSTANT, value=[float(v) for v in PAPER]
    )


def object_strip(
    image: np.ndarray,
    truth: np.ndarray,
    clicks: Sequence[Click],
    masks: Mapping[int, np.ndarray],
    ious: Sequence[float],
    height: int = 220,
) -> np.ndarray:
    """The report's strip of one object: picture, ground truth, then the mask after some of the clicks.

    Drawn at the strip's size, so that lines and click marks are as thick for a large photograph as for a small one.
    Where click marks would hide the object, all but the first panel show the part of the image around it.

    Args:
        image: (H, W, 3) uint8.
        truth: (H, W) int8 {1, 0, -1}.
        clicks: all clicks of the object.
        masks: {number of clicks given: (H, W) bool mask after them}.
        ious: IoU after each click.
        height: of the panels, pixels.
    """
    target = truth.astype(np.int8)
    box = Window.of(target == 1)
    panel = Panel(image, window_for(box, clicks, image.shape, height), box, height)
    small = panel.labels(target)
    size = "ground truth" if panel.whole else f"truth, {panel.window.shape[1]} x {panel.window.shape[0]} px"
    panels = [whole_image(image, panel, height), _truth_panel(panel.image, small)]
    captions = ["image", size]
    for count in sorted(masks):
        drawn = panel.clicks(clicks[:count])
        panels.append(overlay(panel.image, panel.mask(masks[count]), small, drawn, panel.radius))
        outside = panel.outside(clicks[:count])
        away = f" ({outside} outside)" if outside else ""
        captions.append(f"{count} click{'s' if count > 1 else ''}: IoU {ious[count - 1]:.3f}{away}")
    return strip(panels, captions, height)


def whole_image(image: np.ndarray, panel: Panel, height: int) -> np.ndarray:
    """An image `height` pixels high, with a frame around what the panel shows of it."""
    if panel.whole:
        return panel.image
    small = np.ascontiguousarray(fitted(image, height))
    down, right = (now / was for now, was in zip(small.shape, image.shape[:2]))
    window = panel.window
    corners = [
        (round(window.left * right) - 2, round(window.top * down) - 2),
        (round(window.right * right) + 1, round(window.bottom * down) + 1),
    ]
    for colour, width in ((INK, 4), (PAPER, 2)):
        cv2.rectangle(small, corners[0], corners[1], colour, width)
    return small


def training_picture(
    images: np.ndarray, targets: np.ndarray, points: np.ndarray, columns: int = 4, limit: int = 16
) -> np.ndarray:
    """A contact sheet of training samples: target tinted yellow, first clicks numbered by their order.

    Args:
        images: (B, 3, H, W) or (B, H, W, 3) uint8 RGB.
        targets: (B, 1, H, W) or (B, H, W) {1, 0, -1}.
        points: (B, 2N, 3) float32 (row, col, order), unused rows -1.
        columns: samples in a row.
        limit: samples shown at most.
    """
    if images.shape[1] == 3 and images.shape[-1] != 3:
        images = images.transpose(0, 2, 3, 1)
    targets = targets.reshape(len(images), *images.shape[1:3])
    tiles = [
        _with_clicks(_truth_panel(np.ascontiguousarray(image), target), decode(clicks))
        for image, target, clicks in zip(images[:limit], targets, points, strict=False)
    ]
    side = tiles[0].shape[0]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [strip(tiles[i : i + columns], [""] * columns, side) for i in range(0, len(tiles), columns)]
    gap = np.full((GAP, rows[0].shape[1], 3), PAPER, np.uint8)
    return np.concatenate([piece for row in rows for piece in (row, gap)][:-1], axis=0)
