"""Requests as prepared bytes, good and bad, and connections that send them: the client of `benchmarks.serving`."""

import asyncio
import gzip
import io
import json
import random
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

TOLERANCE = 1e-4

Images = npt.NDArray[np.uint8]


def request(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def infer(name: str, images: Images, *, binary: bool = True, packed: bool = False) -> bytes:
    """Return the bytes of a request to infer, which asks for the probabilities as JSON."""
    tensor: dict[str, Any] = {"name": "images", "shape": list(images.shape), "datatype": "UINT8"}
    tensor |= {"parameters": {"binary_data_size": images.nbytes}} if binary else {"data": images.ravel().tolist()}
    text = json.dumps({"inputs": [tensor], "outputs": [{"name": "probs"}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))} if binary else {}
    body = text + images.tobytes() if binary else text
    if packed:
        body, headers = gzip.compress(body, 1), {**headers, "Content-Encoding": "gzip"}
    return request(f"/v2/models/{name}/infer", body, headers)


def picture(image: Images) -> bytes:
    """Return the bytes of a request to classify an image, which asks for all classes."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return request("/classify?top=10", file.getvalue(), {"Content-Type": "image/png"})


class Connection:
    """A connection, opened anew after the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, content: bytes) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of its answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(content)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        body = await reader.readexactly(int(fields[b"content-length"]))
        if fields.get(b"connection") == b"close":
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def garble(content: bytes, rng: random.Random) -> bytes:
    """Return a request made of a good one that must be refused, and whose length is right."""
    head, _, body = content.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    path, headers = lines[0].split(" ")[1], dict(line.split(": ", 1) for line in lines[3:])
    ways = [
        lambda: request(path, body[: len(body) // 2], headers),
        lambda: request(path, b"", headers),
        lambda: request(path, rng.randbytes(300), headers),
        lambda: request(path, body, {**headers, "Content-Encoding": "deflate"}),
        lambda: request("/v2/models/nobody/infer", body, headers),
        lambda: request("/classify", body[:100]),
    ]
    if not path.startswith("/classify"):  # what follows a picture is nobody's business
        ways += [
            lambda: request(path, body + b"x", headers),
            lambda: request(path, body, {**headers, "Inference-Header-Content-Length": "7"}),
        ]
    return rng.choice(ways)()


def right(body: bytes, wanted: npt.NDArray[np.float32]) -> bool:
    """Say whether an answer has the probabilities that it should."""
    table = json.loads(body)
    if "top" in table:
        shares = sorted((float(share) for share in wanted[0]), reverse=True)
        return bool(np.allclose([one["prob"] for one in table["top"]], shares, atol=TOLERANCE))
    return bool(np.allclose(np.reshape(table["outputs"][0]["data"], wanted.shape), wanted, atol=TOLERANCE))
