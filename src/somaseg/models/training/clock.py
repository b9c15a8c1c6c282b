"""Time that a training took over all its sittings."""

import time
from collections.abc import Mapping
from typing import Any


class Clock:
    """Counts on from what a checkpoint noted, so that an interruption is not counted."""

    def __init__(self, spent: Mapping[str, Any] | None = None) -> None:
        """Start.

        Args:
            spent: ``seconds`` and ``cpu_seconds`` of the sittings before; others are ignored.
        """
        spent = spent or {"seconds": 0.0, "cpu_seconds": 0.0}
        self._began = time.monotonic() - spent["seconds"]
        self._began_cpu = time.process_time() - spent["cpu_seconds"]

    def read(self) -> dict[str, float]:
        """Wall-clock time and processor time of this process, in seconds."""
        return {
            "seconds": time.monotonic() - self._began,
            "cpu_seconds": time.process_time() - self._began_cpu,
        }
