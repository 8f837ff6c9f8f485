"""Prometheus' view of a server.

All of it is counted in the one process that speaks HTTP; what workers measure comes with their
replies. So the sums are right however many workers there are.
"""

import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """The counters of one server.

    Args:
        model: the name of what answers.
        queue: gives the pictures that wait for a worker.
        inside: gives the pictures in the server.
        workers: gives the process ids of those that are warm.
    """

    def __init__(
        self,
        model: str,
        queue: Callable[[], int],
        inside: Callable[[], int],
        workers: Callable[[], list[int]],
    ) -> None:
        self._registry = CollectorRegistry()
        self._workers = workers
        to = self._registry
        self.requests = Counter(
            "dogbreed_requests",
            "By route and HTTP status",
            ["route", "status"],
            registry=to,
        )
        self.latency = Histogram(
            "dogbreed_request_seconds",
            "From a request's headers to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=to,
        )
        self.pictures = Counter(
            "dogbreed_pictures",
            "success, unreadable, failed, left",
            ["outcome"],
            registry=to,
        )
        self.stage = Histogram(
            "dogbreed_stage_seconds",
            "Time of a picture in a stage: decode, queue, forward (of its batch)",
            ["stage"],
            buckets=_SECONDS,
            registry=to,
        )
        self.batch = Histogram(
            "dogbreed_batch_pictures", "Pictures in a batch", buckets=_BATCHES, registry=to
        )
        self.breeds = Counter("dogbreed_answers", "Answers by breed", ["breed"], registry=to)
        self.confidence = Histogram(
            "dogbreed_confidence", "Probability of the answer", buckets=_SHARES, registry=to
        )
        self.rejected = Counter(
            "dogbreed_rejected_pictures", "Answered as none of the breeds", registry=to
        )
        self.restarts = Counter("dogbreed_worker_restarts", "Workers replaced", registry=to)
        self._logged = Counter(
            "dogbreed_log_rows",
            "Of the prediction log: written, dropped",
            ["outcome"],
            registry=to,
        )
        self._memory = Gauge(
            "dogbreed_memory_bytes", "Resident memory by process", ["process"], registry=to
        )
        for name, about, value in (
            ("dogbreed_queue_pictures", "Pictures that wait for a worker", queue),
            ("dogbreed_inside_pictures", "Pictures in the server", inside),
            ("dogbreed_workers_ready", "Workers that are warm", lambda: len(workers())),
        ):
            Gauge(name, about, registry=to).set_function(value)
        info = Gauge("dogbreed_model_info", "The model that answers", ["model"], registry=to)
        info.labels(model).set(1)

    def log(self, outcome: str, rows: int) -> None:
        """Count rows of the prediction log."""
        self._logged.labels(outcome).inc(rows)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        self._memory.clear()
        for name, pid in [("server", os.getpid()), *(("workers", pid) for pid in self._workers())]:
            self._memory.labels(name).inc(_resident(pid))
        return generate_latest(self._registry)


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
