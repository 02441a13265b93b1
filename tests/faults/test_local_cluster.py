"""`cluster/local.sh` itself: its mistakes. That it runs jobs and leaves no process is part of the other tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .local_cluster import SCRIPT, Local


def test_mistakes_are_one_message_and_exit_2(local: Local, tmp_path: Path) -> None:
    for args, folder, message in (
        (["start"], local.folder, "already runs"),
        (["remove-node", "worker-77"], local.folder, "no worker node worker-77"),
        (["env"], tmp_path, "no cluster runs"),
        (["begin"], tmp_path, "local.sh start"),
    ):
        environment = {**os.environ, "PYTHON": sys.executable}
        command = ["bash", str(SCRIPT), *args, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert message in done.stderr
