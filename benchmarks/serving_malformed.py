"""Requests that a server must refuse, as prepared bytes: what `benchmarks.serving` mixes among the good ones."""

import gzip
import io
import json
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.serving_client import Images, ask_for, request, tensor

__all__ = ["malformed"]

_TOO_MANY = 65
"""Images: one more than a server takes unless told otherwise."""


def malformed(name: str, images: Images, rng: random.Random) -> dict[str, bytes]:
    """Return requests by what is wrong with them.

    Args:
        name: of the model.
        images: uint8 `[N, H, W, 3]`: the requests would be good ones with these, but for one thing.
        rng: of bytes that mean nothing.
    """
    return {**_tensors(name, images), **_tables(name, images), **_bodies(name, images, rng), **_pictures(images, rng)}


def _tensors(name: str, images: Images) -> dict[str, bytes]:
    """Return requests whose tensor is not what the model takes, or not what it says it is."""
    N, H, W, C = images.shape
    raw = images.tobytes()
    many = np.zeros((_TOO_MANY, H, W, C), np.uint8)
    said: dict[str, dict[str, Any]] = {
        "datatype FP32": {"datatype": "FP32"},
        "datatype INT8": {"datatype": "INT8"},
        "datatype that is none": {"datatype": "PIXEL"},
        "no datatype": {"datatype": None},
        "channels first": {"shape": [N, C, H, W]},
        "images without their sides": {"shape": [N, H * W * C]},
        "images of another size": {"shape": [N, H // 2, 2 * W, C]},
        "a grey image": {"shape": [N * C, H, W, 1]},
        "one image too many for the bytes": {"shape": [N + 1, H, W, C]},
        "a negative number of images": {"shape": [-N, H, W, C]},
        "half an image": {"shape": [N + 0.5, H, W, C]},
        "more images than there are numbers": {"shape": [2**63, H, W, C]},
        "no shape": {"shape": None},
        "shape of words": {"shape": "all"},
        "another input": {"name": "pixels"},
        "no name": {"name": None},
        "fewer bytes than it says": {"parameters": {"binary_data_size": len(raw) + 1}},
        "a negative number of bytes": {"parameters": {"binary_data_size": -1}},
        "a number of bytes in words": {"parameters": {"binary_data_size": "all"}},
    }
    good = tensor(images, binary=True)
    found = {label: _ask(name, {**good, **wrong}, raw) for label, wrong in said.items()}
    found["a batch too large"] = _ask(name, tensor(many, binary=True), many.tobytes())
    values: dict[str, Any] = {
        "a value above 255": 256,
        "a negative value": -1,
        "a value between two": 0.5,
        "a value in words": "red",
        "a value that is none": None,
        "a list for a value": [0],
        "a value that no number holds": 10**400,
    }
    plain = tensor(images, binary=False)
    for label, value in values.items():
        found[label] = _ask(name, {**plain, "data": [*plain["data"][:-1], value]})
    found["one value too few"] = _ask(name, {**plain, "data": plain["data"][:-1]})
    found["no values"] = _ask(name, {**plain, "data": []})
    return found


def _tables(name: str, images: Images) -> dict[str, bytes]:
    """Return requests that are JSON, and not the protocol's."""
    raw, one = images.tobytes(), tensor(images, binary=True)
    return {
        "no input": ask_for(name, {"inputs": []}, raw),
        "the input twice": ask_for(name, {"inputs": [one, one]}, 2 * raw),
        "inputs that are no list": ask_for(name, {"inputs": one}, raw),
        "an input that is a number": ask_for(name, {"inputs": [7]}, raw),
        "a list for a request": ask_for(name, [one], raw),
        "another output": ask_for(name, {"inputs": [one], "outputs": [{"name": "logits"}]}, raw),
        "outputs that are numbers": ask_for(name, {"inputs": [one], "outputs": [1, 2]}, raw),
        "another model": ask_for("nobody", {"inputs": [one]}, raw),
        "another version": request(f"/v2/models/{name}/versions/77/infer", json.dumps({"inputs": [one]}).encode()),
    }


def _bodies(name: str, images: Images, rng: random.Random) -> dict[str, bytes]:
    """Return requests whose bytes are damaged on the way; their lengths are right."""
    path = f"/v2/models/{name}/infer"
    text, raw = json.dumps({"inputs": [tensor(images, binary=True)]}).encode(), images.tobytes()
    sized = {"Inference-Header-Content-Length": str(len(text))}
    packed = gzip.compress(text + raw, 1)
    return {
        "cut in its tensor": request(path, text + raw[: len(raw) // 2], sized),
        "cut in its JSON": request(path, text[: len(text) // 2]),
        "a byte too many": request(path, text + raw + b"x", sized),
        "empty": request(path, b""),
        "noise": request(path, rng.randbytes(300)),
        "no UTF-8": request(path, b'{"inputs": ["\xff\xfe"]}'),
        "a deep nest": request(path, b"[" * 5000),
        "JSON that ends early": request(path, text + raw, {"Inference-Header-Content-Length": "7"}),
        "JSON longer than the body": request(path, text + raw, {"Inference-Header-Content-Length": "99999999"}),
        "JSON of a length in words": request(path, text + raw, {"Inference-Header-Content-Length": "all"}),
        "compressed, it says": request(path, text + raw, {**sized, "Content-Encoding": "gzip"}),
        "compressed, and cut": request(path, packed[:-40], {**sized, "Content-Encoding": "gzip"}),
        "compressed somehow": request(path, packed, {**sized, "Content-Encoding": "brotli"}),
    }


def _pictures(images: Images, rng: random.Random) -> dict[str, bytes]:
    """Return requests to classify what is no picture, or none that a server should open."""
    files = {}
    for kind in ("PNG", "GIF"):
        file = io.BytesIO()
        Image.fromarray(images[0]).save(file, kind)
        files[kind] = file.getvalue()
    path, png = "/classify", files["PNG"]
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n"
    return {
        "a picture cut": request(path, png[: len(png) // 2]),
        "a picture of noise": request(path, png[:33] + rng.randbytes(300)),
        "a picture of a kind not taken": request(path, files["GIF"]),
        "a picture of 3.6 gigapixels": request(path, _vast(png)),
        "no picture": request(path, b""),
        "a form of many parts": request(path, part * 50_000 + b"--b--", form),
        "a form whose header goes on": request(path, part.replace(b"name=a", b"name=a" + b";" * 200_000) + png, form),
        "words for a picture": request(path, b"<html>a cat</html>"),
        "no classes asked for": request(f"{path}?top=0", png),
        "more classes than there are": request(f"{path}?top=9999999", png),
        "classes in words": request(f"{path}?top=all", png),
    }


def _ask(name: str, one: dict[str, Any], raw: bytes = b"") -> bytes:
    """Return the bytes of a request with one tensor, less what of it is None."""
    return ask_for(name, {"inputs": [{key: value for key, value in one.items() if value is not None}]}, raw)


def _vast(png: bytes) -> bytes:
    """Return a picture that says in its header that it has 60,000 pixels a side."""
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
