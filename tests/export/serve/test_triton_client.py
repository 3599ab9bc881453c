"""Triton's client at a server in this process: what the protocol says, as somebody else has understood it."""

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.export.serve.conftest import SIZE, Site, answers, asked, some_images


@pytest.fixture
def client(server: Site) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as found:
        yield found


def test_tritons_client_finds_a_server_and_its_model(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tony")
    assert client.get_server_metadata()["name"] == "menagerie"
    metadata = client.get_model_metadata("tiny", "1")
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, *SIZE, 3]}]


@pytest.mark.parametrize("binary", [(True, True), (False, False), (True, False), (False, True)])
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_tritons_client_infers(
    client: triton.InferenceServerClient, binary: tuple[bool, bool], encoding: str | None
) -> None:
    images = some_images(5)
    found = client.infer(
        "tiny",
        asked(images, binary=binary[0]),
        outputs=[triton.InferRequestedOutput(name, binary_data=binary[1]) for name in ("member_probs", "probs")],
        request_id="abc",
        request_compression_algorithm=encoding,
        response_compression_algorithm=encoding,
    )
    probs, own = answers(images)
    np.testing.assert_allclose(found.as_numpy("probs"), probs, atol=1e-5)
    np.testing.assert_allclose(found.as_numpy("member_probs"), own, atol=1e-5)
    assert found.get_response()["id"] == "abc"


def test_tritons_client_asks_for_all_outputs_one_or_classes(client: triton.InferenceServerClient) -> None:
    images = some_images(2)
    both = client.infer("tiny", asked(images), model_version="1", parameters={"whatever": 1}, priority=2)
    assert both.as_numpy("member_probs").shape == (2, 3, 10)
    one = client.infer("tiny", asked(images), outputs=[triton.InferRequestedOutput("probs")])
    assert one.as_numpy("member_probs") is None
    top = client.infer("tiny", asked(images), outputs=[triton.InferRequestedOutput("probs", class_count=1)])
    indices = [int(text.decode().split(":")[1]) for text in top.as_numpy("probs").ravel()]
    assert indices == answers(images)[0].argmax(1).tolist()


def test_tritons_client_is_told_what_is_wrong(client: triton.InferenceServerClient) -> None:
    for model, images, sentence in (
        ("tony", some_images(1), "there is no model 'tony'"),
        ("tiny", some_images(17), "17 images are too many: send at most 16"),
        (
            "tiny",
            np.zeros((1, 3, *SIZE), np.uint8),
            r"shape of 'images' is \[1, 3, 8, 6\]: the model takes \[N, 8, 6, 3\]",
        ),
    ):
        with pytest.raises(InferenceServerException, match=sentence):
            client.infer(model, asked(images))
