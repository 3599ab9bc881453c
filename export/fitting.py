"""Whether a Triton configuration that people may have changed fits a graph: read as `export.pbtxt.parse_text` reads."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["GRAPH", "difference"]

GRAPH = "model.onnx"
"""The file that Triton's ONNX Runtime backend loads, unless a configuration names another."""


def difference(
    mine: Mapping[str, Any], its: Mapping[str, Any], *, version: int, precision: str, device: str | None
) -> str | None:
    """Return what of a configuration does not fit a graph's own, or would never serve it; None if all does.

    Args:
        mine: the graph's own.
        its: the one that is there.
        version: of the graph, the latest of its model.
        precision: of the graph: fp32, fp16 or int8.
        device: that must serve it; None for whichever is there.

    Raises:
        AttributeError, LookupError, TypeError, ValueError: `its` is no configuration.
    """
    return next(_differences(mine, its, version, precision.upper(), device), None)


def _differences(
    mine: Mapping[str, Any], its: Mapping[str, Any], version: int, precision: str, device: str | None
) -> Iterator[str]:
    if its.get("name", [""])[-1] not in {"", mine["name"][-1]}:
        yield f"its name is {its['name'][-1]!r} instead of {mine['name'][-1]!r}"
    if its.get("backend", ["onnxruntime"]) != ["onnxruntime"] or its.get("default_model_filename", [GRAPH]) != [GRAPH]:
        yield f"it has another backend, or a file other than {GRAPH}"
    if int(its.get("max_batch_size", ["0"])[-1]) < 1:
        yield "max_batch_size is below 1, so that a request is no batch"
    if not _serves(its, version):
        yield f"version_policy leaves out version {version}"
    for key in ("input", "output"):
        here, there = (sorted(map(_tensor, fields.get(key, []))) for fields in (mine, its))
        if here != there:
            yield f"{key} {'; '.join(there) or 'none'} instead of {'; '.join(here)}"
    ours, theirs = _accelerators(mine), _accelerators(its)
    if device is not None and set(ours) != set(theirs):
        yield f"accelerators {', '.join(theirs) or 'none'} instead of {', '.join(ours) or 'none'}"
    if theirs.get("tensorrt", precision) != precision:
        yield f"TensorRT in {theirs['tensorrt']} instead of {precision}"


def _serves(its: Mapping[str, Any], version: int) -> bool:
    """Say whether a configuration lets Triton load what is the latest version (core, `VersionsToLoad`)."""
    policy = its.get("version_policy", [{"all": [{}]}])[-1]
    if "specific" in policy:
        return str(version) in policy["specific"][-1].get("versions", [])
    return "latest" not in policy or int(policy["latest"][-1].get("num_versions", ["0"])[-1]) > 0


def _tensor(fields: Mapping[str, Any]) -> str:
    return f"{fields['name'][0]} {fields['data_type'][0]} [{', '.join(fields.get('dims', []))}]"


def _accelerators(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return a configuration's accelerators on GPUs: name -> precision, `FP32` where it is not said."""
    found = {}
    for policy in fields.get("optimization", []):
        for part in policy.get("execution_accelerators", []):
            for one in part.get("gpu_execution_accelerator", []):
                options = {option["key"][0]: option["value"][0] for option in one.get("parameters", [])}
                found[one["name"][0]] = options.get("precision_mode", "FP32")
    return found
