"""Which file, which id, which annotation: COCO's JSON as the tools write it, nothing joined that is ambiguous.

Annotation tools write file names with folders, backslashes, as URLs or as paths of the machine they ran on, and ids as
numbers, floats or text. What fits exactly one picture is taken; what fits several is set aside.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pipeline import storage
from pipeline.errors import BadRow, UserError

SEVERAL_FILES = "file name fits several files"
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
KNOWN = re.compile(
    r"(_?annotations([._]coco)?|instances.*|result|.*coco.*|labels|via.*|lvis.*)\.json(\.gz)?", re.IGNORECASE
)
NO_PICTURES = re.compile(r"masks?|gt|labels?|annot|seg|panoptic|inst|stuff", re.IGNORECASE)  # folders of masks
DEPTH = 3  # parts of a path below the root at which annotation files are looked for


def key(number: Any) -> tuple[str, str]:
    """What an id is compared by: (how it reads, its type); 1, 1.0 and "1" read the same.

    Raises:
        TypeError: it is no number and no text.
    """
    if isinstance(number, str):
        text = number.strip()
        return re.sub(r"^(-?\d+)\.0+$", r"\1", text), "text"
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number != number:
        raise TypeError(f"{str(number)[:40]} is no id (unhashable, or neither a number nor text)")
    return str(number), "number"


def crowd(value: Any) -> bool:
    """COCO's `iscrowd`, which some tools write as text or as true and false.

    Raises:
        BadRow: it is neither yes nor no.
    """
    text = str(value).strip().lower()
    if text in ("0", "0.0", "false", "none", "no", ""):
        return False
    if text in ("1", "1.0", "true", "yes"):
        return True
    raise BadRow("iscrowd is neither 0 nor 1", text[:40])


def find_annotations(root: str, files: Sequence[str], wanted: str) -> str:
    """Path below the root (or URI) of the annotation file: the named one, annotations.json, or the only one there is.

    Args:
        files: all files below the root, as paths relative to it.
        wanted: as the user gave it, "" for none: below the root, or a path or URI of its own.

    Raises:
        UserError: there is none, or several.
    """
    if wanted:
        if wanted in files:
            return wanted
        uri = storage.absolute(wanted)
        below = uri.removeprefix(storage.join(root, ""))
        if storage.exists(uri):
            return below if below in files else uri
        raise UserError(f"There is no file {storage.join(root, wanted)}, and none {uri}.{_json_files(files)}")
    if "annotations.json" in files:
        return "annotations.json"
    found = [f for f in files if f.count("/") < DEPTH and KNOWN.fullmatch(PurePosixPath(f).name)]
    if not found:
        others = [f for f in files if f.endswith((".json", ".json.gz")) and f.count("/") < 2]
        found = others if len(others) == 1 else []
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{root} holds {len(found)} COCO files: {', '.join(found[:8])}. Say which: --annotations {found[0]}"
            " (where there is no such option, give the file itself as the data set)."
        )
    raise UserError(
        f"{root} has no annotations.json, annotations/instances_*.json, *_annotations.coco.json or result.json:"
        f" name the file with --annotations.{_json_files(files)}"
    )


def _json_files(files: Sequence[str]) -> str:
    found = [f for f in files if f.endswith((".json", ".json.gz"))]
    return f" JSON files there: {', '.join(found[:5])}." if found else " There is no JSON file."


def folders_of(annotations: str) -> list[str]:
    """Folders below the root where the pictures of an annotation file may lie, the likeliest first; "" is the root."""
    path = PurePosixPath(annotations)
    home = path.parent if path.parent.name != "annotations" else path.parent.parent
    part = re.sub(r"^(instances_|_?annotations[._]?)|(\.json)?(\.gz)?$|\.coco", "", path.name)
    homes = [home, *home.parents] if "://" not in annotations and not path.is_absolute() else [PurePosixPath()]
    found: list[str] = []
    for place in homes:
        inside = [f"images/{part}", part, "images"] if part else ["images"]
        found += [str(place / name) for name in inside] + [str(place)]
    return list(dict.fromkeys("" if name == "." else name for name in found))


def _spellings(name: str) -> list[tuple[str, ...]]:
    """Parts of the paths that a recorded file name may mean, as written first; the empty part at the start of an
    absolute path is kept out, ".." parts are kept."""
    texts = [name]
    if re.match(r"\w+://", name) or name.startswith("/data/"):  # Label Studio: also /data/local-files/?d=PATH
        try:
            address = urlsplit(name)
            texts.append(parse_qs(address.query).get("d", [address.path])[0])
        except ValueError:
            pass
    texts += [text.replace("\\", "/") for text in texts]
    texts += [unquote(text) for text in texts]
    paths = [tuple(p for p in re.sub(r"^[A-Za-z]:(?=[/\\])", "", t).split("/") if p not in ("", ".")) for t in texts]
    return [path for path in dict.fromkeys(paths) if path]


def _foreign(name: str) -> bool:
    """Whether a recorded name is a path of another machine: absolute, a URL, or one that climbs up."""
    return bool(re.match(r"[/\\]|[A-Za-z]:[/\\]|\w+://|\.\.[/\\]", name))


def fold(name: str) -> str:
    """A name without the difference of upper and lower case and of composed and decomposed letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _splits(path: Iterable[str]) -> set[str]:
    words = (SPLIT_WORDS.get(re.sub(r"\d+$", "", part.lower())) for part in path)
    return {word for word in words if word}


class Pictures:
    """The picture files below a root, found by the names that a COCO file gives them."""

    def __init__(self, files: Sequence[str], annotations: str) -> None:
        pictures = [f for f in files if not f.lower().endswith((".json", ".json.gz"))]
        self._files = set(pictures)
        self._folded: dict[str, list[str]] = defaultdict(list)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in pictures:
            self._folded[fold(path)].append(path)
            if not any(NO_PICTURES.match(part) for part in path.split("/")[:-1]):
                self._by_name[fold(PurePosixPath(path).name)].append(path)
        self._folders = folders_of(annotations)
        self._splits = _splits(re.split(r"[/_.]", annotations))
        self.by_rest = 0  # names that fit only without their first folders, or not by case or Unicode form

    def find(self, name: str) -> tuple[str, str]:
        """Path below the root, and the end of it that the name gave; both "" when there is no such file.

        Raises:
            BadRow: several files fit and none exactly.
        """
        spellings = _spellings(name)
        whole = [path for path in spellings if ".." not in path]
        rests = [path[drop:] for path in spellings for drop in range(1, len(path)) if ".." not in path[drop:]]
        for paths in (whole, sorted(rests, key=len, reverse=True)):
            for path in paths:
                for folder in self._folders:
                    place = "/".join([folder, *path]) if folder else "/".join(path)
                    if place in self._files:
                        self.by_rest += paths is not whole
                        return place, "/".join(path)
        for path in (*whole, *sorted(rests, key=len, reverse=True)):
            for folder in self._folders:
                hits = self._folded.get(fold("/".join([folder, *path]) if folder else "/".join(path)), [])
                if hits:
                    return self._only(name, hits, len(path))
        if not spellings:
            return "", ""
        if len(whole[0] if whole else ()) > 1 and not _foreign(name):
            return "", ""  # a file of that name in another folder is another picture
        hits = self._by_name.get(fold(spellings[-1][-1]), [])
        asked = _splits(spellings[-1]) or self._splits
        hits = [hit for hit in hits if not asked or not _splits(hit.split("/")) or asked & _splits(hit.split("/"))]
        return self._only(name, hits, 1) if hits else ("", "")

    def _only(self, name: str, hits: list[str], parts: int) -> tuple[str, str]:
        if len(hits) > 1:
            raise BadRow(SEVERAL_FILES, f"{name!r}: {', '.join(hits[:4])}")
        self.by_rest += 1
        return hits[0], "/".join(hits[0].split("/")[-parts:])


def names(ends: Sequence[str], paths: Sequence[str]) -> list[str]:
    """An image_id for each picture: the end of its path without its ending, or more where two would be the same.

    Args:
        ends: of the paths, as the annotation names the pictures.
        paths: below the root.
    """
    made = ["_".join([*_parts(end)[:-1], PurePosixPath(end).stem]) for end in ends]
    for longer in (["_".join(_parts(end)) for end in ends], [quote(path, safe=" ") for path in paths]):
        alike = Counter(unicodedata.normalize("NFC", name) for name in made)
        made = [n if alike[unicodedata.normalize("NFC", n)] == 1 else more for n, more in zip(made, longer)]
    repeated = Counter(made)
    return [name if repeated[name] == 1 else f"{name}#{place}" for place, name in enumerate(made)]


def _parts(path: str) -> list[str]:
    return [part for part in PurePosixPath(path).parts if part != "/"]
