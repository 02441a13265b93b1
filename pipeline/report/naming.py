"""What a model is called where people read: by its run and step, its file, or its name in the package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.weights import NAMES

# Folders that every run and every model has: they tell nobody which one it is.
_GENERAL = re.compile(r"step_\d+|checkpoints?|model|run-0|artifacts|data|trials", re.IGNORECASE)
_PACKAGED = re.compile(r"(?:.*/)?pipeline/weights/([^/]+)")


def model_name(checkpoint: Mapping[str, Any]) -> str:
    """A name for titles, tables and legends: "first (tiny), step 400", "cocolvis_icl_vit_huge.pth", "small".

    Args:
        checkpoint: `summary["checkpoint"]`; of it only `uri` must be there.
    """
    uri, kind = str(checkpoint["uri"]).rstrip("/"), checkpoint.get("format")
    if kind == "predictor":
        return uri
    packaged = _PACKAGED.fullmatch(uri)
    if packaged and packaged[1] in NAMES:
        return packaged[1]
    recipe, step = str(checkpoint.get("recipe") or ""), checkpoint.get("step")
    name = _telling(uri)
    if kind == "published":
        return name or uri
    words = re.split(r"[\W_]+", name.lower())
    if not name:
        name = recipe or uri
    elif recipe and not set(re.split(r"[\W_]+", recipe.lower())) <= set(words):
        name = f"{name} ({recipe})"
    return name if step is None else f"{name}, step {step}"


def _telling(uri: str) -> str:
    """The last part of a path that is not the same for every run; of a sweep's trial its number too; "" if none is."""
    parts = [part for part in uri.partition("://")[2].split("/") or [] if part] if "://" in uri else uri.split("/")
    rest = [part for part in parts if part]
    while rest and _GENERAL.fullmatch(rest[-1]):
        rest.pop()
    if len(rest) > 1 and re.fullmatch(r"\d{4}", rest[-1]) and rest[-2] == "trials":
        trial, sweep = int(rest[-1]), _telling("/".join(rest[:-2]))
        return f"{sweep} trial {trial}".strip()
    return rest[-1] if rest else ""


def two_names(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, str]:
    """Names of two models that stand side by side, told apart by their checksums where their names are the same."""
    names = model_name(first), model_name(second)
    if names[0] != names[1]:
        return names
    if first.get("sha256") == second.get("sha256"):
        return f"{names[0]} (here)", f"{names[0]} (earlier)"
    marked = [f"{name} {str(one.get('sha256') or '')[:8]}".strip() for name, one in zip(names, (first, second))]
    return marked[0], marked[1]
