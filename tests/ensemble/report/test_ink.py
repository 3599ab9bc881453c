"""Figures as SVG and PNG."""

import io
import re
from xml.etree import ElementTree as ET

import pytest
from matplotlib.figure import Figure
from PIL import Image

from ensemble.report.ink import DARK, INK, LIGHT, SERIES, axes_style, inline_svg, new_figure, plain, png, svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn() -> Figure:
    figure = new_figure(3, 2)
    axes = figure.add_subplot()
    axes_style(axes, "x", "y")
    axes.plot([1, 2], [1, 2], "o", color=SERIES[0], gid="dots")
    axes.text(1, 1, "<a> & $b$", color=INK, parse_math=False)
    return figure


def brightness(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_all_colours_but_rules_can_be_read_on_the_paper(colours: dict[str, str]) -> None:
    for name, colour in colours.items():
        if name not in {"paper", "rule"}:
            bright, dim = sorted((brightness(colour), brightness(colours["paper"])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, name
    assert LIGHT.keys() == DARK.keys()


def test_equal_figures_are_equal_bytes() -> None:
    assert svg(drawn(), {}, "a") == svg(drawn(), {}, "a")
    assert png(drawn()) == png(drawn())


def test_what_is_hovered_over_says_its_tip_and_the_whole_its_alt_text() -> None:
    for text in (
        svg(drawn(), {"dots": "<b>\n1 < 2"}, 'all & "more"'),
        inline_svg(drawn(), {"dots": "<b>\n1 < 2"}, 'all & "more"', "f"),
    ):
        root = ET.fromstring(text)  # noqa: S314  # our own
        assert root.get("role") == "img"
        assert root.get("aria-label") == 'all & "more"'
        assert [t.text for t in root.iter(f"{SVG}title")] == ["<b>\n1 < 2"]
        assert "<a> & $b$" in [t.text for t in root.iter(f"{SVG}text")], "text stays text"


def test_figures_in_one_page_share_no_id_and_all_references_are_met() -> None:
    texts = [inline_svg(drawn(), {}, "", name) for name in ("one", "two")]
    ids = [re.findall(r'\bid="([^"]+)"', text) for text in texts]
    assert ids[0]
    assert not {*ids[0]} & {*ids[1]}
    for text, own in zip(texts, ids, strict=True):
        assert len(own) == len({*own})
        assert {*re.findall(r'(?:href="|url\()#([^")]+)', text)} == {*own}


def test_a_page_gives_its_own_colours_and_fonts() -> None:
    text = inline_svg(drawn(), {}, "", "f")
    assert {"--series0", "--muted", "--rule", "--font"} <= {*re.findall(r"var\((--\w+)\)", text)}
    assert not re.search("#[0-9a-f]{6}", text)
    assert "<style" not in text
    root = ET.fromstring(text)  # noqa: S314  # our own
    assert "width" not in root.attrib
    assert "viewBox" in root.attrib


def test_a_file_needs_nothing_but_itself() -> None:
    text = svg(drawn(), {}, "")
    assert "var(" not in text
    assert {*re.findall(r'"(https?://[^"]*)"', text)} == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert Image.open(io.BytesIO(png(drawn()))).size == (600, 400)


def test_text_becomes_one_line_that_xml_can_hold() -> None:
    assert plain("a\n b\x00\x1b[1m") == "a b\ufffd\ufffd[1m"
    assert plain("x" * 30, 10) == "x" * 9 + "…"
