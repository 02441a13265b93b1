"""One name of a search space: how it is written, what it holds, how a value is drawn.

    VALUE                a fixed value: 3, 1e-4, true, linear, [1,2,3]
    choice(A,B,...)      one of some values, any of the kinds above
    uniform(LOW,HIGH)    a real number
    loguniform(LOW,HIGH) a real number, uniform in its logarithm; LOW > 0
    quniform(LOW,HIGH,Q) LOW, LOW + Q, ... up to HIGH, which must be one of them
    randint(LOW,HIGH)    a whole number, both ends included (as Python's randint; Tune's own leaves HIGH out)

Nothing is evaluated as code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import UserError, did_you_mean

Value = Any
"""bool, int, float, str, or a tuple of them."""

FORMS = ("choice", "uniform", "loguniform", "quniform", "randint")
_CALL = re.compile(r"([A-Za-z_]\w*)\s*\((.*)\)", re.DOTALL)
_WORD = re.compile(r"[\w.:/+-]+")
_WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Fixed:
    """The same value in every trial."""

    value: Value


@dataclass(frozen=True)
class Choice:
    """One of some values, without order."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included.

    Attributes:
        log: uniform in the logarithm.
        step: only low, low + step, ...; None: every number.
        whole: whole numbers; the step is then 1 or another whole number.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False


Dimension = Fixed | Choice | Range


class Suggests(Protocol):
    """The part of `optuna.trial.Trial` that draws values."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int) -> int: ...


def parse(text: str, name: str) -> Dimension:
    """The dimension that a text describes.

    Args:
        name: the dotted name, for messages.

    Raises:
        UserError: another form, a range upside down, a logarithm of what is not positive.
    """
    text = text.strip()
    call = _CALL.fullmatch(text)
    if call is None:
        return Fixed(parse_value(text, name))
    form, inside = call.groups()
    if form not in FORMS:
        raise UserError(f"{name}={text}: there is no {form!r}.{did_you_mean(form, FORMS)} {_forms()}")
    values = [parse_value(part, name) for part in _split(inside)]
    if form == "choice":
        if len({json.dumps(v) for v in values}) < len(values) or not values:
            raise UserError(f"{name}={text}: choice takes different values, one or more.")
        return Choice(tuple(values)) if len(values) > 1 else Fixed(values[0])
    return _range(form, values, f"{name}={text}")


def _forms() -> str:
    return (
        "It may be a value, choice(A,B,...), uniform(LOW,HIGH), loguniform(LOW,HIGH), quniform(LOW,HIGH,STEP) or "
        "randint(LOW,HIGH)."
    )


def _range(form: str, values: list[Value], wrong: str) -> Range:
    wanted = 3 if form == "quniform" else 2
    if len(values) != wanted or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise UserError(f"{wrong}: {form} takes {wanted} numbers. {_forms()}")
    low, high = values[:2]
    if low > high:
        raise UserError(f"{wrong}: the range is upside down, {low} is above {high}.")
    if low == high:
        raise UserError(f"{wrong}: the range is a single value; write it as NAME={low}.")
    if form == "loguniform" and low <= 0:
        raise UserError(f"{wrong}: loguniform needs numbers above 0, got {low}.")
    if form == "randint":
        if not all(isinstance(v, int) for v in values):
            raise UserError(f"{wrong}: randint takes whole numbers.")
        return Range(low, high, step=1, whole=True)
    if form != "quniform":
        return Range(float(low), float(high), log=form == "loguniform")
    step = values[2]
    if step <= 0:
        raise UserError(f"{wrong}: the step must be above 0, got {step}.")
    steps = (high - low) / step
    if abs(steps - round(steps)) > 1e-6 or round(steps) < 1:
        raise UserError(f"{wrong}: steps of {step} from {low} do not reach {high}.")
    return Range(low, high, step=step, whole=all(isinstance(v, int) for v in values))


def parse_value(text: str, name: str) -> Value:
    """A plain value: true, false, a number, a word, or [A,B,...] of them.

    Raises:
        UserError: something else.
    """
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return tuple(parse_value(part, name) for part in _split(text[1:-1]))
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        number = float(text)
    except ValueError:
        if _WORD.fullmatch(text):
            return text
        raise UserError(f"{name}: {text!r} is no value. {_forms()}") from None
    if not math.isfinite(number):
        raise UserError(f"{name}: {text} is no number to search with.")
    return number


def _split(text: str) -> list[str]:
    """The parts between commas that are in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts if text.strip() else []


def spec(dimension: Dimension) -> str:
    """The text of a dimension; `parse` is its inverse."""
    match dimension:
        case Fixed(value):
            return text_of(value)
        case Choice(values):
            return f"choice({','.join(map(text_of, values))})"
        case Range(low, high, log, step, whole):
            ends = f"{text_of(low)},{text_of(high)}"
            if whole and step == 1:
                return f"randint({ends})"
            return f"quniform({ends},{text_of(step)})" if step else f"{'log' if log else ''}uniform({ends})"


def text_of(value: Value) -> str:
    """A value as it is written in a search space."""
    if isinstance(value, tuple | list):
        return f"[{','.join(map(text_of, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: Value) -> str:
    """A value for a reader: floats with four digits."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else text_of(value)


def exact(value: float) -> float:
    """A number without the noise of the arithmetic it comes from: 0.3 rather than 0.30000000000000004."""
    return float(f"{value:.10g}")


def examples(dimension: Dimension) -> list[Value]:
    """The values by which a dimension is checked: all of a choice, the ends of a range."""
    match dimension:
        case Fixed(value):
            return [value]
        case Choice(values):
            return list(values)
        case Range(low, high):
            return [low, high]


def all_values(dimension: Dimension) -> list[Value] | None:
    """Every value, in order; None when they cannot be counted."""
    if not isinstance(dimension, Range):
        return examples(dimension)
    if dimension.step is None:
        return None
    count = round((dimension.high - dimension.low) / dimension.step)
    return [_on_grid(dimension, dimension.low + k * dimension.step) for k in range(count + 1)]


def contains(dimension: Dimension, value: Value) -> bool:
    """Whether a value may be drawn."""
    if not isinstance(dimension, Range):
        return any(_same(value, one) for one in examples(dimension))
    if isinstance(value, bool) or not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
        return False
    if dimension.step is None:
        return True
    steps = (value - dimension.low) / dimension.step
    return abs(steps - round(steps)) < 1e-6


def _same(a: Value, b: Value) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def draw(dimension: Dimension, name: str, trial: Suggests) -> Value:
    """A value that the searcher suggests."""
    match dimension:
        case Fixed(value):
            return value
        case Choice(values):
            texts = [plain(v) for v in values]
            chosen = trial.suggest_categorical(name, texts)
            return next(v for v, text in zip(values, texts, strict=True) if _same(chosen, text))
        case Range(low, high, log, step, whole):
            if whole:
                return trial.suggest_int(name, int(low), int(high), step=int(step or 1))
            value = trial.suggest_float(name, low, high, step=step, log=log)
            return _on_grid(dimension, value) if step else value


def plain(value: Value) -> Value:
    """A value as Optuna takes it: a tuple goes by its text."""
    return json.dumps(value) if isinstance(value, tuple) else value


def _on_grid(dimension: Range, value: float) -> float:
    """The nearest step."""
    assert dimension.step is not None
    steps = round((value - dimension.low) / dimension.step)
    on_grid = dimension.low + steps * dimension.step
    return int(on_grid) if dimension.whole else exact(on_grid)
