"""The page, read as a browser's parser reads it."""

import base64
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from ensemble.report.page import page, shown
from tests.ensemble.report.conftest import HOSTILE, make_record

VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Collects elements, and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def text() -> str:
    return page(make_record())


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_it_loads_nothing_and_runs_nothing(text: str, read: Reader) -> None:
    policy = next(a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert {"default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"} <= {*re.split("; *", policy)}
    assert not {tag for tag, _ in read.found} & {"script", "iframe", "object", "embed", "form", "base", "video"}
    for _, attributes in read.found:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    assert not re.search(r"@import|url\((?!#)", text)


def test_whatever_names_hold_is_shown_as_text(read: Reader) -> None:
    hostile = Reader(page(make_record(name=HOSTILE, classes=tuple(f"{HOSTILE}{i}" for i in range(10)))))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in read.found]
    assert any(HOSTILE in piece for piece in hostile.text)


def test_pictures_have_words_and_tables_have_headers(read: Reader) -> None:
    assert len(read.all("img")) == 6
    assert all(picture["alt"] for picture in read.all("img"))
    drawings = [a for a in read.all("svg") if a.get("role") == "img"]
    assert len(drawings) == 7, "two sizes of two plots, and three more"
    assert all(a["aria-label"] for a in drawings)
    assert {a.get("scope") for a in read.all("th")} == {"col", "row"}
    assert len(read.all("caption")) == len(read.all("table")) > 8
    ids = [a["id"] for _, a in read.found if "id" in a]
    assert len(ids) == len({*ids})
    assert {a["aria-labelledby"] for a in read.all("section")} <= {*ids}


def test_each_table_can_be_downloaded(read: Reader) -> None:
    links = {a["download"]: a["href"] for a in read.all("a")}
    assert {"points.csv", "latency.csv", "confusion.csv", "members.csv", "mistakes.csv"} <= {*links}
    href = links["classes.csv"]
    assert href is not None
    rows = base64.b64decode(href.partition("base64,")[2]).decode().splitlines()
    assert rows[0] == "class,images,recall,precision,F1,most often taken for,so many times"
    assert len(rows) == 11


def test_it_says_what_is_what(read: Reader) -> None:
    said = " ".join(read.text)
    for words in ("The choice", "student", "of a <committee>", "cascade", "Stages of the cascade", "a machine", "'x*'"):
        assert words in said
    assert "something was left out" in said


@pytest.mark.parametrize(
    "options",
    [{"timed": False, "budget": None, "members": 1, "points": 1}, {"classes": ("a", "b")}],
)
def test_what_there_is_not_is_left_out(options: dict[str, Any]) -> None:
    text = page(make_record(**options))
    Reader(text)
    if not options.get("timed", True):
        assert "How long single batches take" not in text
        assert "accuracy against multiply-adds" in text


def test_a_hundred_classes_and_many_points_are_a_small_page() -> None:
    made = make_record(classes=tuple(f"class {i}" for i in range(100)), points=1200, members=40, images=400)
    text = page(made)
    assert len(text) < 2e6
    assert len(Reader(text).all("image")) >= 1, "a large matrix is one picture"
    assert "more rows are in the CSV file" in text


@pytest.mark.parametrize(
    ("value", "column", "said"),
    [
        (0.94131, "accuracy", "94.13 %"),
        (0.12345678, "NLL", "0.1235"),
        (12345, "images", "12,345"),
        (None, "teacher", "-"),
        ("", "teacher", "-"),
        (0.001234, "median (ms)", "0.001"),
        (0.1234, "median (ms)", "0.123"),
        (12.345, "p99 (ms)", "12.3"),
        (1234.5, "images/s", "1,234"),
    ],
)
def test_cells_are_for_people(value: str | float | None, column: str, said: str) -> None:
    assert shown(value, column) == said
