"""Answers of the Open Inference Protocol, held to what Triton's own client reads out of them."""

import json

import numpy as np
import pytest
from tritonclient.http import InferResult

from export.runtime.answer import Answer
from export.serve.inference import Wanted
from export.serve.inferred import render_inference
from tests.conftest import CLASSES
from tests.export.serve.conftest import INTERFACE, answers, some_images

ANSWER = Answer(*answers(some_images(3)))


def render(*outputs: Wanted, answer: Answer = ANSWER, request_id: str | None = None) -> tuple[bytes, int | None]:
    return render_inference(answer, outputs, INTERFACE, name="tiny", request_id=request_id)


@pytest.mark.parametrize("binary", [(False, False), (True, True), (True, False), (False, True)])
def test_tritons_client_reads_the_numbers(binary: tuple[bool, bool]) -> None:
    body, length = render(Wanted("member_probs", binary[0]), Wanted("probs", binary[1]))
    found = InferResult.from_response_body(body, header_length=length)
    np.testing.assert_array_equal(found.as_numpy("probs"), ANSWER.probs)
    np.testing.assert_array_equal(found.as_numpy("member_probs"), ANSWER.member_probs)
    assert (length is None) is not any(binary)


def test_the_head_of_an_answer() -> None:
    table = json.loads(render(Wanted("probs"), request_id="7")[0])
    assert list(table) == ["model_name", "model_version", "id", "outputs"]
    assert (table["model_name"], table["model_version"], table["id"]) == ("tiny", "1", "7")
    (output,) = table["outputs"]
    assert {key: output[key] for key in ("name", "datatype", "shape")} == {
        "name": "probs", "datatype": "FP32", "shape": [3, 10],
    }  # fmt: skip
    assert "id" not in json.loads(render(Wanted("probs"))[0])


def test_a_binary_tensor_lies_after_the_json() -> None:
    body, length = render(Wanted("probs", binary=True))
    assert json.loads(body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 120}
    np.testing.assert_array_equal(np.frombuffer(body[length:], "<f4").reshape(3, 10), ANSWER.probs)


@pytest.mark.parametrize("binary", [False, True])
def test_classes_instead_of_numbers(binary: bool) -> None:
    body, length = render(Wanted("probs", binary, top=2))
    found = InferResult.from_response_body(body, header_length=length).as_numpy("probs")
    assert found.shape == (3, 2)
    for row, texts in zip(ANSWER.probs, found, strict=True):
        best = sorted(range(10), key=lambda c: -row[c])[:2]
        wanted = [f"{row[c]:f}:{c}:{CLASSES[c]}" for c in best]
        assert [text.decode() if isinstance(text, bytes) else text for text in texts] == wanted


def test_classes_of_each_member() -> None:
    assert ANSWER.member_probs is not None
    table = json.loads(render(Wanted("member_probs", top=1))[0])["outputs"][0]
    assert (table["datatype"], table["shape"]) == ("BYTES", [3, 3, 1])
    assert [text.split(":")[1] for text in table["data"]] == [
        str(c) for c in ANSWER.member_probs.argmax(-1).ravel().tolist()
    ]


def test_members_that_a_cascade_did_not_ask_are_null() -> None:
    own = np.full((1, 3, 10), np.nan, np.float32)
    own[0, 1] = 0.1
    answer = Answer(ANSWER.probs[:1], own, np.array([0]))
    text = render(Wanted("member_probs"), answer=answer)[0].decode()
    assert "NaN" not in text
    assert json.loads(text)["outputs"][0]["data"] == [None] * 10 + [pytest.approx(0.1)] * 10 + [None] * 10
    body, length = render(Wanted("member_probs", binary=True), answer=answer)
    np.testing.assert_array_equal(np.frombuffer(body[length:], "<f4").reshape(1, 3, 10), own)
