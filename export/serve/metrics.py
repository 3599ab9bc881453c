"""What Prometheus reads: counted by each replica, summed over all of them by whichever is asked.

Behind one port there are several replicas, and who answers a scrape is chance; counters that belong to one replica
would jump back and forth. So replicas tell each other their counts, and every answer is the sum.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

__all__ = ["CONTENT_TYPE", "Family", "Metrics", "reloads", "render", "total"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `render` returns."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

Sample = tuple[str, tuple[tuple[str, str], ...], float]
"""Name, labels, value."""


@dataclass(frozen=True)
class Family:
    """The samples of one metric, as replicas send them to each other.

    Attributes:
        name: of the metric.
        help: in a line.
        kind: `counter`, `gauge` or `histogram`.
        samples: of all its labels.
    """

    name: str
    help: str
    kind: str
    samples: tuple[Sample, ...]


class Metrics:
    """What a replica counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "ensemble_requests", "Requests answered.", ["endpoint", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "ensemble_request_seconds",
            "From a request's headers to its answer.",
            ["endpoint", "status"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.images = Counter("ensemble_images", "Images answered.", registry=self._registry)
        self.batch_images = Histogram(
            "ensemble_batch_images", "Images in a batch.", buckets=_IMAGES, registry=self._registry
        )
        self.batch_seconds = Histogram(
            "ensemble_batch_seconds", "What the network took for a batch.", buckets=_SECONDS, registry=self._registry
        )
        self.queue_seconds = Histogram(
            "ensemble_queue_seconds", "What a request waited for its batch.", buckets=_SECONDS, registry=self._registry
        )
        self.queue_images = Gauge("ensemble_queue_images", "Images waiting now.", registry=self._registry)
        self.inside = Gauge("ensemble_requests_in_flight", "Requests being answered now.", registry=self._registry)
        self.replicas = Gauge("ensemble_replicas", "Replicas that are serving.", registry=self._registry)
        self.model = Gauge(
            "ensemble_model_info",
            "The model that replicas serve.",
            ["model", "sha256", "precision", "provider"],
            registry=self._registry,
        )

    def families(self) -> tuple[Family, ...]:
        """Return the counts of now."""
        return tuple(
            Family(
                metric.name,
                metric.documentation,
                metric.type,
                tuple(
                    (sample.name, tuple(sorted(sample.labels.items())), float(sample.value))
                    for sample in metric.samples
                    if not sample.name.endswith("_created")  # times, which have no sum
                ),
            )
            for metric in self._registry.collect()
        )


def reloads(number: int) -> Family:
    """Return how many models were rolled in: one for all replicas, and so not theirs to count."""
    samples = (("ensemble_reloads_total", (), float(number)),)
    return Family("ensemble_reloads", "Model files rolled in.", "counter", samples)


def total(of_replicas: Iterable[Iterable[Family]]) -> list[Family]:
    """Return the sums over replicas: of counters and histograms by their labels, and of gauges, too."""
    heads: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for families in of_replicas:
        for family in families:
            heads.setdefault(family.name, family)
            mine = sums.setdefault(family.name, {})
            for name, labels, value in family.samples:
                mine[name, labels] = mine.get((name, labels), 0.0) + value
    return [
        Family(name, head.help, head.kind, tuple((*key, value) for key, value in sums[name].items()))
        for name, head in heads.items()
    ]


def render(families: Iterable[Family]) -> bytes:
    """Return counts in Prometheus' text format."""
    return generate_latest(_Collected(families))


class _Collected(CollectorRegistry):
    """Families as a registry of Prometheus' client, which writes them."""

    def __init__(self, families: Iterable[Family]) -> None:
        super().__init__()
        self._families = tuple(families)

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric
