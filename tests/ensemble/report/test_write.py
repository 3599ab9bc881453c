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
    (tmp_path / "again").mkdir()
    page = tmp_path / "r.html"
    write(made, page, csv_to=tmp_path / "csv", plots_to=tmp_path / "plots")
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
