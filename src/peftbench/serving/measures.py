"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Measures:
    """Counters of one server; `waiting` gives the images that wait or are being answered."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        kept = self.collected = CollectorRegistry()
        self.requests = Counter("peftbench_requests", "Requests by path and status.", ("path", "status"), registry=kept)
        self.seconds = Histogram(
            "peftbench_request_seconds", "Seconds of answered requests.", ("path",), buckets=_SECONDS, registry=kept
        )
        self.images = Counter("peftbench_images", "Images that a task answered.", ("task",), registry=kept)
        self.batches = Histogram("peftbench_batch_images", "Images of a batch.", buckets=_IMAGES, registry=kept)
        self.reloads = Counter("peftbench_reloads", "Reloads of a task.", ("task", "result"), registry=kept)
        self.changed = Gauge(
            "peftbench_delta_changed", "1 where the file is no longer what is served.", ("task",), registry=kept
        )
        queue = Gauge("peftbench_queue_images", "Images that wait or are being answered.", registry=kept)
        queue.set_function(waiting)

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self.collected)
