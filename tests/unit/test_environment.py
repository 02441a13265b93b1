"""What a run says of the machine and the versions that it was made with."""

from __future__ import annotations

import json

from pipeline.report import environment


def test_environment_is_plain_and_knows_the_versions() -> None:
    found = environment.describe_environment()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["torch"].startswith("2.") and found["cpus"] >= 1
