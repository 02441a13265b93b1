"""The data sets of an evaluation as they are named on the command line: --data NAME=URI or NAME=LAYOUT:URI."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline import storage
from pipeline.config import Cfr
from pipeline.data.manifest import MANIFEST, PLAN, load_manifest
from pipeline.data.readers import SOURCES, open_reader
from pipeline.data.readers.base import check_apart
from pipeline.data.readers.folder import LAYOUTS
from pipeline.errors import UserError, did_you_mean
from pipeline.evaluate.foreign import Origin, PredictorInfo
from pipeline.model.checkpoints import few

DAVIS = "davis"
DAVIS_CROP = 672  # the published evaluation's crop for this one data set
FOLDER = "folder"
# Of raw folders whose layout has splits.
SPLIT: dict[str, str] = dict.fromkeys(("coco-lvis", "merged", "sbd", "synthetic", "voc", "voc-grey"), "val")
VOC = "voc"
VOC_GREY = "voc-grey"  # read as the published evaluation did
ALSO = {"pascalvoc": VOC, "pascal-voc": VOC, "voc2012": VOC, "cocomval": "coco-mval"}
"""Names of layouts on other command lines, in our spelling (`canonical`)."""
_LAYOUT = re.compile(r"([A-Za-z][\w-]+):(?!//)(.*)", re.DOTALL)  # no scheme, and no drive letter


@dataclass(frozen=True)
class Source:
    """A data set of the request.

    Attributes:
        layout: "" when `uri` holds prepared shards, else the reader's source of the raw folder.
        shards: URI of the prepared shards; those of a raw folder are made below the output folder.
    """

    name: str
    uri: str
    layout: str
    shards: str
    crop: int


def canonical(name: str) -> str:
    """The layout that a name means, whatever its case (DAVIS, COCO_MVal, PascalVOC); another name as it is."""
    ours = name.lower().replace("_", "-")
    ours = ALSO.get(ours, ours)
    return ours if ours in SOURCES else name


def parse_data(words: tuple[str, ...], voc_grey: bool = False) -> tuple[tuple[str, str], ...]:
    """NAME=URI words as pairs; NAME=LAYOUT:URI gives (NAME, LAYOUT:URI).

    The name of a layout is written in our spelling: DAVIS=/data/DAVIS is the data set `davis`.

    Args:
        voc_grey: take `voc` as `voc-grey`, which reads PASCAL VOC as the published evaluation did.

    Raises:
        UserError: a word of another form, a name that cannot be a file name or is used twice; no `voc` to read as grey.
    """
    pairs: list[tuple[str, str]] = []
    grey = False
    for word in words:
        name, equals, uri = word.partition("=")
        name = canonical(name)
        layout, path = split_layout(uri)
        if not equals or not name or not path:
            raise UserError(
                f"--data takes NAME=URI or NAME=LAYOUT:URI, got {word!r}. Examples: --data grabcut=/data/GrabCut "
                "--data mine=coco-instances:/data/mine"
            )
        if voc_grey and VOC in (layout, name if not layout else ""):
            name, uri = (name, f"{VOC_GREY}:{path}") if layout else (VOC_GREY, uri)
        grey = grey or VOC_GREY in (name, split_layout(uri)[0])
        if not re.fullmatch(r"[\w-]*\w[\w-]*", name):
            raise UserError(f"--data name {name!r} may hold letters, digits, - and _ only.")
        if name.lower() in (known.lower() for known, _ in pairs):
            raise UserError(
                f"--data names {name!r} twice; give each data set a name of its own, with the layout before the URI: "
                f"--data {name}-2={layout or name}:{path}"
            )
        pairs.append((name, uri))
    if voc_grey and not grey:
        raise UserError("--voc-grey says how --data voc=... is read, and there is no such data set.")
    return tuple(pairs)


def split_layout(text: str) -> tuple[str, str]:
    """LAYOUT:URI as a pair; "" and the whole text where no layout is given (s3://bucket/x, C:/x, a:b).

    Raises:
        UserError: the word before the colon is nearly a layout's name.
    """
    match = _LAYOUT.fullmatch(text)
    if match is None:
        return "", text
    layout = canonical(match[1])
    if layout in SOURCES:
        return layout, match[2]
    hint = did_you_mean(layout.lower(), SOURCES)
    if hint and not storage.exists(storage.absolute(text)):
        raise UserError(f"--data {text}: there is no layout {match[1]!r}.{hint} Known: {', '.join(SOURCES)}.")
    return "", text


def default_crop(name: str, checkpoint: Origin | None) -> int:
    """The crop our checkpoint was trained with; of a published one its training size, and 672 for DAVIS.

    A predictor that is no network of ours has none: the published one stands in its place.
    """
    assert checkpoint is not None, "no crop without a checkpoint"
    if isinstance(checkpoint, PredictorInfo):
        return Cfr().crop
    if checkpoint.config is not None:
        return checkpoint.config.data.crop
    return DAVIS_CROP if canonical(name) == DAVIS else checkpoint.model.train_size


def open_source(name: str, text: str, out: str, crop: int, checkpoint: Origin | None) -> Source:
    """A data set of the command line, found.

    Args:
        text: URI or LAYOUT:URI.
        out: folder of the evaluation; shards of a raw folder are made below it.
        crop: 0: the checkpoint's own.
        checkpoint: that is evaluated; None where the crop is given.

    Raises:
        UserError: nothing there, or not what the name says.
    """
    given, path = split_layout(text)
    uri = storage.absolute(path)
    if not storage.exists(uri):
        parent, _, last = uri.rpartition("/")
        beside = [folder.rsplit("/", 1)[1] for folder in storage.list_folders(parent)] if parent.startswith("/") else []
        hint = did_you_mean(last, beside)
        raise UserError(f"There is no data set {uri} (--data {name}=...).{hint}")
    if any(storage.exists(storage.join(uri, file)) for file in (MANIFEST, PLAN)):
        source = load_manifest(uri).source
        if given and given != source.replace("+", "-"):
            raise UserError(f"{uri} holds shards prepared as {source!r}: write --data {name}={path}, without {given}:.")
        if name != source and {name, source} == {VOC, VOC_GREY}:
            raise UserError(
                f"{uri} was prepared as {source!r}, not as {name!r}: prepare it again, or name it {source}=."
            )
        kind = DAVIS if DAVIS in (name, source) else name
        return Source(name, uri, "", uri, crop or default_crop(kind, checkpoint))
    layout = given or (name if name in SOURCES else FOLDER)
    if not given:
        _check_near(name, uri)
    check_apart(out, uri)
    try:
        open_reader(layout, uri, SPLIT.get(layout, "")).items()
    except UserError as error:
        hint = did_you_mean(canonical(name).lower(), SOURCES.keys() - {FOLDER}) if layout == FOLDER != given else ""
        raise UserError(
            f"{error} (--data {name}=... holds no manifest.json of prepared shards and was taken for the raw layout "
            f"{layout!r}.{hint}) {_found(uri)}"
        ) from error
    return Source(name, uri, layout, storage.join(out, "data", name), crop or default_crop(layout, checkpoint))


def _check_near(name: str, uri: str) -> None:
    """UserError when a name is nearly a benchmark's, whose folders are there and are read by another rule than ours."""
    if name in SOURCES:
        return
    likely = [key for key in LAYOUTS if LAYOUTS[key].rule != LAYOUTS[FOLDER].rule and _fits(key, uri)]
    if hint := did_you_mean(name.lower().replace("_", "-"), likely):
        raise UserError(
            f"{name!r} is no benchmark's name.{hint} A folder of your own is written --data {name}=folder:{uri}; a "
            f"benchmark under a name of yours --data {name}=LAYOUT:{uri} ({', '.join(likely)})."
        )


def _fits(layout: str, uri: str) -> bool:
    """Whether the folders of a layout are there."""
    return any(all(storage.is_folder(storage.join(uri, part)) for part in pair) for pair in LAYOUTS[layout].folders)


def _found(uri: str) -> str:
    """What lies in a folder that does not fit, and which layouts its folders look like."""
    if not storage.is_folder(uri):
        return f"{uri} is a file."
    folders = [f"{folder.rsplit('/', 1)[1]}/" for folder in storage.list_folders(uri)]
    files = [file.rsplit("/", 1)[1] for file in storage.list_files(uri, recursive=False)]
    held = f"Found there: {few(folders + files, 8) or 'nothing'}."
    if fitting := [layout for layout in LAYOUTS if _fits(layout, uri)]:
        return f"{held} Its folders are those of {', '.join(fitting)} (NAME=LAYOUT:URI says which is meant)."
    inside = [
        f"{canonical(folder.rstrip('/'))}={storage.join(uri, folder)}"
        for folder in folders[:20]
        if any(_fits(layout, storage.join(uri, folder)) for layout in LAYOUTS)
        or storage.exists(storage.join(uri, folder, MANIFEST))
    ]
    return f"{held} Data sets lie one level down: --data {' '.join(inside)}" if inside else held
