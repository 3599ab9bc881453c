"""What Prometheus reads, parsed by its own client."""

from prometheus_client.parser import text_string_to_metric_families

from export.serve.metrics import Family, Metrics, reloads, render, total

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def counted(requests: int, images: int, queue: int, model: str = "m") -> Metrics:
    metrics = Metrics()
    metrics.requests.labels("infer", "200").inc(requests)
    metrics.batch_images.observe(images)
    metrics.queue_images.set(queue)
    metrics.replicas.set(1)
    metrics.model.labels(model, "0" * 64, "fp32", "cpu").set(1)
    return metrics


def test_one_replica() -> None:
    samples = parsed(render(counted(3, 5, 7).families()))
    assert value(samples, "ensemble_requests_total", endpoint="infer", status="200") == 3
    assert value(samples, "ensemble_batch_images_sum") == 5
    assert value(samples, "ensemble_batch_images_bucket", le="4.0") == 0
    assert value(samples, "ensemble_batch_images_bucket", le="8.0") == 1
    assert value(samples, "ensemble_batch_images_bucket", le="+Inf") == 1
    assert value(samples, "ensemble_queue_images") == 7
    assert not [name for name, _ in samples if name.endswith("_created")]


def test_replicas_are_summed() -> None:
    both = [counted(3, 5, 7), counted(4, 60, 1)]
    both[1].requests.labels("infer", "400").inc()
    samples = parsed(render(total(one.families() for one in both)))
    assert value(samples, "ensemble_requests_total", endpoint="infer", status="200") == 7
    assert value(samples, "ensemble_requests_total", endpoint="infer", status="400") == 1
    assert value(samples, "ensemble_batch_images_sum") == 65
    assert value(samples, "ensemble_batch_images_count") == 2
    assert value(samples, "ensemble_batch_images_bucket", le="8.0") == 1
    assert value(samples, "ensemble_queue_images") == 8
    assert value(samples, "ensemble_replicas") == 2
    assert value(samples, "ensemble_model_info", model="m", sha256="0" * 64, precision="fp32", provider="cpu") == 2


def test_reloads_are_of_all_replicas_together() -> None:
    samples = parsed(render(total([counted(3, 5, 7).families(), counted(4, 60, 1).families(), (reloads(2),)])))
    assert value(samples, "ensemble_reloads_total") == 2


def test_buckets_are_in_order_whatever_came_first() -> None:
    text = render(total([counted(1, 1, 0).families(), counted(1, 999, 0).families()])).decode()
    sizes = [float(line.split('le="')[1].split('"')[0]) for line in text.splitlines() if "images_bucket" in line]
    assert sizes == sorted(sizes)


def test_a_sum_of_nothing() -> None:
    assert render(total([])) == b""
    assert total([(Family("a", "", "counter", ()),)]) == [Family("a", "", "counter", ())]


def test_every_metric_has_help_and_one_prefix() -> None:
    for family in text_string_to_metric_families(render(Metrics().families()).decode()):
        assert family.name.startswith("ensemble_")
        assert family.documentation.endswith(".")
