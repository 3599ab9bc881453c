"""What a graph says of itself: written, read back, and refused if it cannot be."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from export.metadata import ENSEMBLE_KEY, EXPORT_KEY, FORMAT, PRECISIONS, About, metadata_props, read_metadata
from tests.export.conftest import table_of
from zoo.errors import CorruptError

if TYPE_CHECKING:
    from tests.export.conftest import Workshop

PATH = Path("some/model.onnx")


@pytest.fixture
def about(workshop: "Workshop") -> About:
    return About(
        table_of(workshop.committee()),
        "int8",
        20,
        stage=2,
        calibration={"images": 512},
        parity={"difference": 2.4e-05},
        versions={"torch": "9"},
    )


def test_there_and_back(about: About) -> None:
    props = metadata_props(about)
    assert set(props) == {"menagerie.ensemble", "menagerie.export"} == {ENSEMBLE_KEY, EXPORT_KEY}
    assert read_metadata(props, PATH) == about
    assert metadata_props(read_metadata(props, PATH)) == props
    assert (about.members, about.classes) == (("tiny-a", "tiny-b"), tuple(about.lockfile["classes"]))
    assert json.loads(props[ENSEMBLE_KEY]) == about.lockfile, "as an ensemble.json has it"


def test_what_is_there_besides_is_left_alone(about: About) -> None:
    assert read_metadata({**metadata_props(about), "author": "somebody"}, PATH) == about


def test_older_exports_say_less(about: About) -> None:
    props = metadata_props(about)
    table = {key: json.loads(props[EXPORT_KEY])[key] for key in ("format", "precision", "opset")}
    assert read_metadata({**props, EXPORT_KEY: json.dumps(table)}, PATH) == About(about.lockfile, "int8", 20)


def changed(about: About, key: str, change: Callable[[Any], Any]) -> dict[str, str]:
    """Return the metadata with one of its two tables changed."""
    props = metadata_props(about)
    return {**props, key: json.dumps(change(json.loads(props[key])))}


@pytest.mark.parametrize(
    ("key", "change"),
    [
        (ENSEMBLE_KEY, lambda _: []),
        (ENSEMBLE_KEY, lambda _: "text"),
        (ENSEMBLE_KEY, lambda _: None),
        (ENSEMBLE_KEY, lambda table: {k: v for k, v in table.items() if k != "members"}),
        (ENSEMBLE_KEY, lambda table: table | {"members": ["tiny-a"]}),
        (ENSEMBLE_KEY, lambda table: table | {"members": 3}),
        (ENSEMBLE_KEY, lambda table: {k: v for k, v in table.items() if k != "classes"}),
        (ENSEMBLE_KEY, lambda table: table | {"classes": None}),
        (ENSEMBLE_KEY, lambda table: {k: v for k, v in table.items() if k != "views"}),
        (EXPORT_KEY, lambda _: []),
        (EXPORT_KEY, lambda _: "text"),
        (EXPORT_KEY, lambda _: 7),
        (EXPORT_KEY, lambda table: {k: v for k, v in table.items() if k != "format"}),
    ],
)
def test_what_is_no_export(about: About, key: str, change: Callable[[Any], Any]) -> None:
    with pytest.raises(CorruptError) as no:
        read_metadata(changed(about, key, change), PATH)
    assert str(no.value) == f"{PATH} was not exported by `ensemble export`: its metadata lacks what that writes"


@pytest.mark.parametrize(
    "props",
    [{}, {ENSEMBLE_KEY: "{}"}, {ENSEMBLE_KEY: "{", EXPORT_KEY: "{}"}, {ENSEMBLE_KEY: "[" * 99_999, EXPORT_KEY: "{}"}],
)
def test_no_metadata_at_all(props: dict[str, str]) -> None:
    with pytest.raises(CorruptError, match=r"model\.onnx was not exported by `ensemble export`"):
        read_metadata(props, PATH)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        (EXPORT_KEY, lambda table: table | {"format": "menagerie.export/2"}),
        (EXPORT_KEY, lambda table: table | {"precision": "fp8"}),
        (EXPORT_KEY, lambda table: table | {"precision": ["fp32"]}),
        (ENSEMBLE_KEY, lambda table: table | {"members": []}),
        (ENSEMBLE_KEY, lambda table: table | {"classes": []}),
        (ENSEMBLE_KEY, lambda table: table | {"classes": "airplane"}),
        (ENSEMBLE_KEY, lambda table: table | {"classes": [1, 2]}),
        (ENSEMBLE_KEY, lambda table: table | {"merge": 3}),
    ],
)
def test_another_format(about: About, key: str, change: Callable[[Any], Any]) -> None:
    with pytest.raises(CorruptError) as no:
        read_metadata(changed(about, key, change), PATH)
    assert str(no.value) == f"{PATH} was exported in a format other than {FORMAT!r}: export it again"


def test_equal_abouts_are_equal_bytes(about: About) -> None:
    assert metadata_props(About(**asdict(about))) == metadata_props(about)
    assert PRECISIONS == ("fp32", "fp16", "int8")
