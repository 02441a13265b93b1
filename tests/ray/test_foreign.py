"""`jobs.evaluate --predictor`: any model with SAM's interface through the same clicks, resumed, compared, reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import evaluate as command
from pipeline.config import Eval
from pipeline.config.evaluation import EvaluateConfig
from pipeline.errors import UserError
from pipeline.evaluate.job import Evaluation, evaluate
from pipeline.evaluate.request import check
from tests.made import rows_of_blobs, write_dataset

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder / "blobs", rows_of_blobs(4))
    return folder


def request(made: Path, to: str, **changes: Any) -> EvaluateConfig:
    rules = Eval(max_clicks=4, actors=1)
    given = {"data": (f"blobs={made / 'blobs'}",), "out": str(made / to), "eval": rules}
    return EvaluateConfig(**{**given, **changes})


def rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    return evaluation.objects.drop_columns(["seconds"]).to_pylist()


@pytest.fixture(scope="module")
def direct(made: Path, ray_session: None) -> Evaluation:
    """The packaged model, evaluated as a checkpoint."""
    return evaluate(check(request(made, "direct", checkpoint="small")), dict)


def test_our_own_predictor_is_the_direct_way(made: Path, direct: Evaluation) -> None:
    """To the pixel: the same clicks and the same IoUs, also where an answer's logits are handed back."""
    door = evaluate(check(request(made, "door", predictor="tests.predictors:small")), dict)
    assert rows(door) == rows(direct)
    assert door.summary["checkpoint"]["format"] == "predictor"
    assert door.summary["checkpoint"]["uri"] == "tests.predictors:small"


def test_a_predictor_of_ten_lines_with_report_and_comparison(
    made: Path, direct: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", f"blobs={made / 'blobs'}", "--max-clicks", "4", "--actors", "1", "--no-tracking"]
    words += ["--predictor", "tests.predictors:colour", "--out", str(made / "colour")]
    command.job([*words, "--compare", direct.out])
    said = capsys.readouterr().out
    assert "blobs" in said and "Report: " in said
    summary = json.loads((made / "colour" / "summary.json").read_text())
    assert summary["results"][0]["objects"] == 8
    assert summary["compared"]["checkpoint"]["uri"].endswith("small")
    assert "tests.predictors:colour" in (made / "colour" / "report.html").read_text()

    parts = {path: path.stat().st_mtime_ns for path in (made / "colour" / "parts").iterdir()}
    next(iter(parts)).unlink()
    before = pq.read_table(made / "colour" / "objects.parquet").drop_columns(["seconds"])
    command.job(words)
    assert sum(path.stat().st_mtime_ns == when for path, when in parts.items()) == len(parts) - 1
    assert pq.read_table(made / "colour" / "objects.parquet").drop_columns(["seconds"]) == before
    best = evaluate(check(request(made, "best", predictor="tests.predictors:several")), dict)
    assert rows(best) == before.to_pylist()  # the best of its three masks is this one's


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictor": "tests.predictors"}, "package.module:factory"),
        ({"predictor": "tests.nowhere:colour"}, "the module tests.nowhere cannot be imported"),
        ({"predictor": "tests.predictors:color"}, "no function color. Did you mean 'colour'"),
        ({"predictor": "tests.predictors:colour", "checkpoint": "small"}, "not both"),
        ({"predictor": "tests.predictors:colour", "cfr_steps": (1,)}, "of networks of ours"),
        ({"predictor": "tests.predictors:colour", "batch_size": 4}, "of networks of ours"),
        ({}, "says what is evaluated"),
    ],
)
def test_what_is_refused_before_any_work(made: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        check(request(made, "refused", **changes))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nothing", "returns a object, which has no method set_image"),
        ("fails", r"the factory fails .*no weights, .*predictors\.py line \d+"),
        ("broken", r"masks are \(1, 5, \d+\), not \(C, \d+, \d+\)"),
    ],
)
def test_what_is_found_at_work_ends_it_with_a_message(
    made: Path, ray_session: None, factory: str, message: str
) -> None:
    with pytest.raises(Exception, match=message):
        evaluate(check(request(made, f"refused-{factory}", predictor=f"tests.predictors:{factory}")), dict)


def test_a_module_in_the_folder_of_the_command(
    made: Path, ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a researcher has it: a file of their own beside the data."""
    text = (Path(__file__).parents[1] / "predictors.py").read_text()
    (tmp_path / "my_model.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    found = evaluate(check(request(made, "mine", predictor="my_model:colour")), dict)
    assert found.summary["results"][0]["objects"] == 8
    (tmp_path / "my_model.py").write_text(text.replace("reach: int = 60", "reach: int = 61"))
    with pytest.raises(UserError, match="another"):
        check(request(made, "mine", predictor="my_model:colour"))
