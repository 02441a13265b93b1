"""`jobs.claims` from folders to its table, with a small network in the place of the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import claims
from tests.made import write_checkpoint
from tests.unit.test_claims_plan import made

pytestmark = pytest.mark.ray


def test_a_stand_in_is_measured_and_never_judged(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path)
    write_checkpoint(tmp_path / "weights/cocolvis_icl_vit_huge")
    monkeypatch.setattr("jobs.claims_plan.MAX_CLICKS", 2)  # twenty of them take a minute and show nothing more
    words = [f"--{name}={tmp_path / name}" for name in ("data", "out")]
    words += [f"--checkpoints={tmp_path / 'weights'}", "--stand-ins", "--no-tracking", "--price", "4", "--actors", "1"]
    claims.job([*words, "--check"])
    said = capsys.readouterr().out
    assert "Estimate:" in said and "at 4 an hour" in said
    assert not (tmp_path / "out/claims.json").exists()

    claims.job(words)
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "out/claims.json").read_text())["claims"]
    assert len(found) == 6
    berkeley = next(row for row in found if row["benchmark"] == "Berkeley")
    summary = json.loads((tmp_path / "out" / berkeley["evaluation"] / "summary.json").read_text())
    assert berkeley["measured"] == summary["results"][0]["noc"]["90"] is not None
    assert berkeley["verdict"] == "none" and "stand-in" in berkeley["note"]
    assert {row["verdict"] for row in found} == {"none", "not run"}
    assert "claimed" in said and f"{berkeley['measured']:.2f}" in said
    assert "none: stand-in" in (tmp_path / "out/report.html").read_text()

    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet") if "part" in str(path)}
    claims.job(words)  # again: nothing is evaluated twice
    assert parts and all(path.stat().st_mtime_ns == when for path, when in parts.items())
