"""A setting that a sweep found, as a file that the jobs take: best.json, and one for every setting on the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.config.io import flatten
from pipeline.config.options import load_json
from pipeline.errors import UserError, did_you_mean
from pipeline.storage.json_files import write_json
from pipeline.tune.proposals import config_of
from pipeline.tune.spaces import Kind, Space
from pipeline.tune.trials import Objective, Trial, from_json

FORMAT = 1
BEST = "best.json"
SETTINGS = "settings"  # folder of the files of the front


def setting_content(
    trial: Trial, why: str, space: Space, objectives: Sequence[Objective], sweep: str
) -> dict[str, Any]:
    """The content of best.json: what `jobs.evaluate --config` and `jobs.train RECIPE --config` take.

    cfr: all of `cfr.*`, but the crop only where the trial set one (else it is the data set's own). icl: the names that
    the sweep searched or fixed; the recipe gives all else.
    """
    values = dict(trial.setting)
    if space.kind == "cfr":
        whole = flatten(config_of(space, trial.setting))
        values |= {n: v for n, v in whole.items() if n.startswith("cfr.") and n != "cfr.crop"}
    return {
        "format": FORMAT,
        "kind": space.kind,
        "values": values,
        "why": why,
        "objectives": {o.name: trial.metrics[o.name] for o in objectives},
        "trial": trial.id,
        "sweep": sweep,
    }


def write_settings(
    out: str, summary: Mapping[str, Any], trials: Sequence[Trial], space: Space, objectives: Sequence[Objective]
) -> None:
    """Write best.json, and a file like it for every setting on the front."""
    if summary["best"] is not None:
        write_json(storage.join(out, BEST), summary["best"])
    by_id = {trial.id: trial for trial in trials}
    for number in dict.fromkeys([*summary["front"], *(step["trial"] for step in summary["worth"])]):
        content = setting_content(by_id[number], "It is on the Pareto front.", space, objectives, out)
        uri = storage.join(out, SETTINGS, f"trial-{number:04d}.json")
        write_json(uri, content)


def read_setting(uri: str, kind: Kind, known: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a best.json by dotted name.

    Args:
        kind: of sweep that the reader can use.
        known: the dotted names that exist.

    Raises:
        UserError: no such file, another kind of file, or an unknown name.
    """
    try:
        content = load_json(storage.read_bytes(uri))
    except ValueError as error:
        raise UserError(f"{uri} (--config) is not JSON: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("values"), dict):
        raise UserError(f"{uri} (--config) is not a setting that a sweep of this project found (such as {BEST}).")
    if content.get("kind") != kind:
        use = {"cfr": "jobs.evaluate", "icl": "jobs.train"}.get(str(content.get("kind")), "neither job")
        raise UserError(f"{uri} (--config) is of a sweep of kind {content.get('kind')!r}, which {use} takes.")
    for name in content["values"]:
        if name not in known:
            raise UserError(f"{uri} (--config): there is no option {name!r} here.{did_you_mean(name, known)}")
    return from_json(content["values"])
