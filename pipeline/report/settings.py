"""Settings of an evaluation (CFR-n, adaptive or not) and the rows that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

Setting = tuple[int, int, bool]  # cfr_steps, cfr_clicks, adaptive


def setting_of(row: Mapping[str, Any]) -> Setting:
    """The setting of an entry of `summary["results"]` or of a row of `objects.parquet`."""
    return int(row["cfr_steps"]), int(row["cfr_clicks"]), bool(row["adaptive"])


def setting_name(cfr_steps: int, cfr_clicks: int = 1, adaptive: bool = False) -> str:
    """A setting in the paper's words: CFR-4, A-CFR-4; with the number of refined clicks unless it is the usual 1."""
    name = f"{'A-' if adaptive else ''}CFR-{cfr_steps}"
    if cfr_steps == 0 or cfr_clicks == 1:
        return name
    return f"{name} on {cfr_clicks} clicks"


def dataset_rows(objects: pa.Table, dataset: str, setting: Setting | None = None) -> pa.Table:
    """The rows of one data set, of one setting when given."""
    wanted = objects["dataset"].to_numpy() == dataset
    if setting is not None:
        for column, value in zip(("cfr_steps", "cfr_clicks", "adaptive"), setting, strict=True):
            wanted = wanted & (objects[column].to_numpy() == value)
    return objects.filter(pa.array(wanted))
