"""The tables and their CSV."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from ensemble.report.front import MILLISECONDS, MULTIPLY_ADDS
from ensemble.report.record import Record
from ensemble.report.tables import Table, axis_unit, shown_curves, tables, to_csv


def test_each_plot_has_its_table_and_csv_reads_back(record: Callable[..., Record]) -> None:
    found = tables(record())
    assert set(found) == {
        *("points", "members", "latency", "reliability", "confusion", "classes", "agreement", "diversity", "mistakes"),
        "hardware",
    }
    for table in found.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}
        rows = list(csv.reader(io.StringIO(to_csv(table))))
        assert tuple(rows[0]) == table.columns
        assert len(rows) == len(table.rows) + 1


def test_numbers_in_csv_are_exact(record: Callable[..., Record]) -> None:
    made = record()
    rows = list(csv.DictReader(io.StringIO(to_csv(tables(made)["points"]))))
    for row, point in zip(rows, made.points, strict=True):
        assert float(row["accuracy"]) == point.scores.accuracy
        assert point.latency is not None
        assert float(row["p99 (ms)"]) == point.latency.p99_ms
        assert (row["front"] == "yes") == point.front


def test_calibration_and_diversity_are_among_the_numbers(record: Callable[..., Record]) -> None:
    made = record()
    rows = list(csv.DictReader(io.StringIO(to_csv(tables(made)["points"]))))
    assert [float(row["adaptive ECE"]) for row in rows] == [p.scores.adaptive_ece for p in made.points]
    found = list(csv.DictReader(io.StringIO(to_csv(tables(made)["diversity"]))))
    assert {row["measure"]: float(row["value"]) for row in found} == {
        "disagreement": 0.1,
        "correlation of mistakes": 0.2,
        "Q statistic": 0.3,
        "double fault": 0.4,
        "mutual information, two": 0.5,
        "mutual information, all": 0.6,
    }
    assert "diversity" not in tables(record(members=1))


@pytest.mark.parametrize("text", ["=1+1", "@sum", "+x", "-x"])
def test_a_spreadsheet_takes_no_name_for_a_formula(text: str) -> None:
    assert to_csv(Table("t", "", ("a", text), ((text, -1.5),))) == f"a,'{text}\r\n'{text},-1.5\r\n"


def test_pairs_are_listed_once(record: Callable[..., Record]) -> None:
    assert len(tables(record(members=5))["agreement"].rows) == 10
    assert "agreement" not in tables(record(members=1))


def test_columns_that_say_nothing_can_be_left_out() -> None:
    table = Table("t", "", ("a", "b", "c"), ((1, None, "x"), (0, "", "")))
    assert table.filled().columns == ("a", "c")
    assert table.without("a").rows == ((None, "x"), ("", ""))
    assert table.numeric == (True, False, False)


def test_cost_is_time_where_anything_was_timed(record: Callable[..., Record]) -> None:
    assert axis_unit(record()) == MILLISECONDS
    assert axis_unit(record(timed=False)) == MULTIPLY_ADDS
    assert "latency" not in tables(record(timed=False))


def test_the_distributions_drawn_are_few_and_have_every_cascade_first(record: Callable[..., Record]) -> None:
    made = record(points=40)
    shown = shown_curves(made)
    assert len(shown) == 6
    assert made.chosen in shown
    few = replace(made, points=tuple(p for p in made.points if p.kind != "ensemble")[:20])
    cascades = [i for i, p in enumerate(few.points) if p.kind == "cascade"]
    assert {*cascades[:4]} <= {*shown_curves(few)}
