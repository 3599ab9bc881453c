"""The page, read as a browser's parser reads it."""

import base64
import re
from dataclasses import replace
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


def test_calibration_and_diversity_of_what_is_in_focus_are_on_the_page() -> None:
    made = make_record()
    text = page(made)
    focus = made.points[made.closeup.point]
    errs = text[text.index('<h2 id="errors">') : text.index("</section>", text.index('<h2 id="errors">'))]
    for name, value in (
        ("ECE", focus.scores.ece),
        ("adaptive ECE", focus.scores.adaptive_ece),
        ("AURC", focus.scores.aurc),
    ):
        assert f"<dt>{name}</dt><dd>{value:.4f}</dd>" in errs
    members = text[text.index('<h2 id="members">') :]
    assert f"Diversity of the 2 members of {focus.name}, views: flip" in members
    for name, value in (("disagreement", 0.1), ("Q statistic", 0.3), ("mutual information, all", 0.6)):
        assert f'<th scope="row">{name}</th><td class="number">{value:.4f}</td>' in members
    assert "Diversity of" not in page(make_record(members=1))


def test_a_missed_budget_stands_on_the_card(read: Reader) -> None:
    assert 'class="missed"' not in page(make_record())
    text = page(replace(make_record(), chosen=None, missed="no point is within the budget of 1 <ms>"))
    card = text[text.index('<div class="card">') : text.index("<dl>")]
    assert "no point is within the budget of 1 &lt;ms&gt;" in card
    assert "In focus" in text
    assert "In focus" not in " ".join(read.text)


def test_the_header_says_what_was_fitted_on_what_and_notes_come_first() -> None:
    made = replace(make_record(), fitted="But e.json <i>was</i> not.", notes=("one", "two"))
    text = page(made)
    header = text[: text.index("<main>")]
    assert "But e.json &lt;i&gt;was&lt;/i&gt; not." in header
    assert "<li>one</li><li>two</li>" in header
    assert text.count("<li>one</li>") == 1
    many = page(replace(made, notes=tuple(f"note {i}" for i in range(9))))
    header, rest = many.split("<main>")
    assert (header.count("<li>note"), rest.count("<li>note")) == (3, 9)
    assert '<a href="#made">6 more notes</a>' in header


def test_one_of_a_thing_is_no_more_than_one() -> None:
    said = " ".join(" ".join(Reader(page(make_record(points=1, members=1, budget=None))).text).split())
    assert "1 point from 1 member, scored on the 200 images" in said


def test_validation_accuracies_of_another_precision_are_marked() -> None:
    record = make_record()
    text = page(record)
    half = record.points[record.closeup.point]
    assert half.val_accuracy is not None
    said = f"{100 * half.val_accuracy:.2f}\N{NO-BREAK SPACE}%"
    in_fp32 = f"{said}\N{NO-BREAK SPACE}in\N{NO-BREAK SPACE}fp32"
    card = text[text.index('<div class="card">') : text.index("</dl>")]
    assert ("in\N{NO-BREAK SPACE}fp32" in card) == (half.precision != "fp32")
    assert {p.precision for p in record.points} == {"fp32", "bf16"}
    cells = re.findall(r"<td>([\d.]+\N{NO-BREAK SPACE}%(?:\N{NO-BREAK SPACE}in\N{NO-BREAK SPACE}fp32)?)</td>", text)
    assert len(cells) == len(record.points)
    assert sum("fp32" in cell for cell in cells) == sum(p.precision == "bf16" for p in record.points)
    assert in_fp32 in text or half.precision == "fp32"


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
    assert "more rows in the CSV file" in text


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
