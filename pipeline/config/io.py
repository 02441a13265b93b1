"""Configs to and from plain values (JSON, command line, MLflow parameters), with dotted names."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.config.options import check
from pipeline.errors import did_you_mean
from pipeline.redact import mask_all


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def masked(config: Any) -> dict[str, Any]:
    """`to_dict` without credentials: what may be written to a file."""
    return mask_all(to_dict(config))


def flat_masked(config: Any) -> dict[str, Any]:
    """`flatten` of what `masked` writes, as who reads the file back sees it."""
    return flatten(from_dict(type(config), masked(config)))


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config as {dotted name: value}; the names are those of the command line."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{f.name}."))
        else:
            flat[f"{prefix}{f.name}"] = value
    return flat


def replace(config: Any, **dotted: Any) -> Any:
    """A copy of `config` with dotted names replaced: `replace(c, **{"optim.lr": 1e-5})`."""
    data = to_dict(config)
    known = flatten(config)
    for name, value in dotted.items():
        check(name in known, f"There is no option {name!r}.{did_you_mean(name, known)}")
        node = data
        *path, last = name.split(".")
        for part in path:
            node = node[part]
        node[last] = value
    return from_dict(type(config), data)


def from_dict(cls: type, data: dict[str, Any], where: str = "") -> Any:
    """Build config class `cls` from plain values.

    Raises:
        UserError: an unknown name (with the nearest known one) or a value of the wrong type.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for name, value in data.items():
        dotted = f"{where}{name}"
        check(name in names, f"There is no option {dotted!r}.{did_you_mean(name, names)}")
        values[name] = _coerce(hints[name], value, dotted)
    return cls(**values)


def _coerce(hint: Any, value: Any, dotted: str) -> Any:
    origin = get_origin(hint)
    wrong = f"Option {dotted!r} got {value!r}"
    if dataclasses.is_dataclass(hint):
        check(isinstance(value, dict), f"{wrong}, which is not a group of options.")
        return from_dict(typing.cast(type, hint), value, f"{dotted}.")
    if origin is Literal:
        check(value in get_args(hint), f"{wrong}; it must be one of {', '.join(map(str, get_args(hint)))}.")
        return value
    if origin is tuple:
        inner = get_args(hint)
        check(isinstance(value, (list, tuple)), f"{wrong}, which is not a list.")
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_coerce(inner[0], v, dotted) for v in value)
        check(len(value) == len(inner), f"{wrong}; it takes {len(inner)} values.")
        return tuple(_coerce(h, v, dotted) for h, v in zip(inner, value, strict=True))
    if origin in (typing.Union, types.UnionType):
        inner = [h for h in get_args(hint) if h is not type(None)]
        return None if value is None else _coerce(inner[0], value, dotted)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    check(isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), f"{wrong}, not {hint.__name__}.")
    return value
