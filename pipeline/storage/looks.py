"""How files look without being read: sizes, times and tags, which differ where the content may."""

from __future__ import annotations

import os

import pyarrow.fs as pafs

from pipeline import storage
from pipeline.storage import s3


def look_of(uri: str) -> dict[str, str]:
    """How each file below a folder looks, by its name there: another look may be another content.

    On this machine size, time of change (which `touch` and `cp -p` cannot set back) and file number, on a store size
    and tag or time.
    """
    root = storage.absolute(uri).rstrip("/")
    if storage.scheme_of(root) == "s3":
        path = root.split("://", 1)[1]
        key = s3.split(path)[1].rstrip("/")
        found = s3.entries(path, recursive=True)
        return {e.key[len(key) + 1 if key else 0 :]: f"{e.size} {e.tag}" for e in found if not e.folder}
    if storage.is_remote(root):
        fs, path = storage.arrow_filesystem(root)
        infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True))
        return {i.path[len(path) + 1 :]: f"{i.size} {i.mtime_ns}" for i in infos if i.type == pafs.FileType.File}
    names: dict[str, str] = {}
    for folder, _, files in os.walk(root, followlinks=True):
        for file in files:
            try:
                about = os.stat(os.path.join(folder, file))
            except OSError:  # a broken link looks like nothing
                continue
            name = os.path.relpath(os.path.join(folder, file), root)
            names[name] = f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}"
    return names
