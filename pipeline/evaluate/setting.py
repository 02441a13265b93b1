"""A setting of an evaluation (CFR-n, for which clicks, adaptive or not), its names, and the rows that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

COLUMNS = ("cfr_steps", "cfr_clicks", "adaptive")


class Setting(NamedTuple):
    """How often a click is refined: CFR-n, for which clicks, adaptive or not."""

    steps: int
    clicks: int = 1
    adaptive: bool = False

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Setting:
        """The setting of an entry of `summary["results"]` or of a row of `objects.parquet`."""
        return cls(int(row["cfr_steps"]), int(row["cfr_clicks"]), bool(row["adaptive"]))

    def columns(self) -> dict[str, Any]:
        """What `of` reads."""
        return dict(zip(COLUMNS, self, strict=True))

    @property
    def label(self) -> str:
        """'cfr0', 'cfr4', 'acfr4'; with the number of clicks where it is not the published 1: 'cfr2x20'."""
        return f"{'a' if self.adaptive else ''}cfr{self.steps}" + (f"x{self.clicks}" if self.clicks != 1 else "")

    @property
    def name(self) -> str:
        """In the paper's words: CFR-4, A-CFR-4; with the number of refined clicks unless it is the usual 1."""
        name = f"{'A-' if self.adaptive else ''}CFR-{self.steps}"
        return name if self.steps == 0 or self.clicks == 1 else f"{name} on {self.clicks} clicks"


def dataset_rows(objects: pa.Table, dataset: str, setting: Setting | None = None) -> pa.Table:
    """The rows of one data set, of one setting when given."""
    wanted = objects["dataset"].to_numpy() == dataset
    for column, value in {} if setting is None else setting.columns().items():
        wanted = wanted & (objects[column].to_numpy() == value)
    return objects.filter(pa.array(wanted))
