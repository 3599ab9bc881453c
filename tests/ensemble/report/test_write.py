"""The files of a report."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ensemble.report.record import FORMAT, Record
from ensemble.report.tables import tables
from ensemble.report.write import to_json, write, write_plots


def test_all_files_are_written_and_json_has_everything(record: Callable[..., Record], tmp_path: Path) -> None:
    made = record()
    page = tmp_path / "r.html"
    table = tmp_path / "r.json"
    assert write(made, page, json_to=table, csv_to=tmp_path / "csv", plots_to=tmp_path / "plots") == {}
    assert table.read_text(encoding="utf-8") == to_json(made)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    found = json.loads(to_json(made))
    assert found["format"] == FORMAT
    assert found == json.loads(json.dumps(made.to_dict()))
    assert len(found["points"]) == len(made.points)
    assert {p.stem for p in (tmp_path / "csv").iterdir()} == {*tables(made)}
    names = {"pareto", "latencies", "reliability", "confusion", "agreement"}
    files = [*(tmp_path / "plots").iterdir()]
    assert {p.name for p in files} == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    for picture in files:
        if picture.suffix == ".png":
            with Image.open(picture) as image:
                assert min(image.size) > 400
    write_plots(made, tmp_path / "again")
    assert all(p.read_bytes() == (tmp_path / "again" / p.name).read_bytes() for p in files)


def test_what_cannot_be_written_takes_nothing_else_with_it(record: Callable[..., Record], tmp_path: Path) -> None:
    made, nowhere = record(points=2, members=2), tmp_path / "no" / "where"
    page, folder = tmp_path / "r.html", tmp_path / "csv"
    refused = write(made, page, json_to=nowhere, csv_to=folder)
    assert list(refused) == [nowhere]
    assert "No such file or directory" in str(refused[nowhere])
    assert page.is_file()
    assert (folder / "points.csv").is_file()
    refused = write(made, nowhere, json_to=tmp_path / "r.json", csv_to=tmp_path / "no" / "csv")
    assert list(refused) == [nowhere, tmp_path / "no" / "csv"]
    assert (tmp_path / "r.json").is_file()
    assert not nowhere.parent.exists(), "a folder is made in one that is there, or not at all"
