"""Where exports of COCO instances keep their JSON and their images, and which of them a name or an id means."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from pipeline import storage
from pipeline.data.readers.base import folded, found_in
from pipeline.errors import UserError, did_you_mean

BESIDE = "_annotations.coco.json"  # Roboflow's, in the folder of its images
NAMES = ("annotations.json", BESIDE, "result.json", "instances.json", "coco.json")
LAYOUT = (
    "coco-instances needs a JSON file with images beside it or in images/: annotations.json, _annotations.coco.json, "
    "result.json, annotations/instances_*.json, or what --annotations FILE names."
)


def annotation_file(root: str, split: str = "", given: str = "") -> tuple[str, str]:
    """(URI of the JSON, folder below which its images lie) of an export.

    Args:
        given: file to take, a name below `root` or a URI; "": the one that is there.

    Raises:
        UserError: there is none, or several between which --split or --annotations must choose.
    """
    if not storage.exists(root):
        raise UserError(f"There is no folder {root}.")
    if given:
        inside = storage.join(root, given)
        uri = inside if storage.exists(inside) else storage.absolute(given)
        if not storage.exists(uri):
            raise UserError(f"There is no file {given} (--annotations), neither below {root} nor by itself.")
        return uri, root
    files = {uri.rsplit("/", 1)[1]: uri for uri in storage.list_files(root, ".json", recursive=False)}
    folders = {uri.rsplit("/", 1)[1]: uri for uri in storage.list_folders(root)}
    splits = {name: uri for name, uri in folders.items() if storage.exists(storage.join(uri, BESIDE))}
    lower = {folded(name): name for name in folders}
    below = storage.list_files(folders[lower["annotations"]], ".json") if "annotations" in lower else []
    instances = {_split_of(uri): uri for uri in below if uri.rsplit("/", 1)[1].startswith("instances")}
    if split:
        if split in splits:
            return storage.join(splits[split], BESIDE), splits[split]
        fitting = [uri for name, uri in instances.items() if name.removesuffix("2017").removesuffix("2014") == split]
        if split in instances or len(fitting) == 1:
            return instances.get(split) or fitting[0], root
        known = [*splits, *instances]
        if not known:
            raise UserError(f"coco-instances has no splits in {root}; leave out --split {split}.")
        raise UserError(f"{root} has no split {split!r}: {', '.join(known)}.{did_you_mean(split, known)}")
    for name in NAMES:
        if name in files:
            return files[name], root
    if len(files) == 1:
        return next(iter(files.values())), root
    if len(instances) == 1 or len(below) == 1:
        return next(iter(instances.values()), below[0] if below else ""), root
    if splits or instances:
        names = ", ".join([*splits, *instances])
        raise UserError(f"{root} holds several sets ({names}): choose one with --split NAME or --annotations FILE.")
    if files or below:
        names = ", ".join([*files, *(uri.removeprefix(root + "/") for uri in below)][:8])
        raise UserError(f"{root} holds several JSON files ({names}): choose one with --annotations FILE.")
    raise UserError(f"{LAYOUT} {root} has none. {found_in(root)}")


def _split_of(uri: str) -> str:
    """'train2017' of .../instances_train2017.json."""
    return uri.rsplit("/", 1)[1].removesuffix(".json").removeprefix("instances").strip("_-")


def identity(value: Any) -> Any:
    """An id as it is meant, whatever type a tool writes it in: 7, 7.0 and "7" are one."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    if isinstance(value, str):
        text = value.strip()
        return int(text) if re.fullmatch(r"-?(0|[1-9]\d{0,17})", text) else text
    hash(value)  # a list is no id
    return value


class FileNames:
    """The files below a folder, to be found by what a tool wrote as `file_name`."""

    def __init__(self, root: str, json_uri: str) -> None:
        """Args: root: folder of the data. json_uri: the annotation file, whose own name prefers a folder."""
        prefix = root.rstrip("/") + "/"
        self.files = {uri.removeprefix(prefix) for uri in storage.list_files(root)}
        split = _split_of(json_uri)
        folder = json_uri.rsplit("/", 1)[0].removeprefix(prefix) if json_uri.startswith(prefix) else ""
        first = {folded(name): name for name in {path.split("/")[0] for path in self.files if "/" in path}}
        images = first.get("images", "images")
        self.homes = [images, f"{images}/{split}", split, "" if folder == json_uri else folder, ""]
        self._by_tail: dict[str, list[str]] = defaultdict(list)
        self._by_folded: dict[str, list[str]] = defaultdict(list)
        for path in sorted(self.files):
            self._by_tail[path.rsplit("/", 1)[-1]].append(path)
            self._by_folded[folded(path.rsplit("/", 1)[-1])].append(path)

    def find(self, given: str) -> tuple[str, list[str]]:
        """(path below the root, []) of the file that is meant, ("", [candidates]) where several may be, ("", []).

        Tried in turn: as it is, in the folders of images, as the end of a path, by its last part alone.
        """
        for name in dict.fromkeys((given, unquote(given))):
            clean = _clean(name)
            for home in self.homes:
                path = f"{home}/{clean}".strip("/") if home else clean
                if path in self.files:
                    return path, []
            parts = clean.split("/")
            for table, key in ((self._by_tail, parts[-1]), (self._by_folded, folded(parts[-1]))):
                for start in range(len(parts)):
                    tail = "/".join(parts[start:])
                    fits = [p for p in table[key] if folded(f"/{p}").endswith(folded(f"/{tail}"))]
                    if len(fits) == 1:
                        return fits[0], []
                    if fits:
                        return "", fits
        return "", []

    def short(self, path: str, ending: bool) -> str:
        """The name of a row: folders become part of it; without those of images, and without the ending."""
        inside = path
        for home in self.homes:
            if home and path.startswith(home + "/"):
                inside = path.removeprefix(home + "/")
                break
        if ending:
            return inside
        parts = [part for part in PurePosixPath(inside).parts if part not in ("/", "..", ".")]
        return "_".join([*parts[:-1], PurePosixPath(inside).stem]) if parts else inside


def _clean(name: str) -> str:
    """A file name as tools write it (backslashes, drives, URLs, absolute paths) as parts of a path."""
    name = re.sub(r"^[A-Za-z]:|^\w+://[^/]*|^.*\?d=", "", name.replace("\\", "/")).split("?")[0]
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
