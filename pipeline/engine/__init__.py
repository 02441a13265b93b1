"""The engine at the edge of a job: connect, check machines before work, progress, watching, stopping, exit codes.

What Ray reads from the environment when its modules are imported is set here; `jobs/__init__.py` imports this first.
"""

from __future__ import annotations

import os
import secrets

from pipeline.engine import machine

# A report of a training worker waits for the next health check: 2 s by default, far longer than a small step.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "3600")
# How long a training run waits for machines is `train.wait_for_workers`, in tries of this length.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if not ({"RAY_AUTH_MODE", "RAY_ADDRESS"} & os.environ.keys() or machine.token_is_writable()):
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))  # of the Ray that is started here
if "OMP_WAIT_POLICY" not in os.environ:
    # Threads of a matrix product that have nothing to do spin, by default for milliseconds, which takes the cores from
    # whatever else runs on the machine: two trainings at once made a quarter of what one makes (benchmarks.neighbours).
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # `pipeline.engine.stop` hears it
