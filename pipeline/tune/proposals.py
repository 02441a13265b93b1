"""What is drawn from a space, and the one setting that it means.

What is drawn for a trial are the names that matter there: one with a condition (`spaces.CONDITIONS`) only where it
holds. Draws that mean the same have one and the same setting: CFR-0 is CFR-0 with any adaptive stop, so a name without
effect takes its base value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import io as config_io
from pipeline.config.sweeps import SweepBase
from pipeline.errors import UserError, did_you_mean
from pipeline.tune import weights
from pipeline.tune.dimensions import (
    Dimension,
    Fixed,
    Suggests,
    all_values,
    contains,
    draw,
    parse_value,
)
from pipeline.tune.spaces import CONDITIONS, Space, Values


@dataclass(frozen=True)
class Proposal:
    """A setting to try.

    Attributes:
        values: the draw.
        setting: what it means.
        name: of a published setting or a point given by hand.
        inside: whether the searcher could have drawn it.
    """

    values: Values
    setting: Values
    name: str = ""
    inside: bool = True


_PUBLISHED_CFR: dict[str, Values] = {
    "CFR-0": {"cfr.steps": 0},
    "CFR-1": {"cfr.steps": 1},
    "CFR-4": {"cfr.steps": 4},
    "A-CFR-4": {"cfr.steps": 4, "cfr.adaptive": True},
}


def published(space: Space) -> dict[str, Values]:
    """The published settings by name, as draws: they are tried first, also where they lie outside of the space.

    cfr: CFR-0, CFR-1, CFR-4 and A-CFR-4 with the published values of all else. icl: the recipe as it is. Fixed names
    keep their fixed value. Names that then mean the same setting are joined ("CFR-1, CFR-4").
    """
    points = _PUBLISHED_CFR if space.kind == "cfr" else {"recipe": {}}
    found: dict[str, Values] = {}
    names: dict[str, list[str]] = {}
    for name, point in points.items():
        drawn = point_of(space, point)
        key = key_of(setting_of(space, drawn))
        found.setdefault(key, drawn)
        names.setdefault(key, []).append(name)
    return {", ".join(names[key]): drawn for key, drawn in found.items()}


def parse_point(space: Space, text: str) -> Values:
    """A setting given by hand, "NAME=VALUE NAME=VALUE", as a draw; what it does not name has its base value.

    Raises:
        UserError: another form, a name that is not searched, a value that the config refuses.
    """
    point: Values = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--point takes 'NAME=VALUE NAME=VALUE ...', got {text!r}.")
        if name not in space.searched:
            raise UserError(f"--point: {name} is not searched.{did_you_mean(name, space.searched)}")
        point[name] = parse_value(value, name)
    try:
        drawn = point_of(space, point)
        config_of(space, setting_of(space, drawn))
    except KeyError as error:
        raise UserError(f"--point {text!r} needs a value of {error.args[0]} as well.") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"--point {text!r}: {error}.") from error
    return drawn


def first_proposals(space: Space, points: Sequence[str]) -> list[Proposal]:
    """The published settings and the points given by hand, each setting once: they are tried first.

    Raises:
        UserError: a wrong point.
    """
    found: dict[str, Proposal] = {}
    drawn = [*published(space).items(), *((f"point {n}", parse_point(space, p)) for n, p in enumerate(points, start=1))]
    for name, values in drawn:
        setting = setting_of(space, values)
        found.setdefault(key_of(setting), Proposal(values, setting, name, inside(space, values)))
    return list(found.values())


def _walk(space: Space, choose: Callable[[str, Dimension, Values], Any]) -> tuple[Values, Values]:
    """The searched names that have an effect, and the values of all names; `choose` gives the searched ones theirs."""
    base = space.base
    values, drawn = dict(base), {}
    for name, dimension in space.dimensions.items():
        if name in CONDITIONS and not CONDITIONS[name](values):
            continue
        if isinstance(dimension, Fixed):
            values[name] = dimension.value
        else:
            values[name] = drawn[name] = choose(name, dimension, base)
    return drawn, values


def suggest(space: Space, trial: Suggests) -> Values:
    """A draw by a searcher: for `OptunaSearch(space=lambda trial: ...)`, which records what it suggested."""
    return _walk(space, lambda name, dimension, base: draw(dimension, name, trial))[0]


def point_of(space: Space, point: Mapping[str, Any]) -> Values:
    """A point as a draw: its values, and base values for searched names that it lacks.

    Raises:
        KeyError: a name without a base value that the point needs (the ratio of a geometric shape).
    """
    return _walk(space, lambda name, dimension, base: point[name] if name in point else base[name])[0]


def inside(space: Space, drawn: Mapping[str, Any]) -> bool:
    """Whether the searcher could have drawn this."""
    return all(contains(space.dimensions[name], value) for name, value in drawn.items())


def setting_of(space: Space, drawn: Mapping[str, Any]) -> Values:
    """What a draw sets: the real dotted names that the space searches or fixes, the same names for every draw.

    `loss.weights` stands for its count and shape.
    """
    values = _walk(space, lambda name, dimension, base: drawn[name])[1]
    if space.kind == "cfr":
        _canonical_cfr(values, space)
    names = [name for name in space.dimensions if name not in weights.NAMES]
    if len(names) < len(space.dimensions):
        values[weights.NAME] = weights.weights_of(values)
        names.append(weights.NAME)
    return {name: values[name] for name in names}


def _canonical_cfr(values: Values, space: Space) -> None:
    values["cfr.clicks"] = min(values["cfr.clicks"], space.max_clicks)
    if values["cfr.steps"] == 0 or values["cfr.clicks"] == 0:
        base = space.base
        values["cfr.steps"] = 0
        for name in ("cfr.clicks", "cfr.adaptive", "cfr.adaptive_pixels"):
            values[name] = base[name]


def key_of(setting: Mapping[str, Any]) -> str:
    """The same text for the same setting."""
    return json.dumps(setting, sort_keys=True)


def config_of(space: Space, setting: Mapping[str, Any]) -> Any:
    """The whole config of a setting.

    Raises:
        UserError: values that do not go together.
    """
    return config_io.replace(space.config, **setting)


def grid(space: Space) -> list[Values]:
    """Every draw of a space whose names all have countable values; each setting once.

    Raises:
        UserError: a name with a continuous range.
    """
    endless = [name for name, dimension in space.searched.items() if all_values(dimension) is None]
    if endless:
        raise UserError(
            f"--search grid needs values that can be counted, and {', '.join(endless)} has a continuous range: "
            "use choice, randint or quniform there."
        )
    return list({key_of(setting_of(space, drawn)): drawn for drawn in _every(space, {})}.values())


def _every(space: Space, chosen: Values) -> Iterator[Values]:
    """All draws that begin with `chosen`."""
    missing: list[tuple[str, Dimension]] = []

    def choose(name: str, dimension: Dimension, base: Values) -> Any:
        if name not in chosen:
            missing.append((name, dimension))
            return (all_values(dimension) or [None])[0]
        return chosen[name]

    drawn, _ = _walk(space, choose)
    if not missing:
        yield drawn
        return
    name, dimension = missing[0]
    for value in all_values(dimension) or []:
        yield from _every(space, {**chosen, name: value})


def check_trials(space: Space, config: SweepBase) -> None:
    """Raise UserError where a sweep has no trials, or fewer than the settings of the grid that is asked for."""
    if config.trials < 1:
        raise UserError(f"--trials must be at least 1, got {config.trials}.")
    if config.search == "grid" and (size := len(grid(space))) > config.trials:
        raise UserError(
            f"The grid has {size} settings, more than --trials {config.trials}: raise it, narrow the space, or take "
            "--search random for a part of it."
        )


def search_identity(config: SweepBase, space: Space) -> dict[str, Any]:
    """The part of a sweep's identity that says what is searched and how."""
    return {
        "space": space.to_dict(),
        "points": list(config.point),
        "search": config.search,
        "objectives": list(config.objectives),
        "seed": config.search_seed,
    }
