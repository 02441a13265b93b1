"""A command line becomes a config: the short forms of options, options given twice, and the file of --config."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

import tyro

from pipeline.errors import UserError, did_you_mean

C = TypeVar("C")

CONFIG = "--config"
SHORT = {
    "tracking": "tracking.enabled",
    "tracking_uri": "tracking.uri",
    "experiment": "tracking.experiment",
}
"""Short forms of every job's options; --no-NAME is the short form of --GROUP.no-LAST."""


def parse(
    kind: type[C],
    words: Sequence[str],
    *,
    prog: str,
    about: str | None,
    default: C | None = None,
    short: Mapping[str, str] | None = None,
    joining: Sequence[str] = (),
    commas: Sequence[str] = (),
) -> C:
    """The config that a command line describes.

    Args:
        kind: class of options.
        default: values of what is not given; `tyro.MISSING` for what must be.
        short: short forms of this job's options besides `SHORT`.
        joining: options whose values add up when they are given twice.
        commas: those of them whose values may be written with commas too.

    Raises:
        SystemExit: help was asked for (0).
        UserError: an option that does not exist or is missing, or a value that is not allowed.
    """
    known = names_of(kind)
    short = {name: dotted for name, dotted in {**SHORT, **(short or {})}.items() if _flag(dotted) in known}
    words = spelled(words, short)
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and len(name) > 2 and name not in (*known, "--help"):
            near = did_you_mean(name, [*known, *map(_flag, short)])
            raise UserError(f"There is no option {name}.{near} {prog} --help lists them.")
    for option in joining:
        words = joined(words, option)
    for option in commas:
        words = apart(words, option)
    extra: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=prog, description=about, args=words, **extra)
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(f"{in_a_line(said.getvalue())} {prog} --help lists the options.") from None


def described(metavar: str, text: str) -> Any:
    """Gives (`Annotated`) a field what stands for its value ("": its type), and a help text."""
    return tyro.conf.arg(metavar=metavar or None, help=text)


def in_a_line(said: str) -> str:
    """What the parser complains of in its box, without the box and its title."""
    lines = [line.strip("│╰╯─ ") for line in said.split("For full helptext")[0].splitlines() if "╭" not in line]
    return f"{' '.join(line for line in lines if line).rstrip('.')}."


def names_of(kind: type, prefix: str = "") -> list[str]:
    """All options of a class, as they are written: --out, --cfr.flip, --cfr.no-flip."""
    found = []
    hints = get_type_hints(kind)
    for field in fields(kind):
        name = field.name.replace("_", "-")
        if is_dataclass(hint := hints[field.name]):
            found += names_of(cast(type, hint), f"{prefix}{name}.")
        else:
            found += [f"--{prefix}{name}", *([f"--{prefix}no-{name}"] if hint is bool else [])]
    return found


def short_forms(**groups: type) -> dict[str, str]:
    """Short forms of all options of some groups: their last part alone."""
    return {f.name: f"{group}.{f.name}" for group, kind in groups.items() for f in fields(kind)}


def spelled(words: Sequence[str], short: Mapping[str, str]) -> list[str]:
    """The command line with every option's dotted name in the place of its short form, `-` for `_`."""
    found = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            plain = name.removeprefix("no_")
            if name in short:
                name = short[name]
            elif plain in short:
                group, _, last = short[plain].rpartition(".")
                name = f"{group}.no_{last}"
            word = f"{_flag(name)}{equals}{value}"
        found.append(word)
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def config_flag(args: Sequence[str]) -> str | None:
    """The file of --config, None without it.

    Raises:
        UserError: no file after it, or the flag twice.
    """
    found = [word.partition("=")[2] for word in args if word.startswith(f"{CONFIG}=")]
    found += [args[i + 1] if i + 1 < len(args) else "" for i, word in enumerate(args) if word == CONFIG]
    if len(found) > 1 or any(not file or file.startswith("--") for file in found):
        raise UserError("--config takes one file, such as best.json of a sweep.")
    return found[0] if found else None


def without_config(args: Sequence[str]) -> list[str]:
    """The command line without --config and its file."""
    kept = [word for word in args if not word.startswith(f"{CONFIG}=")]
    if CONFIG in kept:
        at = kept.index(CONFIG)
        del kept[at : at + 2]
    return kept


def joined(args: Sequence[str], flag: str) -> list[str]:
    """The command line with all values of a flag after its first occurrence: `--space A --space B` as `--space A B`.

    The parser would keep the last occurrence only.
    """
    values: list[str] = []
    others: list[str] = []
    taking = False
    for word in args:
        if word == flag or word.startswith(f"{flag}="):
            taking = word == flag
            values += [] if taking else [word.partition("=")[2]]
        elif word.startswith("--"):
            taking = False
            others.append(word)
        else:
            (values if taking else others).append(word)
    return [*others, *([flag, *values] if values else [])]


def apart(args: Sequence[str], flag: str) -> list[str]:
    """The command line with the values of a flag written apart: `--steps 0,1,4` as `--steps 0 1 4`."""
    words: list[str] = []
    taking = False
    for word in args:
        if word.startswith(f"{flag}="):
            words += [flag, *_parts(word.partition("=")[2])]
            taking = False
            continue
        taking = word == flag or (taking and not word.startswith("--"))
        words += _parts(word) if taking and word != flag else [word]
    return words


def _parts(word: str) -> list[str]:
    return [part for part in word.split(",") if part] or [word]
