"""Requests of the Open Inference Protocol, well-formed and not."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.serve.inference import Inference, Wanted, parse_inference
from export.serve.problem import Problem
from tests.export.serve.conftest import INTERFACE, SIZE, infer_body, some_images

MOST = 16
IMAGES = some_images(2)
FLAT = IMAGES.ravel().tolist()
BOTH = (Wanted("probs"), Wanted("member_probs"))


def tensor(**more: object) -> dict[str, Any]:
    return {"name": "images", "shape": [2, *SIZE, 3], "datatype": "UINT8", "data": FLAT, **more}


def without(table: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in table.items() if k != key}


def parse(body: bytes, header: bytes | None = None) -> Inference:
    return parse_inference(body, header, INTERFACE, MOST)


def parse_table(table: object) -> Inference:
    return parse(json.dumps(table).encode())


@pytest.mark.parametrize("shape", [(-1,), (2, *SIZE, 3)])
def test_json_numbers_are_flat_or_nested(shape: tuple[int, ...]) -> None:
    found = parse_table({"inputs": [tensor(data=IMAGES.reshape(shape).tolist())]})
    np.testing.assert_array_equal(found.images, IMAGES)
    assert found.images.dtype == np.uint8
    assert (found.outputs, found.id) == (BOTH, None)


def test_binary_tensors() -> None:
    body, headers = infer_body(IMAGES)
    found = parse(body, headers["Inference-Header-Content-Length"].encode())
    np.testing.assert_array_equal(found.images, IMAGES)


def test_json_with_a_header_that_says_it_is_all() -> None:
    body = json.dumps({"inputs": [tensor()]}).encode()
    np.testing.assert_array_equal(parse(body, str(len(body)).encode()).images, IMAGES)


def test_a_gray_picture_is_one_row_of_numbers_however_it_is_nested() -> None:
    one = some_images(1)
    found = parse_table({"inputs": [tensor(shape=[1, *SIZE, 3], data=one.tolist())]})
    np.testing.assert_array_equal(found.images, one)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, BOTH),
        ({"outputs": []}, BOTH),
        ({"parameters": {"binary_data_output": True}}, (Wanted("probs", True), Wanted("member_probs", True))),
        ({"outputs": [{"name": "member_probs"}, {"name": "probs"}]}, (Wanted("member_probs"), Wanted("probs"))),
        ({"outputs": [{"name": "probs", "parameters": {"binary_data": True}}]}, (Wanted("probs", True),)),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "probs", "parameters": {"binary_data": False}}, {"name": "member_probs"}],
            },
            (Wanted("probs", False), Wanted("member_probs", True)),
        ),
        ({"outputs": [{"name": "probs", "parameters": {"classification": 3}}]}, (Wanted("probs", False, 3),)),
        ({"outputs": [{"name": "probs", "parameters": {"color": "red"}}], "parameters": {"priority": 1}}, BOTH[:1]),
        ({"parameters": None}, BOTH),
    ],
)
def test_outputs_that_are_asked_for(more: dict[str, Any], wanted: tuple[Wanted, ...]) -> None:
    assert parse_table({"inputs": [tensor()], **more}).outputs == wanted


def test_the_id_is_kept() -> None:
    assert parse_table({"inputs": [tensor()], "id": "ä 1"}).id == "ä 1"


MALFORMED: dict[str, tuple[object, str]] = {
    "a list": ([], "not a JSON object"),
    "no inputs": ({}, "'inputs' is not a list of one tensor"),
    "null inputs": ({"inputs": None}, "'inputs' is not a list"),
    "two inputs": ({"inputs": [tensor(), tensor()]}, "'inputs' is not a list of one tensor"),
    "an input that is none": ({"inputs": ["images"]}, "'inputs' is not a list of one tensor"),
    "another input": ({"inputs": [tensor(name="image")]}, "input 'image' is unknown: the model takes 'images'"),
    "no name": ({"inputs": [without(tensor(), "name")]}, "input 'None' is unknown"),
    "fp32": ({"inputs": [tensor(datatype="FP32")]}, "datatype of 'images' is 'FP32' instead of 'UINT8'"),
    "lower case": ({"inputs": [tensor(datatype="uint8")]}, "datatype of 'images' is 'uint8'"),
    "no shape": ({"inputs": [without(tensor(), "shape")]}, "shape of 'images' is not a list of whole numbers"),
    "a shape with a fraction": ({"inputs": [tensor(shape=[2.0, *SIZE, 3])]}, "not a list of whole numbers"),
    "a shape with a boolean": ({"inputs": [tensor(shape=[True, *SIZE, 3])]}, "not a list of whole numbers"),
    "channels first": ({"inputs": [tensor(shape=[2, 3, *SIZE])]}, r"takes \[N, 8, 6, 3\] with N from 1"),
    "no batch": ({"inputs": [tensor(shape=[*SIZE, 3])]}, r"is \[8, 6, 3\]: the model takes"),
    "an empty batch": ({"inputs": [tensor(shape=[0, *SIZE, 3], data=[])]}, "with N from 1"),
    "less than nothing": ({"inputs": [tensor(shape=[-1, *SIZE, 3])]}, "with N from 1"),
    "no data": ({"inputs": [without(tensor(), "data")]}, "has neither 'data' nor 'binary_data_size'"),
    "data twice": ({"inputs": [tensor(parameters={"binary_data_size": 288})]}, "has both 'data' and"),
    "a number too few": ({"inputs": [tensor(data=FLAT[1:])]}, "has 287 values instead of the 288"),
    "a number": ({"inputs": [tensor(data=7)]}, "has 1 values instead of the 288"),
    "text": ({"inputs": [tensor(data="x")]}, "has 1 values"),
    "null": ({"inputs": [tensor(data=None)]}, "has 1 values"),
    "nothing": ({"inputs": [tensor(data=[])]}, "has 0 values"),
    "256": ({"inputs": [tensor(data=[256, *FLAT[1:]])]}, "numbers outside 0..255"),
    "-1": ({"inputs": [tensor(data=[-1, *FLAT[1:]])]}, "numbers outside 0..255"),
    "a huge number": ({"inputs": [tensor(data=[10**30, *FLAT[1:]])]}, "numbers outside 0..255"),
    "a fraction": ({"inputs": [tensor(data=[1.0, *FLAT[1:]])]}, "other than whole numbers"),
    "a boolean": ({"inputs": [tensor(data=[True, *FLAT[1:]])]}, "other than whole numbers"),
    "null among numbers": ({"inputs": [tensor(data=[None, *FLAT[1:]])]}, "other than whole numbers"),
    "a list among numbers": ({"inputs": [tensor(data=[*FLAT[1:], [1]])]}, "other than whole numbers"),
    "numbers among lists": ({"inputs": [tensor(data=[IMAGES[0].tolist(), 1])]}, "not nested as its shape"),
    "half nested": ({"inputs": [tensor(data=IMAGES.reshape(2, -1).tolist())]}, "not nested as its shape"),
    "ragged": ({"inputs": [tensor(data=[IMAGES[0].tolist(), IMAGES[1, 1:].tolist()])]}, "not nested as its shape"),
    "turned": ({"inputs": [tensor(data=IMAGES.transpose(0, 2, 1, 3).tolist())]}, "not nested as its shape"),
    "too deep": ({"inputs": [tensor(data=[IMAGES.tolist()])]}, "not nested as its shape"),
    "parameters that are none": ({"inputs": [tensor(parameters=[])]}, "'parameters' of input 'images' is not an obj"),
    "an id that is a number": ({"inputs": [tensor()], "id": 5}, "'id' is not a string"),
    "a long id": ({"inputs": [tensor()], "id": "x" * 2000}, "'id' is not a string of at most 1024"),
    "an unknown output": ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, "'logits' is unknown: the model gi"),
    "outputs that are none": ({"inputs": [tensor()], "outputs": {"name": "probs"}}, "'outputs' is not a list"),
    "an output that is none": ({"inputs": [tensor()], "outputs": ["probs"]}, "'outputs' is not a list of objects"),
    "an output twice": ({"inputs": [tensor()], "outputs": [{"name": "probs"}] * 2}, "'probs' is asked for twice"),
    "an output that is a list": ({"inputs": [tensor()], "outputs": [{"name": ["probs"]}]}, "is unknown"),
    "binary 1": (
        {"inputs": [tensor()], "outputs": [{"name": "probs", "parameters": {"binary_data": 1}}]},
        "it is true or false",
    ),
    "too many classes": (
        {"inputs": [tensor()], "outputs": [{"name": "probs", "parameters": {"classification": 11}}]},
        "'classification' is 11: from 1 to 10",
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed(what: str) -> None:
    table, sentence = MALFORMED[what]
    with pytest.raises(Problem, match=sentence) as caught:
        parse_table(table)
    assert caught.value.status == 400
    assert "\n" not in caught.value.sentence


@pytest.mark.parametrize("body", [b"", b"{", b"nix", b"\xff\xfe", b"[" * 1900, b'{"inputs": NaN', b"\x00"])
def test_not_json(body: bytes) -> None:
    with pytest.raises(Problem, match="the request is not JSON"):
        parse(body)


def test_more_images_than_a_batch_has() -> None:
    with pytest.raises(Problem, match="17 images are too many: send at most 16") as caught:
        parse_table({"inputs": [tensor(shape=[17, *SIZE, 3])]})
    assert caught.value.status == 413


@pytest.mark.parametrize("part", [b"[],", b"{},", b"1,", b'"",', b"["])
def test_more_json_than_images_need_is_not_read(monkeypatch: pytest.MonkeyPatch, part: bytes) -> None:
    monkeypatch.setattr("export.serve.inference.json", None)
    with pytest.raises(Problem, match="the request has more JSON than 16 images need") as caught:
        parse(b"[" + part * 100_000 + b"0]")
    assert caught.value.status == 413


def test_as_much_json_as_images_need_is_read() -> None:
    images = some_images(MOST)
    found = parse_table({"inputs": [tensor(shape=list(images.shape), data=images.tolist())]})
    np.testing.assert_array_equal(found.images, images)


def test_much_json_in_front_of_binary_tensors() -> None:
    text = json.dumps({"inputs": [tensor()], "x": "x" * 70_000}).encode()
    np.testing.assert_array_equal(parse(text, str(len(text)).encode()).images, IMAGES)
    with pytest.raises(Problem, match="bytes of JSON precede the binary tensors: at most 65,536 may") as caught:
        parse(text + bytes(5), str(len(text)).encode())
    assert caught.value.status == 413


@pytest.mark.parametrize("header", [b"", b"-1", b"1e3", b"0x10", b"99999", b" 5", b"9" * 5000, "²".encode("latin-1")])
def test_a_header_length_that_cannot_be(header: bytes) -> None:
    with pytest.raises(Problem, match="Inference-Header-Content-Length is") as caught:
        parse(infer_body(IMAGES)[0], header)
    assert len(caught.value.sentence) < 250


@pytest.mark.parametrize(
    ("size", "cut", "sentence"),
    [
        (287, 0, "'binary_data_size' is 287: 288 bytes make the shape"),
        (-1, 0, "'binary_data_size' is -1"),
        ("288", 0, "'binary_data_size' is 288: 288 bytes"),
        (True, 0, "'binary_data_size' is True"),
        (288, 1, "287 bytes follow the JSON instead of the 288"),
        (288, 288, "0 bytes follow the JSON"),
        (288, -5, "293 bytes follow the JSON"),
    ],
)
def test_binary_sizes_that_do_not_fit(size: object, cut: int, sentence: str) -> None:
    table = {"inputs": [without(tensor(parameters={"binary_data_size": size}), "data")]}
    text, data = json.dumps(table).encode(), IMAGES.tobytes() + b"\0" * 5
    with pytest.raises(Problem, match=sentence):
        parse(text + data[: 288 - cut], str(len(text)).encode())


def test_bytes_that_belong_to_no_input() -> None:
    text = json.dumps({"inputs": [tensor()]}).encode()
    with pytest.raises(Problem, match="5 bytes follow the JSON, but no input has 'binary_data_size'"):
        parse(text + b"\0" * 5, str(len(text)).encode())


def outcome(body: bytes, header: bytes | None) -> Inference | Problem:
    try:
        return parse(body, header)
    except Problem as problem:
        return problem


@settings(max_examples=150)
@given(data=st.data())
def test_whatever_is_garbled_the_answer_is_images_or_a_sentence(data: st.DataObject) -> None:
    body, headers = infer_body(some_images(1), binary=data.draw(st.booleans()))
    torn = bytearray(body[: data.draw(st.integers(0, len(body)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if torn:
            torn[data.draw(st.integers(0, min(len(torn), 300) - 1))] = data.draw(st.integers(0, 255))
    header = headers.get("Inference-Header-Content-Length")
    found = outcome(bytes(torn), header.encode() if header else None)
    if isinstance(found, Problem):
        assert found.status in {400, 413}
        assert len(found.sentence) < 300
        assert found.sentence.isprintable()
    else:
        assert found.images.shape[1:] == (*SIZE, 3)


@settings(max_examples=100)
@given(
    table=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "x"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_refused_with_a_sentence(table: object) -> None:
    with pytest.raises(Problem) as caught:
        parse_table(table)
    assert caught.value.status == 400
    assert caught.value.sentence.isprintable()
