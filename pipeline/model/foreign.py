"""Checkpoint files from elsewhere: what kind of file it is, and its tensors without wrappers and prefixes."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.model.pickle_reader import DAMAGE, described, read_torch_pickle, scan

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before every key, in any order and number."""
WRAPPERS = ("state_dict", "model", "model_state_dict", "model_ema", "ema", "state_dict_ema")
"""Entries that hold the tensors; the smoothed ones (EMA) count only where there are no others."""
LFS = b"version https://git-lfs.github.com/spec"
SHOWN = 3  # keys named in a message


def read_foreign(data: bytes, name: str) -> dict[str, Any]:
    """A file of torch.save as {"state_dict": tensors by plain names, "config": what the file says, or None}.

    Args:
        name: what to call the file in messages.

    Raises:
        UserError: another kind of file, damaged, one that would run code, no tensors, prefixes before some keys only.
    """
    if kind := kind_of(data):
        raise UserError(f"{name} is no checkpoint: it {kind}.")
    return plain(read_torch_pickle(data, name), name)


def plain(content: Any, name: str) -> dict[str, Any]:
    """What was loaded, without wrappers and prefixes; see `read_foreign`."""
    if not isinstance(content, dict):
        raise UserError(
            f"{name} holds no 'state_dict' of tensors: it is not a published CFR-ICL/SimpleClick file and no MAE file."
        )
    config = content.get("config")
    found = [key for key in WRAPPERS if isinstance(content.get(key), dict) and content[key]]
    if found:
        key, others = found[0], [k for k in found[1:] if _tensors(content[k])]
        if others:
            print(f"{name} holds {', '.join([key, *others])}: {key} is used", flush=True)
        inner = content[key]
        if not _tensors(inner) and any(isinstance(inner.get(k), dict) for k in WRAPPERS):  # a wrapper in a wrapper
            return {**(nested := plain(inner, name)), "config": nested["config"] or config}
        state = inner
    else:
        state = content
    if not state or not _tensors(state):
        wrong = [f"{k} ({type(v).__name__})" for k, v in state.items() if not isinstance(v, torch.Tensor)][:SHOWN]
        raise UserError(
            f"{name} holds no 'state_dict' of tensors: it is not a published CFR-ICL/SimpleClick file and no MAE file"
            + (f" (found {', '.join(wrong)})." if wrong else ".")
        )
    return {"state_dict": without_prefixes(state, name), "config": config}


def _tensors(state: dict[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())


def without_prefixes(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors under their names without the prefixes that stand before every one.

    Raises:
        UserError: a prefix stands before some only.
    """
    while True:
        for prefix in PREFIXES:
            having = [key for key in state if key.startswith(prefix)]
            if having and len(having) == len(state):
                state = {key[len(prefix) :]: value for key, value in state.items()}
                break
            if having:
                others = [key for key in state if not key.startswith(prefix)]
                raise UserError(
                    f"{name}: {len(having)} of {len(state)} keys begin with {prefix!r} ({', '.join(having[:SHOWN])}), "
                    f"the others do not ({', '.join(others[:SHOWN])}): it is put together of two models. Save one."
                )
        else:
            return state


def kind_of(data: bytes) -> str:
    """What a file is that cannot be a checkpoint of torch.save, as the end of a sentence ("is empty"); "" if it may be.

    A file is named by its first bytes, whatever its name says.
    """
    head = data[:512].lstrip().lower()
    if not data:
        return "is empty"
    if data.startswith(LFS):
        size = next((line[5:] for line in data[:512].decode(errors="replace").splitlines() if line[:5] == "size "), "?")
        return f"is a Git LFS pointer to {size} bytes, not the file: run `git lfs pull` where it was cloned"
    if head.startswith((b"<!doctype html", b"<html", b"<head")):
        return "is a web page (an error or a sign-in page, perhaps): download it again, and look at it in a browser"
    if head.startswith((b"<?xml", b"<error")):
        return "is an XML text, such as an object store's error message: download it again"
    if head.startswith(b"{") and _is_json(data):
        return f"is a JSON text: {' '.join(data[:100].decode(errors='replace').split())}"
    if data[257:262] == b"ustar":
        return "is a tar archive: unpack it and give the file in it"
    for magic, what in ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"7z\xbc\xaf", "7z")):
        if data.startswith(magic):
            return f"is compressed ({what}): unpack it and give the file in it"
    if set(data[:4096]) == {0}:
        return "begins with zeros only: its download or copy was broken off"
    if data.startswith(b"PK\x03\x04"):
        return _zip_kind(data)
    return _safetensors_kind(data)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def _tensor_bytes(data: bytes) -> int:
    """Bytes of the tensors that a zip file's data.pkl describes, also of a file without its end; 0: not known."""
    at = data.find(b"/data.pkl", 0, 1 << 10) + len("/data.pkl")
    at += int.from_bytes(data[28:30], "little")  # the length of the extra field, which comes before the content
    try:
        return sum(s.numel * s.dtype.itemsize for s in described(data[at : scan(data, at)]))
    except (pickle.UnpicklingError, *DAMAGE):
        return 0


def _zip_kind(data: bytes) -> str:
    if b"PK\x05\x06" not in data[-(1 << 16) - 64 :]:
        needed = f" (its tensors alone take {whole})" if (whole := _tensor_bytes(data)) else ""
        size = f"{len(data)} bytes{needed}"
        return f"is cut off: the zip file ends after {size}, without its list of contents. Copy it again"
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return ""  # its damage is told by who reads it
    if any(name.rsplit("/", 1)[-1] == "data.pkl" for name in names):
        return ""
    return f"is a zip archive of other files ({', '.join(names[:SHOWN])}): unpack it and give the file in it"


def _safetensors_kind(data: bytes) -> str:
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or not 2 <= length < 1 << 27:
        return ""
    try:
        header = json.loads(data[8 : 8 + length])
        ends = [int(about["data_offsets"][1]) for key, about in header.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        whole = 8 + length
    else:
        whole = 8 + length + max(ends, default=0)
    if len(data) < whole:
        return f"is a safetensors file that is cut off: {len(data)} of {whole} bytes. Copy it again"
    return (
        "is a safetensors file alone, which does not say its network's number of heads: give the checkpoint folder "
        "that holds it beside state.json, or a .pth file with its config"
    )
