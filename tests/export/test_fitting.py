"""Which configurations that are there a graph fits, and what is said of the others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from export.triton import new_version
from tests.export.test_triton import PLAIN, SERVICE, listing, parsed, put
from zoo.errors import CorruptError, MenagerieError, UsageError


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": (64, 32)}, r"input images TYPE_UINT8 \[32, 32, 3\] instead of images TYPE_UINT8 \[64, 32, 3\]"),
        ({"members": 2}, r"output probs TYPE_FP32 \[3\] instead of member_probs TYPE_FP32 \[2, 3\]; probs"),
        ({"device": "tensorrt"}, "accelerators cuda instead of tensorrt, cuda"),
        ({"device": "cpu"}, "accelerators cuda instead of none"),
    ],
)
def test_other_interfaces_are_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    put(tmp_path, PLAIN)
    before = listing(tmp_path)
    with (
        pytest.raises(UsageError, match=rf"config.pbtxt does not fit this graph: {says}.*give another --name"),
        new_version(tmp_path, replace(PLAIN, **change)),  # type: ignore[arg-type]
    ):
        pytest.fail("there is nothing to write")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("configured", [True, False])
def test_other_classes_are_refused(tmp_path: Path, configured: bool) -> None:
    put(tmp_path, PLAIN)
    if not configured:
        (tmp_path / "one" / "config.pbtxt").unlink()
    before, labels = listing(tmp_path), tmp_path / "one" / "labels.txt"
    with (
        pytest.raises(UsageError) as no,
        new_version(tmp_path, replace(PLAIN, classes=("cat", "dog", "fox"))),
    ):
        pytest.fail("there is nothing to write")
    assert str(no.value) == f"{labels} has other classes than this graph: change it, or give another --name"
    assert listing(tmp_path) == before
    labels.write_bytes(b"\xff\n")
    with pytest.raises(CorruptError, match=r"labels\.txt cannot be read \("), new_version(tmp_path, PLAIN):
        pytest.fail("there is nothing to write")


def test_tensorrt_in_another_precision_is_refused(tmp_path: Path) -> None:
    put(tmp_path, SERVICE)
    for device in ("tensorrt", None):
        with (
            pytest.raises(UsageError, match="TensorRT in FP16 instead of INT8"),
            new_version(tmp_path, replace(SERVICE, precision="int8", device=device)),
        ):
            pytest.fail("there is nothing to write")
    assert put(tmp_path, replace(SERVICE, device=None)) == 2, "whoever does not say what serves it takes what is there"


def policy(text: str, instead: str) -> str:
    """Return a configuration with another version policy."""
    mine = "version_policy {\n  latest {\n    num_versions: 1\n  }\n}\n"
    assert mine in text
    return text.replace(mine, f"version_policy: {{ {instead} }}\n" if instead else "")


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: policy(text, "specific { versions: 1 versions: 2 }"),
        lambda text: policy(text, "latest { num_versions: 3 }"),
        lambda text: policy(text, "all { }"),
        lambda text: policy(text, ""),
        lambda text: text.replace('name: "one"', ""),
        lambda text: text.replace("256", "1"),
    ],
)
def test_what_serves_the_new_version_fits(tmp_path: Path, edit: Callable[[str], str]) -> None:
    put(tmp_path, PLAIN)
    path = tmp_path / "one" / "config.pbtxt"
    before = path.read_text(encoding="utf-8")
    path.write_text(edit(before), encoding="utf-8")
    parsed(edit(before))
    assert edit(before) != before
    assert put(tmp_path, PLAIN) == 2


@pytest.mark.parametrize(
    ("edit", "error", "says"),
    [
        (lambda text: text.replace('"onnxruntime"', '"tensorrt"'), UsageError, "it has another backend"),
        (lambda text: text + 'default_model_filename: "m.onnx"', UsageError, "a file other than model.onnx"),
        (lambda text: text.replace("output {", "outputs {"), UsageError, "output none instead of probs"),
        (lambda text: text[:200], CorruptError, r"config.pbtxt cannot be read \(.+\): mend it"),
        (lambda text: text.replace('name: "images"', ""), CorruptError, "cannot be read"),
        (lambda _: "max_batch_size: 8 input: 3", CorruptError, "cannot be read"),
        (lambda text: text.replace("256", "many"), CorruptError, "cannot be read"),
        (lambda text: text.replace('"one"', '"other"'), UsageError, "its name is 'other' instead of 'one': change it"),
        (lambda text: text.replace("size: 256", "size: 0"), UsageError, "max_batch_size is below 1"),
        (lambda text: text.replace("max_batch_size: 256", ""), UsageError, "max_batch_size is below 1"),
        (lambda text: policy(text, "specific { versions: [1, 3] }"), UsageError, "version_policy leaves out version 2"),
        (lambda text: policy(text, "specific { }"), UsageError, "version_policy leaves out version 2"),
        (lambda text: policy(text, "latest { num_versions: 0 }"), UsageError, "version_policy leaves out version 2"),
        (lambda text: policy(text, "latest { }"), UsageError, "version_policy leaves out version 2"),
    ],
)
def test_other_configurations_are_refused(
    tmp_path: Path, edit: Callable[[str], str], error: type[MenagerieError], says: str
) -> None:
    put(tmp_path, PLAIN)
    path = tmp_path / "one" / "config.pbtxt"
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(error, match=says), new_version(tmp_path, PLAIN):
        pytest.fail("there is nothing to write")
