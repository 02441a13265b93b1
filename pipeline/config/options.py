"""What all classes of options have in common: frozen, by keyword, and without a number that is none."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, TypeVar, dataclass_transform

from pipeline.errors import UserError

T = TypeVar("T")


def check(ok: bool, message: str) -> None:
    """Raise UserError(message) unless `ok`."""
    if not ok:
        raise UserError(message)


def check_probabilities(owner: object, prefix: str, *names: str) -> None:
    """Raise UserError unless the options of a group are between 0 and 1."""
    for name in names:
        value = getattr(owner, name)
        check(0.0 <= value <= 1.0, f"{prefix}.{name} is a probability: {value} is not between 0 and 1.")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def options(cls: type[T]) -> type[T]:
    """A frozen dataclass; NaN and infinity in any of its fields are a UserError that names the option."""
    own = getattr(cls, "__post_init__", None)
    group = "" if cls.__name__.endswith("Config") else f"{cls.__name__.lower()}."

    def __post_init__(self: Any) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not is_finite(value):
                raise UserError(f"{group}{field.name} is {value}, which is no number to work with.")
        if own is not None:
            own(self)

    setattr(cls, "__post_init__", __post_init__)  # noqa: B010 (the type has no such attribute)
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def is_finite(value: Any) -> bool:
    """Whether a plain value holds neither NaN nor infinity."""
    if isinstance(value, tuple | list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def load_json(data: bytes | str) -> Any:
    """JSON without NaN and infinity, which Python reads though JSON has neither.

    Raises:
        ValueError: it is not JSON, or holds one of them.
    """
    return json.loads(data, parse_constant=_refuse, parse_float=_number)


def _number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> Any:
    raise ValueError(f"it holds {text}, which is no number")
