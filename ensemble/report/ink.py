"""Figures that are drawn once and read everywhere: as SVG in a light or dark page, as SVG and PNG files.

A figure is drawn in the colours of `LIGHT`. In a page each of them becomes a CSS variable, so that the page's own light
or dark colours apply; text stays text.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree as ET

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = [
    "DARK",
    "INK",
    "LIGHT",
    "PAPER",
    "SERIES",
    "axes_style",
    "inline_svg",
    "logarithmic",
    "new_figure",
    "plain",
    "png",
    "svg",
]

PAPER, INK, _MUTED, _RULE = "#ffffff", "#1c1e21", "#5a5e66", "#e1e4e8"

SERIES = ("#0072b2", "#c24e00", "#00785a", "#a34b7f", "#8a6500", "#6a4fb3")
"""After M. Okabe and K. Ito (Color Universal Design, 2008), darkened until each has a contrast of 4.5 on white."""

LIGHT: Mapping[str, str] = {
    "paper": PAPER,
    "ink": INK,
    "muted": _MUTED,
    "rule": _RULE,
    **{f"series{i}": colour for i, colour in enumerate(SERIES)},
}
"""Name of a CSS variable -> colour in a light page, and in files."""

DARK: Mapping[str, str] = {
    "paper": "#15171a",
    "ink": "#e8eaed",
    "muted": "#a6abb3",
    "rule": "#33373d",
    **dict(
        zip(
            (f"series{i}" for i in range(len(SERIES))),
            ("#56b4e9", "#ff8f45", "#3fc9a0", "#e39bc6", "#e6b422", "#b9a6f2"),
            strict=True,
        )
    ),
}
"""The same names -> colours in a dark page."""

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_FONTS = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"
_WIDE = 2000.0
"""An axis of a larger ratio has a number at each power of ten only."""
_PHONE, _LEAST = 358.0, 0.95
"""CSS pixels that a figure has on a phone; and the smallest size, of its own, at which a figure can be read."""
_SETTINGS: Mapping[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "menagerie", "font.size": 9}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches that is drawn without a screen."""
    figure = Figure((width, height), layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def axes_style(axes: Axes, x: str, y: str) -> None:
    """Name both axes; a quiet frame and grid, behind everything."""
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    axes.set_facecolor("none")
    axes.grid(color=_RULE, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.tick_params(which="both", color=_MUTED, labelcolor=_MUTED, labelsize=8)


def logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Make the horizontal axis of some values logarithmic, with plain numbers at as many ticks as are readable."""
    if not values or min(values) <= 0:
        return
    low, high = min(values), max(values)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.25, high * 1.25)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < _WIDE * low else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def plain(text: str, longest: int = 24) -> str:
    """Return text in one line, cut to a length, with nothing in it that XML cannot hold."""
    words = " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())
    return words if len(words) <= longest else words[: longest - 1] + "…"


@contextmanager
def _drawing() -> Iterator[None]:
    """Apply the settings of the SVG backend; a character that the font lacks is a box in PNG, and whole in SVG."""
    with rc_context({**_SETTINGS}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; equal figures are equal bytes."""
    buffer = io.BytesIO()
    with _drawing():
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure, tips: Mapping[str, str], alt: str) -> str:
    """Return a figure as an SVG file in light colours; equal figures are equal bytes.

    Args:
        figure: what to draw.
        tips: an artist's `gid` -> what a pointer held over it shows.
        alt: what the picture shows, for those who cannot see it.
    """
    root = _tree(figure, tips, alt)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def inline_svg(figure: Figure, tips: Mapping[str, str], alt: str, name: str, *, scrolls: bool = False) -> str:
    """Return a figure as an `<svg>` element for a page that has the variables of `LIGHT`, as in `svg`.

    Args:
        figure: what to draw.
        tips: as in `svg`.
        alt: as in `svg`.
        name: of the figure; makes its ids differ from other figures'.
        scrolls: whether it can be moved sideways where it is too wide, and need not become unreadably small.
    """
    root = _tree(figure, tips, alt, inside_page=name)
    least = _LEAST * float(root.attrib["viewBox"].split()[2])
    if scrolls and least > _PHONE:
        root.set("style", f"min-width: {least:.0f}px")
    del root.attrib["width"], root.attrib["height"]  # the page says how wide it is
    text = ET.tostring(root, encoding="unicode")
    names = {colour: name for name, colour in LIGHT.items()}
    return re.sub("|".join(names), lambda found: f"var(--{names[found[0]]})", text)


def _tree(figure: Figure, tips: Mapping[str, str], alt: str, inside_page: str = "") -> ET.Element:
    """Return a figure's SVG, without what differs between runs or is of no use to readers."""
    buffer = io.BytesIO()
    with _drawing():
        figure.savefig(buffer, format="svg", dpi=144, metadata={"Date": None}, transparent=bool(inside_page))
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(buffer.getvalue())  # noqa: S314  # matplotlib's own output
    if inside_page:  # whose style sheet has these rules
        for sheet in root.findall(f"{{{_SVG}}}defs/{{{_SVG}}}style/.."):
            root.remove(sheet)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    text = ET.tostring(root, encoding="unicode")
    prefix = f"{inside_page}-" if inside_page else ""
    fonts = "var(--font)" if inside_page else _FONTS
    used = {*re.findall(r'(?:href="|url\()#([^")]+)', text)}
    for element in root.iter():
        own = element.attrib.pop("id", "")
        if own in tips:
            title = ET.Element(f"{{{_SVG}}}title")
            title.text = tips[own]
            element.insert(0, title)
        if own in used:
            element.set("id", prefix + own)
        for key, value in element.attrib.items():
            element.set(key, _refer(value, prefix) if "#" in value else value)
        if "font" in element.get("style", ""):
            element.set("style", re.sub("'DejaVu Sans'.*?sans-serif", fonts, element.attrib["style"]))
    root.set("role", "img")
    root.set("aria-label", alt)
    return root


def _refer(value: str, prefix: str) -> str:
    """Return an attribute whose references name the prefixed ids."""
    value = re.sub(r"url\(#", f"url(#{prefix}", value)
    return f"#{prefix}{value[1:]}" if value.startswith("#") and not re.fullmatch("#[0-9a-f]{6}", value) else value
