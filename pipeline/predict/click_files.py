"""Files of clicks: tables of one click a row (or one object a row), and COCO keypoints and boxes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.clicks.encode import Click
from pipeline.config.options import load_json
from pipeline.errors import UserError, did_you_mean

COLUMNS = ("image", "object", "x", "y", "positive", "clicks")
YES, NO = ("1", "true", "yes", "positive", "pos", "+"), ("0", "false", "no", "negative", "neg", "-")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")


@dataclass(frozen=True)
class ClickedObject:
    """An object that somebody has clicked.

    Attributes:
        image: path below the folder of the images.
        name: of the object, one of its own on its image; "" where the file names none.
        clicks: in their order.
    """

    image: str
    name: str
    clicks: tuple[Click, ...]


def read_clicks(uri: str) -> list[ClickedObject]:
    """The objects of a click file, in the order in which they first occur.

    A table (CSV, TSV, JSON Lines, Parquet) has a row for each click, with the columns image, x, y and, if wanted,
    object and positive; or a row for each object, with a column clicks: a list of {x, y, positive} or of
    [x, y, positive]. The order of clicks is that of the rows. A JSON file is COCO: the keypoints of an annotation are
    positive clicks, and without any the centre of its box is.

    Raises:
        UserError: no such file, another format, or a row that is no click; it names the row.
    """
    if not storage.exists(uri) or storage.is_folder(uri):
        raise UserError(f"There is no click file {uri}.")
    suffix = next((s for s in SUFFIXES if uri.lower().endswith(s)), "")
    data = storage.read_bytes(uri)
    try:
        if suffix == ".json":
            found = list(_coco(load_json(data), uri))
        elif suffix in (".jsonl", ".ndjson"):
            lines = data.decode("utf-8-sig").splitlines()
            found = list(_rows(((i, json.loads(line)) for i, line in enumerate(lines, 1) if line.strip()), uri))
        elif suffix == ".parquet":
            found = list(_rows(enumerate(pq.read_table(pa.BufferReader(data)).to_pylist(), 1), uri))
        elif suffix:
            found = list(_rows(enumerate(_csv(data, suffix), 2), uri))  # row 1 is the header
        else:
            raise UserError(f"--clicks {uri}: its name must end in {', '.join(SUFFIXES)}.")
    except (ValueError, pa.ArrowException) as error:
        raise UserError(f"{uri} is no {suffix[1:]} file of clicks: {error}") from error
    objects: dict[tuple[str, str], list[Click]] = {}
    for image, name, clicks in found:
        objects.setdefault((image, name), []).extend(clicks)
    if not objects:
        raise UserError(f"{uri} holds no click.")
    return [ClickedObject(image, name, tuple(clicks)) for (image, name), clicks in objects.items()]


def _csv(data: bytes, suffix: str) -> list[dict[str, Any]]:
    head = data.split(b"\n", 1)[0]
    delimiter = "\t" if suffix == ".tsv" else ";" if head.count(b";") > head.count(b",") else ","
    names = [name.strip().strip('"') for name in head.decode("utf-8-sig").strip().split(delimiter)]
    table = pv.read_csv(
        pa.BufferReader(data),
        parse_options=pv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),  # 007 is a name, not 7
    )
    return table.to_pylist()


def _rows(rows: Iterable[tuple[int, Any]], uri: str) -> Iterable[tuple[str, str, list[Click]]]:
    checked = False
    for number, row in rows:
        where = f"{uri}, row {number}"
        if not isinstance(row, Mapping):
            raise UserError(f"{where} is not an object with image, x and y: {str(row)[:80]}")
        row = {str(name).strip().lower(): value for name, value in row.items()}
        if not checked:
            _check_columns(list(row), uri)
            checked = True
        image = str(row.get("image") or "").strip()
        if not image:
            raise UserError(f"{where} names no image.")
        name = "" if row.get("object") is None else str(row["object"]).strip()
        if row.get("clicks") is None:
            yield image, name, [_click(row.get("x"), row.get("y"), row.get("positive"), where)]
            continue
        listed = row["clicks"]
        listed = json.loads(listed) if isinstance(listed, str) else listed
        yield image, name, [_listed(one, where) for one in listed]


def _check_columns(names: list[str], uri: str) -> None:
    needed = ("image",) if "clicks" in names else ("image", "x", "y")
    for name in needed:
        if name not in names:
            hint = did_you_mean(name, names)
            raise UserError(
                f"{uri} has no column {name!r}: it has {', '.join(names)}.{hint} Known: {', '.join(COLUMNS)}."
            )


def _listed(one: Any, where: str) -> Click:
    if isinstance(one, Mapping):
        return _click(one.get("x"), one.get("y"), one.get("positive"), where)
    if isinstance(one, list) and len(one) in (2, 3):
        return _click(one[0], one[1], one[2] if len(one) == 3 else None, where)
    raise UserError(f"{where}: a click is {{x, y, positive}} or [x, y, positive], not {str(one)[:80]}.")


def _click(x: Any, y: Any, positive: Any, where: str) -> Click:
    place = []
    for axis, value in (("y", y), ("x", x)):
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {axis} is {value!r}, not a number.") from error
        if number != number or number in (float("inf"), float("-inf")):
            raise UserError(f"{where}: {axis} is {value!r}, not a place.")
        place.append(int(number) if number.is_integer() else number)
    return Click(place[0], place[1], _polarity(positive, where))


def _polarity(value: Any, where: str) -> bool:
    word = "1" if value is None or value == "" else str(value).strip().lower().removesuffix(".0")
    if word not in YES + NO:
        raise UserError(f"{where}: positive is {value!r}; it is one of {', '.join(YES)} or {', '.join(NO)}.")
    return word in YES


def _coco(content: Any, uri: str) -> Iterable[tuple[str, str, list[Click]]]:
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise UserError(f"{uri} is no COCO file: it has no 'images' and 'annotations'. (JSON Lines end in .jsonl.)")
    files = {image["id"]: str(image["file_name"]) for image in content["images"]}
    for number, annotation in enumerate(content["annotations"]):
        where = f"{uri}, annotation {annotation.get('id', number)}"
        if annotation.get("image_id") not in files:
            raise UserError(f"{where} is of image {annotation.get('image_id')}, which is not listed.")
        points = annotation.get("keypoints") or []
        clicks = [
            _click(x, y, True, where)
            for x, y, seen in zip(points[::3], points[1::3], points[2::3], strict=True)
            if seen  # 0: not labelled
        ]
        if not clicks:
            box = annotation.get("bbox")
            if not isinstance(box, list) or len(box) != 4:
                raise UserError(f"{where} has neither keypoints nor a box.")
            left, top, width, height = (float(side) for side in box)
            clicks = [Click(int(top + height / 2), int(left + width / 2), True)]
        yield files[annotation["image_id"]], str(annotation.get("id", number)), clicks
