"""Tables of text: nothing is cut in a pipe, and what is cut on a narrow terminal is chosen."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.cli.table import Column, layout, printable


def columns(where: str = "builtin") -> list[Column]:
    return [
        Column("name", ["a-seed1", "bb-seed22"]),
        Column("parameters", ["1.97 M", "26.21 M"], right=True, short="params", spare=1),
        Column("multiply-adds", ["0.12 G", ""], right=True, short="macs", spare=2),
        Column("where", [where, "cache"], cut=True),
    ]


def test_as_wide_as_the_content() -> None:
    wanted = [
        "name       parameters  multiply-adds  where",
        "a-seed1        1.97 M         0.12 G  builtin",
        "bb-seed22     26.21 M                 cache",
    ]
    assert layout(columns()) == (wanted, [])
    assert layout(columns(), 45) == (wanted, [])


def test_short_headers_come_first() -> None:
    wanted = [
        "name        params    macs  where",
        "a-seed1     1.97 M  0.12 G  builtin",
        "bb-seed22  26.21 M          cache",
    ]
    assert layout(columns(), 44) == (wanted, [])
    assert layout(columns(), 35) == (wanted, [])


def test_then_the_last_column_is_cut_at_its_front() -> None:
    lines, missing = layout(columns("/very/long/path/to/the/zoo"), 42)
    assert lines[1] == "a-seed1     1.97 M  0.12 G  …th/to/the/zoo"
    assert len(lines[1]) == 42
    assert missing == []


def test_then_columns_are_left_out() -> None:
    assert layout(columns(), 34) == (
        ["name        params  where", "a-seed1     1.97 M  builtin", "bb-seed22  26.21 M  cache"],
        ["multiply-adds"],
    )
    assert layout(columns(), 20) == (
        ["name       where", "a-seed1    builtin", "bb-seed22  cache"],
        ["parameters", "multiply-adds"],
    )


def test_what_is_never_left_out_stays() -> None:
    lines, missing = layout(columns(), 5)
    assert lines[2] == "bb-seed22  cache"
    assert missing == ["parameters", "multiply-adds"]


_TEXT = st.text(st.sampled_from("ab /-é"), max_size=30)


@given(
    st.lists(st.tuples(_TEXT, _TEXT, _TEXT), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(1, 120)),
)
def test_it_fits_or_only_what_must_stay_is_left(rows: list[tuple[str, str, str]], width: int | None) -> None:
    table = [
        Column("first", [row[0] for row in rows]),
        Column("second", [row[1] for row in rows], right=True, short="2", spare=1),
        Column("third", [row[2] for row in rows], cut=True),
    ]
    lines, missing = layout(table, width)
    assert len(lines) == len(rows) + 1
    if width is None:
        assert missing == []
        assert all(cell.strip() in line for row, line in zip(rows, lines[1:], strict=True) for cell in row)
    elif max(map(len, lines)) > width:
        assert missing == ["second"]
        cut = max(len("third"), *(min(len(row[2]), 9) for row in rows))
        assert max(map(len, lines)) <= max(len("first"), *(len(row[0]) for row in rows)) + 2 + cut
    assert all(a.startswith(row[0].rstrip()) for a, row in zip(lines[1:], rows, strict=True))


@pytest.mark.parametrize("text", ["\x1b[31mred\x1b[0m", "bell\x07", "back\x08", "a\rb", "\u202eabc", "\x9b31m"])
def test_codes_that_a_terminal_obeys_are_not_printed(text: str) -> None:
    assert all(c.isprintable() or c == "\n" for c in printable(text))
    assert len(printable(text)) == len(text)
    shown = layout([Column("x", [text])])[0][1]
    assert shown.isprintable()


def test_what_can_be_printed_is() -> None:
    text = "Grüße: 猫, [x] & *"
    assert printable(text) == text
    assert printable("a\nb") == "a\nb"
    assert layout([Column("x", ["a\nb"])])[0] == ["x", "a b"]


def test_every_width_keeps_the_rows_apart() -> None:
    for width, where in itertools.product(range(1, 90), ("cache", "/a/long/folder/name/of/a/team")):
        lines, _ = layout(columns(where), width)
        assert [line.split()[0] for line in lines] == ["name", "a-seed1", "bb-seed22"]
