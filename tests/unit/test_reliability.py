"""docs/reliability.md has a row of every fault test, and no row of a test that is gone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NO_FAULT = {  # the main test, what is true of all of it, the sum of the training faults, mistakes of the script
    "test_mistakes_are_one_message_and_exit_2",
    "test_prepare_train_evaluate_on_s3_through_ray_job_submit",
    "test_no_credential_is_written_anywhere",
    "test_in_the_end_everything_is_as_if_nothing_had_happened",
}


def test_every_fault_has_its_row() -> None:
    tests: set[str] = set()
    for file in (ROOT / "tests" / "faults").glob("test_*.py"):
        tree = ast.parse(file.read_text())
        tests |= {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
    rows = set(re.findall(r"\| `(test_\w+)` \|$", (ROOT / "docs" / "reliability.md").read_text(), re.MULTILINE))
    assert NO_FAULT <= tests
    assert rows == tests - NO_FAULT
