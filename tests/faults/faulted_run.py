"""One training job that suffers one fault after the other, submitted again whenever a fault has ended it."""

from __future__ import annotations

import shlex
import sys
import time

from ray.job_submission import JobStatus, JobSubmissionClient

from tests.e2e.conftest import Switch
from tests.faulty_s3 import FaultyS3

from .local_cluster import EVERY, ROOT, SMALL, STEPS, Local, contents, last_step, until


class FaultedRun:
    """The job: the options of the reference run, its S3 requests through a proxy, its MLflow through a switch.

    Attributes:
        out: its output, on S3.
        s3: the proxy.
        mlflow: the switch.
    """

    def __init__(self, local: Local, train: str, reference: str) -> None:
        self.local, self.reference = local, reference
        self.out = f"{local.bucket}/hurt"
        self.s3 = FaultyS3(local.env["AWS_ENDPOINT_URL"])
        self.mlflow = Switch(int(local.env["MLFLOW_TRACKING_URI"].rsplit(":", 1)[1]))
        args = ["jobs/train.py", "tiny", "--data.train", train, "--out", self.out, *SMALL]
        self._command = shlex.join([sys.executable, *args, "--tracking.uri", self.mlflow.uri])
        self._client = JobSubmissionClient(local.env["RAY_API_SERVER_ADDRESS"])
        self._job = ""

    @property
    def status(self) -> JobStatus | None:
        return self._client.get_job_status(self._job) if self._job else None

    @property
    def runs(self) -> bool:
        status = self.status
        return status is not None and not status.is_terminal()

    @property
    def exit_code(self) -> int | None:
        return self._client.get_job_info(self._job).driver_exit_code

    def logs(self) -> str:
        """What the job of the last `submit` said."""
        return self._client.get_job_logs(self._job)

    def submit(self) -> None:
        """Start the job, or start it again with the same command."""
        self._job = self._client.submit_job(
            entrypoint=self._command,
            runtime_env={
                "working_dir": str(ROOT),
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60", "AWS_ENDPOINT_URL": self.s3.url},
            },
        )

    def stop(self) -> None:
        """`ray job stop`; waits for the end."""
        self._client.stop_job(self._job)
        self.ended()

    def going(self) -> int:
        """Make sure that it runs and has just written a checkpoint; returns that one's step."""
        if not self.runs:
            assert last_step(self.out) < STEPS, "the run has ended: there are too few steps for all faults"
            self.submit()
            self.next()
        step = last_step(self.out)
        print(f"at step {step}")
        return step

    def next(self, since: int | None = None) -> float:
        """Wait for a checkpoint after that of step `since` (default: the newest) and compare it with the reference's.

        Returns:
            The seconds it took.
        """
        start = time.monotonic()
        before = last_step(self.out) if since is None else since

        def look() -> bool:
            if last_step(self.out) > before:
                return True
            assert self.runs, f"the job has ended:\n{self.logs()[-5000:]}"
            return False

        until(look, f"a checkpoint after step {before}")
        seconds = time.monotonic() - start
        step = last_step(self.out) // EVERY * EVERY
        assert contents(self.out, step) == contents(self.reference, step), f"step {step} differs from the reference"
        return seconds

    def submit_and_next(self) -> float:
        """Seconds from submitting the job again to its next checkpoint."""
        start = time.monotonic()
        self.submit()
        self.next()
        return time.monotonic() - start

    def ended(self) -> str:
        """Wait for the end of the job; returns what it said."""
        until(lambda: not self.runs, "the end of the job", 240)
        return self.logs()

    def close(self) -> None:
        if self.runs:
            self.stop()
        self.s3.close()
        self.mlflow.close()
