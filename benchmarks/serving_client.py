"""Requests as prepared bytes, and connections that send them: the client of `benchmarks.serving`."""

import asyncio
import gzip
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

TOLERANCE = 1e-4

Images = npt.NDArray[np.uint8]


def request(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def tensor(images: Images, *, binary: bool) -> dict[str, Any]:
    """Return what a request to infer says of its images, and, unless they follow it as bytes, their values."""
    values = {"parameters": {"binary_data_size": images.nbytes}} if binary else {"data": images.ravel().tolist()}
    return {"name": "images", "shape": list(images.shape), "datatype": "UINT8", **values}


def ask_for(name: str, table: Any, tail: bytes = b"", *, packed: bool = False) -> bytes:  # noqa: ANN401  # JSON
    """Return the bytes of a request to infer: JSON and, if there are any, bytes of tensors after it."""
    text = json.dumps(table).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))} if tail else {}
    body = text + tail
    if packed:
        body, headers = gzip.compress(body, 1), {**headers, "Content-Encoding": "gzip"}
    return request(f"/v2/models/{name}/infer", body, headers)


def infer(name: str, images: Images, *, binary: bool = True, packed: bool = False) -> bytes:
    """Return the bytes of a request to infer, which asks for the probabilities as JSON."""
    table = {"inputs": [tensor(images, binary=binary)], "outputs": [{"name": "probs"}]}
    return ask_for(name, table, images.tobytes() if binary else b"", packed=packed)


def infer_all(name: str, images: Images) -> bytes:
    """Return the bytes of a request as tritonclient makes them: it asks for all that there is, as bytes."""
    table = {"inputs": [tensor(images, binary=True)], "parameters": {"binary_data_output": True}}
    return ask_for(name, table, images.tobytes())


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


def right(body: bytes, wanted: npt.NDArray[np.float32], classes: Sequence[str]) -> bool:
    """Say whether an answer has the probabilities that it should, each of its class."""
    table, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    if "top" in table:
        said = {one["class"]: one["prob"] for one in table["top"]}
        if sorted(said) != sorted(classes):
            return False
        probs = np.array([[said[name] for name in classes]])
    else:
        probs = np.reshape(_values(table["outputs"], body[end:]), wanted.shape)
    return bool(np.allclose(probs, wanted, atol=TOLERANCE))


def _values(outputs: list[dict[str, Any]], tail: bytes) -> npt.NDArray[np.float64]:
    """Return the values of `probs`, from JSON or from the bytes after it."""
    for output in outputs:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        if output["name"] == "probs":
            values = np.frombuffer(tail[:size], "<f4") if size else np.ravel(output["data"])
            return values.astype(np.float64)
        tail = tail[size:]
    raise LookupError("no probabilities")
