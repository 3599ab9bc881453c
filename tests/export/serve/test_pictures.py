"""Pictures that people send, and what they are told."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from export.runtime.answer import Answer
from export.serve.pictures import Room, describe, picture_of
from export.serve.problem import Problem
from tests.export.serve.conftest import INTERFACE, MEMBERS, SIZE

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(kind: str, size: tuple[int, int] = (60, 80)) -> bytes:
    """Return a picture whose upper half is red and whose lower half is blue."""
    picture = Image.new("RGB", (size[1], size[0]), RED)
    picture.paste(BLUE, (0, size[0] // 2, size[1], size[0]))
    file = io.BytesIO()
    picture.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def take(content: bytes, kind: str = "", most: int = 10_000) -> Image.Image:
    return Image.fromarray(picture_of(content, kind, SIZE, most_pixels=most)[0])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("said", ["", "image/png", "application/x-www-form-urlencoded", "nonsense"])
def test_a_picture_is_what_it_says_itself(kind: str, said: str) -> None:
    found = np.asarray(take(encoded(kind), said))
    assert found.shape == (*SIZE, 3)
    assert np.abs(found[0].astype(int) - RED).max() < 8
    assert np.abs(found[-1].astype(int) - BLUE).max() < 8


def test_a_picture_in_a_form() -> None:
    content = encoded("PNG")
    body = b'--b\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n' + content + b"\r\n--b--\r\n"
    assert take(body, "multipart/form-data; boundary=b").tobytes() == take(content).tobytes()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO", "EPS", "PDF"])
def test_other_pictures_are_refused(kind: str) -> None:
    with pytest.raises(Problem, match="send a whole PNG, JPEG or WebP file") as caught:
        take(encoded(kind))
    assert caught.value.status == 415


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    file = io.BytesIO()
    noise.save(file, kind)
    content = file.getvalue()
    with pytest.raises(Problem, match="send a whole PNG, JPEG or WebP file") as caught:
        take(content[: int(share * len(content))])
    assert caught.value.status == 415


@pytest.mark.parametrize("content", [b"x", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"<svg/>"])
def test_no_pictures(content: bytes) -> None:
    with pytest.raises(Problem, match="the picture cannot be read") as caught:
        take(content)
    assert caught.value.status == 415


def test_nothing_at_all() -> None:
    with pytest.raises(Problem, match="there is no picture: send a PNG") as caught:
        take(b"")
    assert caught.value.status == 400


@pytest.mark.parametrize(("width", "height"), [(101, 100), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_headers(width: int, height: int) -> None:
    with pytest.raises(Problem, match="the picture has") as caught:
        take(png_claiming(width, height))
    assert caught.value.status == 413
    assert "/" not in caught.value.sentence


def test_as_many_pixels_as_are_allowed() -> None:
    assert take(encoded("PNG", (100, 100))).size == (SIZE[1], SIZE[0])


def test_pictures_wait_for_room() -> None:
    room, go, inside = Room(100), threading.Event(), list[int]()

    def take(pixels: int) -> None:
        with room.taken(pixels):
            inside.append(pixels)
            go.wait(10)

    threads = [threading.Thread(target=take, args=(pixels,)) for pixels in (60, 40, 1, 1000)]
    for thread in threads[:2]:
        thread.start()
        while threads.index(thread) >= len(inside):
            thread.join(0.001)
    for thread in threads[2:]:
        thread.start()
        thread.join(0.02)
    assert inside == [60, 40]
    go.set()
    for thread in threads:
        thread.join(10)
    assert sorted(inside) == [1, 40, 60, 1000]


def members(*tops: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return probabilities `[1, M, C]` of members that are 60 % sure of these classes, or were not asked (-1)."""
    own = np.full((1, len(tops), 10), 0.4 / 9, np.float32)
    for member, top in enumerate(tops):
        own[0, member, top] = 0.6
        if top < 0:
            own[0, member] = np.nan
    return own


def probs(*largest: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return probabilities `[1, C]` that fall in this order."""
    found = np.zeros((1, 10), np.float32)
    for place, c in enumerate(largest):
        found[0, c] = 0.5 - 0.1 * place
    return found


def test_a_committee_that_disagrees() -> None:
    found = describe(Answer(probs(3, 5, 1), members(3, 5, 3)), INTERFACE, top=2)
    assert [one["class"] for one in found["top"]] == ["cat", "dog"]
    assert found["top"][0]["prob"] == 0.5
    assert [one["name"] for one in found["members"]] == list(MEMBERS)
    assert [one["class"] for one in found["members"]] == ["cat", "dog", "cat"]
    assert found["members"][0]["prob"] == pytest.approx(0.6)
    assert found["agree"] == 2
    assert found["agreement"] == pytest.approx(2 / 3)
    assert found["disagreement"] == pytest.approx(0.25)  # the weight of the second member
    assert "stage" not in found


def test_members_that_a_cascade_did_not_ask_do_not_count() -> None:
    found = describe(Answer(probs(5), members(3, -1, 5), np.array([1])), INTERFACE, top=1)
    assert [one["name"] for one in found["members"]] == ["a", "c"]
    assert (found["agree"], found["agreement"]) == (1, 0.5)
    assert found["disagreement"] == pytest.approx(0.5 / 0.75)
    assert found["stage"] == 2


def test_a_model_that_does_not_tell_its_members_votes() -> None:
    found = describe(Answer(probs(5)), INTERFACE, top=1)
    assert found == {
        "top": [{"class": "dog", "prob": 0.5}], "members": None, "agree": None, "agreement": None, "disagreement": None,
    }  # fmt: skip


def test_ties_go_to_the_first_class() -> None:
    even = np.full((1, 10), 0.1, np.float32)
    assert [one["class"] for one in describe(Answer(even), INTERFACE, top=3)["top"]] == [
        "airplane", "automobile", "bird",
    ]  # fmt: skip
