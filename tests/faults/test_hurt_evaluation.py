"""Evaluation that loses an actor, then a node: every object once, with the clicks it would have had."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pipeline import storage

from .conftest import Reference, evaluation_args, results
from .local_cluster import Local, until

KEY = ("dataset", "cfr_steps", "image_id", "object_id")


def test_loss_of_actors_and_of_a_node(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out, log = f"{local.bucket}/hurt-evaluation", tmp_path / "log"
    args = evaluation_args(reference, reference.run, out)
    args[args.index("--max-clicks") + 1] = "20"  # to the budget, which leaves time to hurt it
    driver = local.start("-m", "jobs.evaluate", *args, "--full-curve", "--no-tracking", "--actors", "2", log=log)

    def parts() -> int:
        return len(storage.list_files(f"{out}/parts", ".parquet"))

    def next_part() -> float:
        start, before = time.monotonic(), parts()
        until(lambda: parts() > before, "the next part", alive=driver)
        return time.monotonic() - start

    until(parts, "a first part", alive=driver)
    local.kill("InferenceActor")
    actor_seconds = next_part()
    with local.without(local.workers()[0]):
        node_seconds = next_part()
    assert driver.wait(200) == 0, log.read_text()[-5000:]
    found, expected = results(out), results(reference.evaluation)
    assert [[row[k] for k in KEY] for row in found] == [[row[k] for k in KEY] for row in expected]
    for row, alone in zip(found, expected, strict=True):
        assert row["clicks"][: len(alone["clicks"])] == alone["clicks"]
    assert storage.exists(f"{out}/report.html")
    again = "nothing: its items are evaluated again, each object is once in objects.parquet"
    noted("SIGKILL of an evaluation actor", "its item goes to another actor", again, actor_seconds)
    noted("SIGKILL of a node that evaluates", "its items go to the actors that are left", again, node_seconds)
