"""What the jobs need to know of their command line before it is parsed."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import UserError

CONFIG = "--config"


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
