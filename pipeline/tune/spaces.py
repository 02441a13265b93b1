"""Search spaces as data: which names are searched in which range, and what cannot be searched.

A space is a dimension (`tune.dimensions`) for some of the dotted names of `pipeline.config`. `tune.proposals` draws
from it and says what a draw means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pipeline.config import TrainConfig
from pipeline.config import io as config_io
from pipeline.errors import UserError, did_you_mean
from pipeline.tune import weights
from pipeline.tune.dimensions import (
    Choice,
    Dimension,
    Fixed,
    Range,
    Value,
    exact,
    examples,
    parse,
    spec,
)

Kind = Literal["cfr", "icl"]
Values = dict[str, Value]


@dataclass(frozen=True)
class Space:
    """A checked search space.

    Attributes:
        config: the values of every name that is not in the space.
        dimensions: of the names that are searched (`searched`) or fixed, conditions' names before those that need them.
        max_clicks: click budget of a cfr sweep: refining more clicks than that is the same.
    """

    kind: Kind
    config: TrainConfig
    dimensions: dict[str, Dimension]
    max_clicks: int = 20

    @property
    def searched(self) -> dict[str, Dimension]:
        return {name: d for name, d in self.dimensions.items() if not isinstance(d, Fixed)}

    @cached_property
    def base(self) -> Values:
        """The value of every name, those of `tune.weights` included, without the space."""
        return base_values(self.config)

    def to_dict(self) -> dict[str, str]:
        """{dotted name: text of its dimension}."""
        return {name: spec(dimension) for name, dimension in self.dimensions.items()}


# A name is drawn only where it has an effect. In the order of drawing.
CONDITIONS: dict[str, Callable[[Mapping[str, Value]], bool]] = {
    "cfr.clicks": lambda v: v["cfr.steps"] > 0,
    # The adaptive stop compares two runs of a click, so that the first it can save is the third.
    "cfr.adaptive": lambda v: v["cfr.steps"] > 1 and v["cfr.clicks"] > 0,
    "cfr.adaptive_pixels": lambda v: v["cfr.adaptive"],
    weights.COUNT: lambda v: v["loss.mode"] == "icl",
    weights.SHAPE: lambda v: v["loss.mode"] == "icl",
    weights.RATIO: lambda v: v["loss.mode"] == "icl" and v[weights.SHAPE] == "geometric" and v[weights.COUNT] > 1,
    **{
        name: lambda v, k=k: v["loss.mode"] == "icl" and v[weights.SHAPE] == "free" and v[weights.COUNT] >= k
        for k, name in enumerate(weights.FREE, start=1)
    },
    **dict.fromkeys(
        ("suem.exclusion_weight", "suem.union_weight", "suem.distractor_weight"), lambda v: v["suem.paste_prob"] > 0
    ),
}

# What cannot be searched, by the beginning of the name, and why.
REFUSED: dict[Kind, dict[str, str]] = {
    "cfr": {"": "a cfr sweep searches the cfr.* of a fixed checkpoint"},
    "icl": {
        **dict.fromkeys(("out", "recipe", "tracking.", "data.train", "data.val"), "it names the run, not what it does"),
        **dict.fromkeys(("eval.", "cfr.", "train.val_"), "it decides how trials are measured"),
        **dict.fromkeys(("train.steps", "train.epochs"), "the sweep's budget decides how long a trial trains"),
        **dict.fromkeys(
            (
                "train.workers",
                "train.min_workers",
                "train.device",
                "train.gpu",
                "train.cpus_per_worker",
                "train.parallel",
            ),
            "it says where a trial runs",
        ),
    },
}


def cfr_defaults(crops: Sequence[int] = ()) -> dict[str, Dimension]:
    """The default space of a cfr sweep.

    Values are few and round on purpose: settings that agree in a value share forward passes (`evaluate.shared`).

    Args:
        crops: sides that fit the network, the checkpoint's own among them; fewer than two: the crop is not searched.
    """
    space: dict[str, Dimension] = {
        "cfr.steps": Range(0, 4, step=1, whole=True),  # published: 0, 1, 4; each refinement costs a pass
        "cfr.clicks": Choice((1, 3, 20)),  # published evaluation: the first click alone; all 20 cost most
        "cfr.adaptive": Choice((False, True)),
        "cfr.adaptive_pixels": Choice((5, 20, 80, 320)),  # published 20; each is four times the one before
        "cfr.threshold": Range(0.39, 0.59, step=0.05),  # published 0.49 in the middle
        "cfr.expansion": Range(1.2, 1.8, step=0.2),  # published 1.4
        "cfr.min_crop": Choice((100, 200, 300)),  # published 200
        "cfr.flip": Choice((False, True)),  # the mirror image doubles the work of a pass
    }
    return space | ({"cfr.crop": Choice(tuple(crops))} if len(crops) > 1 else {})


def icl_defaults(config: TrainConfig) -> dict[str, Dimension]:
    """The default space of an icl sweep around a recipe."""
    lr = config.optim.lr
    return {
        weights.COUNT: Range(1, 4, step=1, whole=True),  # published 3; each click costs a forward and a backward pass
        weights.SHAPE: Choice(weights.SHAPES),  # published linear
        weights.RATIO: Range(0.5, 3.0),  # 1 is flat, 2 weighs click 3 four times
        **{name: Range(0.25, 4.0, log=True) for name in weights.FREE[:4]},
        "loss.prev_mask_drop_prob": Range(0.0, 0.5, step=0.1),  # published 0
        "loss.gamma": Range(0.5, 4.0),  # published 2; towards 0 the loss is cross-entropy
        "loss.alpha": Range(0.25, 0.75),  # published 0.5
        "suem.simple_prob": Range(0.0, 1.0),  # published 0.5, as the next two
        "suem.paste_prob": Range(0.0, 1.0),
        "suem.mix_prob": Range(0.0, 1.0),
        "suem.exclusion_weight": Range(0.1, 3.0),  # published: the three modes of a paste are equally likely
        "suem.union_weight": Range(0.1, 3.0),
        "suem.distractor_weight": Range(0.1, 3.0),
        "optim.lr": Range(exact(lr / 10), exact(lr * 10), log=True),  # a decade either way of the recipe's
        "optim.layer_decay": Range(0.6, 1.0),  # 1 is off, as published; MAE fine-tuning takes 0.65 to 0.85
        "clicks.gamma": Range(0.5, 0.95),  # published 0.8; lower: fewer first clicks
    }


def build(
    kind: Kind,
    config: TrainConfig,
    defaults: Mapping[str, Dimension],
    words: Sequence[str] = (),
    only: bool = False,
    max_clicks: int = 20,
) -> Space:
    """A space from its defaults and the user's NAME=SPEC words, each of which replaces or adds an entry.

    Args:
        config: values of all else.
        only: search nothing but what the words name; without it the rest of `defaults` is searched as well.

    Raises:
        UserError: an unknown name, one that cannot be searched or is given twice, a wrong spec, a value of the wrong
            type or one that the config refuses, nothing left to search.
    """
    base = base_values(config)
    given: dict[str, Dimension] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name or not text:
            raise UserError(f"--space takes NAME=SPEC, got {word!r}. Example: --space 'cfr.steps=choice(0,1,4)'")
        if name in given:
            raise UserError(f"--space names {name} twice.")
        if name not in base and name not in weights.NAMES:
            raise UserError(f"--space: there is no option {name!r}.{did_you_mean(name, [*base, *weights.NAMES])}")
        _searchable(kind, name)
        given[name] = parse(text, name)
    if weights.NAME in given and any(name in given for name in weights.NAMES):
        raise UserError(f"--space: give {weights.NAME} itself, or its count and shape, not both.")
    dimensions = {**({} if only else defaults), **given}
    if weights.NAME in given:
        dimensions = {name: d for name, d in dimensions.items() if name not in weights.NAMES}
    order = list(CONDITIONS)
    names = sorted(dimensions, key=lambda name: order.index(name) if name in CONDITIONS else -1)
    space = Space(kind, config, {name: _checked(config, name, dimensions[name]) for name in names}, max_clicks)
    if not space.searched:
        raise UserError("Nothing is searched: every name has one value. Example: --space 'cfr.steps=choice(0,1,4)'")
    return space


def base_values(config: TrainConfig) -> Values:
    """Every dotted name with its value, and the names of `tune.weights` that stand for the loss weights."""
    flat = config_io.flatten(config)
    return {**flat, **weights.names_of(flat[weights.NAME])}


def _searchable(kind: Kind, name: str) -> None:
    if kind == "cfr" and name.startswith("cfr."):
        return
    for start, reason in REFUSED[kind].items():
        if name.startswith(start):
            raise UserError(f"--space: {name} cannot be searched: {reason}.")


def _checked(config: TrainConfig, name: str, dimension: Dimension) -> Dimension:
    """The dimension, when the config takes its values.

    Raises:
        UserError: it does not.
    """
    if name in weights.NAMES:
        return _checked_weight(name, dimension)
    if isinstance(dimension, Range) and not dimension.whole and type(config_io.flatten(config)[name]) is int:
        raise UserError(f"{name}={spec(dimension)}: it is a whole number; use randint, choice, or whole steps.")
    taken: list[Value] = []
    for value in examples(dimension):
        try:
            taken.append(config_io.flatten(config_io.replace(config, **{name: value}))[name])
        except UserError as error:
            raise UserError(f"{name}={spec(dimension)}: {error}") from error
    if isinstance(dimension, Fixed):
        return Fixed(taken[0])
    return Choice(tuple(taken)) if isinstance(dimension, Choice) else dimension


def _checked_weight(name: str, dimension: Dimension) -> Dimension:
    values = examples(dimension)
    if name == weights.SHAPE:
        wrong = [v for v in values if v not in weights.SHAPES]
        wanted = f"one of {', '.join(weights.SHAPES)}"
    elif name == weights.COUNT:
        wrong = [v for v in values if not isinstance(v, int) or isinstance(v, bool) or not 1 <= v <= weights.MOST]
        wrong += [dimension] if isinstance(dimension, Range) and not dimension.whole else []
        wanted = f"a whole number from 1 to {weights.MOST}"
    else:
        wrong = [v for v in values if isinstance(v, bool) or not isinstance(v, int | float) or v < 0]
        wanted = "a number from 0 up"
    if wrong:
        raise UserError(f"{name}={spec(dimension)}: it must be {wanted}.")
    return dimension
