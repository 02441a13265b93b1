"""Our models in MLflow: loaded elsewhere without this repository, registered once, found again by their name."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from jobs import evaluate, train, tune_icl
from pipeline import Predictor, config
from pipeline.errors import UserError
from pipeline.predict.mlflow_model import REQUIREMENTS, write_mlflow_model
from pipeline.tracking.contents import model_folder, read_identity
from pipeline.tracking.replay import replay
from tests.made import write_checkpoint
from tests.unit.test_tracking import start

CLICKS = [[20, 30, 1], [5, 5, 0]]
# Stands for a machine without this repository: its paths and its editable install are taken away.
ELSEWHERE = """
import json, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
sys.path = [path for path in sys.path if path not in ("", sys.argv[1])]
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[2])
image = open(sys.argv[3], "rb").read()
rows = pandas.DataFrame({"image": [image, None], "path": [None, sys.argv[3]], "clicks": json.loads(sys.argv[4])})
found = model.predict(rows, params={"cfr_steps": 2})
import pipeline
assert pipeline.__file__.startswith(sys.argv[2]), pipeline.__file__
assert "ray" not in sys.modules
print(json.dumps(found.to_dict(orient="records")))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and its MLflow model."""
    folder = tmp_path_factory.mktemp("made")
    write_mlflow_model(write_checkpoint(folder / "checkpoint"), str(folder / "model"))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder


def mask_of(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text)))) > 0


def test_the_folder_holds_no_pickle_and_says_what_it_needs(made: Path) -> None:
    files = [str(path.relative_to(made / "model")) for path in (made / "model").rglob("*") if path.is_file()]
    assert "MLmodel" in files and "artifacts/checkpoint/model.safetensors" in files
    assert len(files) < 12  # a store takes a request for each
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pth", ".pyc"))]
    needed = (made / "model" / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in needed} == {"mlflow", *REQUIREMENTS}
    assert all("==" in line and "+" not in line for line in needed)
    state = json.loads((made / "model" / "artifacts" / "checkpoint" / "state.json").read_text())
    assert (state["step"], state["config"]["out"], state["config"]["data"]["train"]) == (7, "", "")


def test_elsewhere_it_gives_the_same_masks(made: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    given = [str(made / "model"), str(made / "photo.png"), json.dumps([CLICKS, CLICKS[:1]])]
    words = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, root, *given]
    done = subprocess.run(words, cwd=made, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    predictor = Predictor.load(str(made / "checkpoint"), cfr_steps=2)
    predictor.set_image(made / "photo.png")
    for row, clicks in zip(json.loads(done.stdout.splitlines()[-1]), (CLICKS, CLICKS[:1]), strict=True):
        masks, scores, _ = predictor.predict([c[:2] for c in clicks], [c[2] for c in clicks])
        assert np.array_equal(mask_of(row["mask"]), masks[0])
        assert row["score"] == pytest.approx(scores[0])


def test_a_finished_run_registers_its_model_once(
    store: config.Tracking, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with start(store, out) as run:
        write_mlflow_model(str(made / "checkpoint"), str(out / "model" / "step_00000007"))
        run.model("clicker", {"recipe": "tiny"})
    assert model_folder(str(out)) == "model/step_00000007"
    client = MlflowClient(store.uri)
    (version,) = client.search_model_versions("name='clicker'")
    assert (version.run_id, version.tags) == (run.run_id, {"recipe": "tiny"})
    assert 'Predictor.load("models:/clicker/1")' in str(client.get_model_version("clicker", "1").description)
    identity = read_identity(str(out))
    assert identity is not None and identity.version == "1"
    assert replay(str(out), store.uri).why == ""
    assert len(client.search_model_versions("name='clicker'")) == 1

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    for name in ("models:/clicker/1", "models:/clicker@latest", f"runs:/{run.run_id}/model/step_00000007"):
        predictor = Predictor.load(name)
        assert predictor.info is not None and predictor.info.step == 7
    with pytest.raises(UserError, match="MLflow has no models:/clicker/9"):
        Predictor.load("models:/clicker/9")


def test_a_run_that_failed_registers_nothing(store: config.Tracking, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = start(store, out)
    write_mlflow_model(str(made / "checkpoint"), str(out / "model" / "step_00000007"))
    run.model("failed", {})
    run.close("FAILED")
    assert MlflowClient(store.uri).search_model_versions("name='failed'") == []


@pytest.mark.parametrize(
    ("job", "words", "message"),
    [
        (train, ["tiny", "--tracking.register", "a/b"], "holds no / : or @"),
        (train, ["tiny", "--tracking.register", "a", "--no-tracking"], "leave out --no-tracking"),
        (evaluate, ["--checkpoint", "small", "--data", "a=b", "--tracking.register", "a"], "is of jobs.train"),
        (tune_icl, ["tiny", "--trials", "2", "--tracking.register", "a"], "is of jobs.train"),
    ],
)
def test_where_nothing_can_be_registered(job: Any, words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        job.parse([*words, "--out", str(tmp_path)])
