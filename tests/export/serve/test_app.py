"""The server over HTTP, in this process: endpoints, errors, limits, tokens, the log."""

import concurrent.futures
import gzip
import io
import json
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from export.serve.app import token_digest
from export.serve.limits import Limits
from tests.conftest import CLASSES
from tests.export.serve.conftest import SIZE, FakeSession, Images, Site, answers, infer_body, site, some_images

INFER = "/v2/models/tiny/infer"


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(some_images(1, seed)[0]).save(file, "PNG")
    return file.getvalue()


def test_what_the_server_is(server: Site) -> None:
    found = server.ask("GET", "/v2")
    assert found.status == 200
    assert found.headers["content-type"] == "application/json"
    assert found.json["name"] == "menagerie"
    assert {"classification", "binary_tensor_data"} <= set(found.json["extensions"])
    assert set(found.json) == {"name", "version", "extensions"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/tiny/ready", {"name": "tiny", "ready": True}),
        ("/v2/models/tiny/versions/1/ready", {"name": "tiny", "ready": True}),
    ],
)
def test_health(server: Site, path: str, body: dict[str, object]) -> None:
    found = server.ask("GET", path)
    assert (found.status, found.json) == (200, body)
    assert server.ask("HEAD", path).status == 200


@pytest.mark.parametrize("path", ["/v2/models/tiny", "/v2/models/tiny/", "/v2/models/tiny/versions/1"])
def test_what_the_model_is(server: Site, path: str) -> None:
    assert server.ask("GET", path).json == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, *SIZE, 3]}],
        "outputs": [
            {"name": "probs", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "member_probs", "datatype": "FP32", "shape": [-1, 3, 10]},
        ],
    }


@pytest.mark.parametrize("path", [INFER, "/v2/models/tiny/versions/1/infer"])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_infer(server: Site, path: str, binary: bool, encoding: str) -> None:
    images = some_images(3)
    body, headers = infer_body(images, binary=binary, id="42")
    if encoding:
        body = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
        headers["Content-Encoding"] = encoding
    found = server.ask("POST", path, body, headers)
    assert found.status == 200, found.body
    assert found.json["id"] == "42"
    probs, own = answers(images)
    np.testing.assert_allclose(found.output("probs"), probs, atol=1e-6)
    np.testing.assert_allclose(found.output("member_probs"), own, atol=1e-6)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_answers_are_compressed_on_request(server: Site, encoding: str) -> None:
    body, headers = infer_body(some_images(16))
    found = server.ask("POST", INFER, body, {**headers, "Accept-Encoding": encoding})
    assert found.headers["content-encoding"] == encoding
    plain = gzip.decompress(found.body) if encoding == "gzip" else zlib.decompress(found.body)
    assert json.loads(plain) == server.ask("POST", INFER, body, headers).json


def test_short_answers_are_not_compressed(server: Site) -> None:
    assert "content-encoding" not in server.ask("GET", "/v2", headers={"Accept-Encoding": "gzip"}).headers


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/v2/models/tony/infer", "there is no model 'tony': this server has 'tiny', version 1"),
        ("/v2/models/tiny/versions/2/infer", "there is no version '2' of model 'tiny'"),
        ("/v2/models/tiny/versions//infer", "there is no version '' of model 'tiny'"),
        ("/v2/models/tiny/nix", "there is nothing at '/v2/models/tiny/nix'"),
        ("/nix", "there is nothing at '/nix': GET /v2 says what this server is"),
        ("/page.html", "there is nothing at"),
        ("/..%2f..%2fetc/passwd", "there is nothing at"),
    ],
)
def test_what_is_not_there(server: Site, path: str, sentence: str) -> None:
    found = server.ask("POST", path, b"{}")
    assert found.status == 404
    assert sentence in found.error


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", INFER, "POST"), ("PUT", "/classify", "POST"), ("POST", "/v2", "GET, HEAD"), ("DELETE", "/", "GET, HEAD")],
)
def test_wrong_methods(server: Site, method: str, path: str, allow: str) -> None:
    found = server.ask(method, path)
    assert (found.status, found.headers["allow"]) == (405, allow)
    assert method in found.error


def test_malformed_requests_say_what_is_wrong(server: Site) -> None:
    found = server.ask("POST", INFER, b"{")
    assert (found.status, found.error[:27]) == (400, "the request is not JSON: Ex")
    found = server.ask("POST", INFER, b"x", {"Content-Encoding": "br"})
    assert (found.status, found.error[:22]) == (415, "Content-Encoding 'br' ")
    assert server.infer(some_images(17)).status == 413


@pytest.mark.parametrize("top", [None, 1, 10])
def test_classify(server: Site, top: int | None) -> None:
    found = server.ask("POST", "/classify" + (f"?top={top}" if top else ""), png(), {"Content-Type": "image/png"})
    assert found.status == 200
    probs, own = answers(some_images(1))
    order = np.argsort(-probs[0])[: top or 5]
    assert [one["class"] for one in found.json["top"]] == [CLASSES[c] for c in order]
    assert [one["prob"] for one in found.json["top"]] == pytest.approx(probs[0][order], abs=1e-6)
    assert [one["class"] for one in found.json["members"]] == [CLASSES[c] for c in own[0].argmax(1)]
    assert found.json["model"] == "tiny"
    assert found.json["agree"] == (own[0].argmax(1) == probs[0].argmax()).sum()


def test_classify_a_form(server: Site) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="p"; filename="p.png"\r\n\r\n' + png() + b"\r\n--b--\r\n"
    found = server.ask("POST", "/classify", body, {"Content-Type": "multipart/form-data; boundary=b"})
    assert found.json == server.ask("POST", "/classify", png()).json


@pytest.mark.parametrize("top", ["0", "11", "x", "-1", "9" * 50, "%C2%B2"])
def test_classes_to_show(server: Site, top: str) -> None:
    found = server.ask("POST", f"/classify?top={top}", png())
    assert found.status == 400
    assert "from 1 to 10 classes can be shown" in found.error


def test_the_page_needs_nothing_from_elsewhere(server: Site) -> None:
    page = server.ask("GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    text = page.body.decode()
    assert "http:" not in text
    assert "https:" not in text
    for file, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        assert f'"{file}"' in text
        found = server.ask("GET", f"/{file}")
        assert (found.status, found.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert found.headers["x-content-type-options"] == "nosniff"


def test_bodies_that_are_too_large() -> None:
    with site(limits=Limits(max_batch=2, max_body=80_000)) as found:
        for path, most in (("/classify", 80_000), (INFER, 2 * 144 * 16 + 65_536)):
            refused = found.ask("POST", path, bytes(most + 1))
            assert (refused.status, refused.error) == (413, f"the body is larger than {most:,} bytes")
            assert refused.headers["connection"] == "close"
            assert found.ask("POST", path, bytes(most)).status in {400, 415}


def test_a_bomb_in_an_encoding_does_not_go_off() -> None:
    with site(limits=Limits(max_body=100_000)) as found:
        refused = found.ask("POST", INFER, gzip.compress(bytes(10_000_000)), {"Content-Encoding": "gzip"})
        assert (refused.status, refused.error) == (413, "the body is larger than 100,000 bytes when it is unpacked")


def test_too_many_at_once_are_told_to_come_again() -> None:
    with site(FakeSession(seconds=0.3), Limits(max_queue=2)) as found, concurrent.futures.ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda seed: found.infer(some_images(1, seed)), range(8)))
        refused = [one for one in done if one.status != 200]
        assert len(refused) in range(4, 7)
        assert {one.status for one in refused} == {429}
        assert {one.headers["retry-after"] for one in refused} == {"1"}
        assert "requests are waiting already: try again in a second" in refused[0].error
        assert found.infer(some_images(1)).status == 200


def test_who_waits_too_long_is_told_so() -> None:
    with site(FakeSession(seconds=0.5), Limits(timeout=0.1)) as found:
        late = found.infer(some_images(1))
        assert (late.status, late.headers["retry-after"]) == (503, "5")
        assert late.error == "the answer did not come within 0.1 seconds: try again later"
        assert found.endpoints.intake.inside == 0


def test_an_error_of_the_network_is_of_one_request_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    poison = some_images(1, seed=5)

    def bite(images: Images) -> None:
        if poison.tobytes() in images.tobytes():
            raise RuntimeError("secret path /etc/passwd")

    with site(FakeSession(seconds=0.05, before=bite)) as found, concurrent.futures.ThreadPoolExecutor(10) as pool:
        done = list(pool.map(lambda seed: found.infer(some_images(1, seed)), range(10)))
    assert [one.status for one in done] == [200] * 5 + [500] + [200] * 4
    assert done[5].error == "the server failed to answer this request"
    for seed in (*range(5), *range(6, 10)):
        np.testing.assert_allclose(done[seed].output("probs"), answers(some_images(1, seed))[0], atol=1e-6)
    assert "secret path" in caplog.text


def test_neighbours_of_malformed_requests_get_their_own_answers() -> None:
    with site(FakeSession(seconds=0.01)) as found, concurrent.futures.ThreadPoolExecutor(16) as pool:
        good, headers = infer_body(some_images(2, 1))
        bad = [b"{", good[:-5], good + b"x", b"", bytes(1000), good.replace(b"UINT8", b"INT64")]

        def ask(number: int) -> None:
            if number % 4 == 3:
                broken = found.ask("POST", INFER, bad[number // 4 % len(bad)], headers)
                assert broken.status == 400, broken.body
            else:
                images = some_images(1 + number % 5, seed=number)
                np.testing.assert_allclose(found.infer(images).output("probs"), answers(images)[0], atol=1e-6)

        list(pool.map(ask, range(120)))
        assert max(found.session.batches) > 5  # they did share batches


@pytest.mark.parametrize("path", ["/v2", "/v2/models/tiny", "/metrics", INFER, "/classify", "/nix"])
def test_a_token_is_needed(path: str) -> None:
    with site(token=token_digest("let me in")) as found:
        for header in (
            {},
            {"Authorization": "Bearer no"},
            {"Authorization": "Basic bGV0"},
            {"Authorization": "Bearer"},
        ):
            refused = found.ask("POST" if path in {INFER, "/classify"} else "GET", path, headers=header)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert "needs its token" in refused.error
        allowed = found.ask("GET", path, headers={"Authorization": "bearer let me in"})
        assert allowed.status in {200, 404, 405}


@pytest.mark.parametrize("path", ["/", "/page.js", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"])
def test_health_and_the_page_need_no_token(path: str) -> None:
    with site(token=token_digest("let me in")) as found:
        assert found.ask("GET", path).status == 200


def test_metrics_count_what_happened() -> None:
    with site() as found:
        for seed in range(3):
            found.infer(some_images(2, seed))
        found.ask("POST", INFER, b"{")
        found.ask("GET", "/" + "x" * 50)
        text = found.ask("GET", "/metrics")
        assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text.body.decode())
            for sample in family.samples
        }
    assert samples["ensemble_requests_total", "200", "infer"] == 3
    assert samples["ensemble_requests_total", "400", "infer"] == 1
    assert samples["ensemble_requests_total", "404", "other"] == 1
    assert samples["ensemble_request_seconds_count", "200", "infer"] == 3
    assert samples["ensemble_request_seconds_count", "400", "infer"] == 1
    assert samples["ensemble_images_total",] == 6
    assert samples["ensemble_batch_images_sum",] == 6
    assert samples["ensemble_queue_seconds_count",] == 3
    assert samples["ensemble_requests_in_flight",] == 0


def test_every_request_is_a_line_of_the_log() -> None:
    with site() as found:
        found.infer(some_images(2))
        found.ask("GET", "/nix%0Afoo?secret=1", headers={"Authorization": "Bearer secret"})
        deadline = time.monotonic() + 5
        while len(found.lines) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    first, second = (json.loads(line) for line in found.lines)
    assert (first["method"], first["path"], first["status"], first["images"], first["batch"]) == (
        "POST",
        INFER,
        200,
        2,
        2,
    )
    assert first["client"] == "127.0.0.1"
    assert first["ms"] > 0
    assert first["time"].endswith("Z")
    assert (second["path"], second["status"]) == ("/nix\nfoo", 404)
    assert "\n" not in found.lines[1]
    assert "secret" not in found.lines[1]


def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue() -> None:
    import socket

    go = threading.Event()
    with site(FakeSession(before=lambda _images: go.wait(10))) as found:
        body, headers = infer_body(some_images(1))
        busy = threading.Thread(target=found.infer, args=(some_images(1),))
        busy.start()
        while not found.endpoints.batcher.running:
            time.sleep(0.005)
        with socket.create_connection(("127.0.0.1", found.port)) as connection:
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(head.encode() + b"\r\n" + body)
            while not found.endpoints.batcher.waiting:
                time.sleep(0.005)
        deadline = time.monotonic() + 5
        while found.endpoints.batcher.waiting and time.monotonic() < deadline:
            time.sleep(0.005)
        assert found.endpoints.batcher.waiting == 0
        go.set()
        busy.join()
        assert found.session.batches == [1]
        assert found.endpoints.intake.inside == 0
