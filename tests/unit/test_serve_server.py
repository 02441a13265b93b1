"""The annotator's server where the engine does not start it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError

from pipeline.config.serving import ServeConfig
from pipeline.errors import Unavailable
from pipeline.serve import server


def test_an_engine_too_busy_to_serve_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: Any) -> None:
        raise RayActorError(error_msg="The proxy died before its start.\nMany more lines.")

    def none(*_: Any, **__: Any) -> Any:
        raise ValueError("no such actor")

    monkeypatch.setattr(server.serve, "start", fails)
    monkeypatch.setattr(server.ray, "get_actor", none)
    for name in ("on_gpu", "require", "check_everywhere", "start_clerk"):
        monkeypatch.setattr(server, name, lambda *_, **__: None)
    checked = server.Checked(ServeConfig(checkpoint="small", out=str(tmp_path)), "")
    said = pytest.raises(Unavailable, match=r"Ray Serve did not start \(.*proxy died.*\): start the server again")
    with said, server.served(checked):
        pass
