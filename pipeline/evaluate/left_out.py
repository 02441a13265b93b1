"""What an evaluation did not evaluate, in sentences: what, how many of how many, why, and what takes it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.data.manifest import REJECTED, Manifest


@dataclass(frozen=True)
class Held:
    """What a data set holds, evaluated or not.

    Attributes:
        images: of the raw data, as far as they were listed.
        aside: images and objects set aside when the shards were made, by reason.
        left_out: sound images without a row, by reason.
        stuff: regions that are no objects to click; None where not all rows were looked at (`--limit`).
        beyond: objects that may lie beyond the limit.
    """

    images: int = 0
    aside: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    stuff: int | None = 0
    beyond: int = 0


def held_by(manifest: Manifest, found: int, stuff: int | None) -> Held:
    """What a manifest says.

    Args:
        found: objects that are evaluated.
        stuff: see `Held`.
    """
    beyond = manifest.objects - found if stuff is None else 0
    images = manifest.rows + sum(manifest.left_out.values())
    return Held(images, manifest.rejected, manifest.left_out, stuff, beyond)


def sentences(name: str, uri: str, held: Held, objects: int, limit: int, rejected: Mapping[str, int]) -> list[str]:
    """What of one data set was not evaluated.

    Args:
        uri: of its shards.
        objects: planned, those that were then set aside among them.
        rejected: what could not be evaluated, by reason; of a raw folder what could not be converted is among it (and
            not in `held`).
    """
    lines: list[str] = []
    if rejected:
        lines.append(
            f"{name}: {sum(rejected.values())} set aside beside {objects} objects: {_list(rejected)}. They are listed "
            "in rejected.parquet; mended files are evaluated with another --out."
        )
    if held.aside:
        lines.append(
            f"{name}: {sum(held.aside.values())} were set aside when its {held.images} images were prepared: "
            f"{_list(held.aside)}. They are listed in {uri}/{REJECTED}; mend them and prepare the data again."
        )
    if held.left_out:
        count = sum(held.left_out.values())
        lines.append(f"{name}: {count} of {held.images} images have nothing to evaluate: {_list(held.left_out)}.")
    if held.stuff:
        lines.append(
            f"{name}: {held.stuff} of {held.stuff + objects} regions are stuff, which nobody clicks; no option."
        )
    if limit and held.beyond:
        lines.append(
            f"{name}: {objects} of {objects + held.beyond} objects were evaluated: --limit {limit} takes the first; "
            "--limit 0 takes all."
        )
    return lines


def _list(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{n} x {reason}" for reason, n in sorted(reasons.items(), key=lambda r: (-r[1], r[0])))
