"""CPU, memory, disks, network and GPUs of the machine of the job, as MLflow's page of system metrics shows them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any


class MachineWatch(threading.Thread):
    """Looks at the machine again and again, beside the job, until `stop`."""

    def __init__(self, seconds: float, tell: Callable[[dict[str, float]], None]) -> None:
        """Args: seconds: between two looks; tell: gets {"system/NAME": number}."""
        super().__init__(name="machine", daemon=True)
        self._seconds, self._tell = seconds, tell
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        monitors = _monitors()
        while not self._stopped.wait(self._seconds):
            found: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                found |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            self._tell(found)


def _monitors() -> list[Any]:
    """MLflow's own, so that names and units are those that its users know."""
    import psutil
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    psutil.cpu_percent()  # of the time since the last call, so that the first one says nothing
    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(ImportError, RuntimeError):  # there is no NVIDIA driver
        monitors.append(GPUMonitor())
    return monitors
