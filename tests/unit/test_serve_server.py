"""The annotator's server: passes of several people together, and an engine that does not start it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from ray.exceptions import RayActorError

from pipeline import Predictor
from pipeline.clicks.encode import Click
from pipeline.config import Cfr
from pipeline.config.serving import ServeConfig
from pipeline.errors import Unavailable
from pipeline.evaluate.refinement import Refinement
from pipeline.serve import server
from pipeline.serve.app import forward
from tests.made import SIDE, small_model


def test_an_engine_too_busy_to_serve_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: Any) -> None:
        raise RayActorError(error_msg="The proxy died before its start.\nMany more lines.")

    def none(*_: Any, **__: Any) -> Any:
        raise ValueError("no such actor")

    clerk, ended = Mock(), []
    monkeypatch.setattr(server, "start_clerk", lambda _: clerk)
    monkeypatch.setattr(server.serve, "start", fails)
    monkeypatch.setattr(server.serve, "shutdown", lambda: ended.append("serve"))
    monkeypatch.setattr(server.ray, "get_actor", none)
    monkeypatch.setattr(server.ray, "get", ended.append)
    monkeypatch.setattr(server.ray, "kill", ended.append)
    for name in ("on_gpu", "require", "check_everywhere"):
        monkeypatch.setattr(server, name, lambda *_, **__: None)
    checked = server.Checked(ServeConfig(checkpoint="small", out=str(tmp_path)), "")
    said = pytest.raises(Unavailable, match=r"Ray Serve did not start \(.*proxy died.*\): start the server again")
    with said, server.served(checked):
        pass
    assert ended == ["serve", clerk.close.remote.return_value, clerk]  # nothing is left on the cluster


def test_passes_of_several_people_are_those_of_each_alone() -> None:
    """Objects with different numbers of clicks, as `--batch-size` puts them together."""
    predictor = Predictor(small_model(), Cfr(crop=SIDE))
    rng = np.random.default_rng(0)
    runs = []
    for clicks in ([Click(9, 9, True)], [Click(8, 20, True), Click(3, 4, False), Click(30, 5, True)]):
        image = rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)
        one = Refinement(image, (50, 60), predictor.cfr, "cpu")
        one.clicks += clicks
        runs.append(one.next_input())
    together = forward(predictor, runs)
    for logits, run in zip(together, runs, strict=True):
        (alone,) = forward(predictor, [run])
        assert logits.shape == alone.shape
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)
