"""The table of what fits and what does not."""

from zoo.importing.comparison import compare, fits_but_for_the_head, shape_text, table_rows
from zoo.importing.layers import Shape, layers_of

MINE: dict[str, Shape] = {"stem.weight": (8, 3, 3, 3), "a.weight": (8, 8, 3, 3), "b.weight": (8, 8, 3, 3)}
MINE |= {"head.weight": (10, 8), "head.bias": (10,)}


def cells(theirs: dict[str, Shape]) -> list[tuple[str, str, str, str, str]]:
    return table_rows(compare(layers_of(MINE), layers_of(theirs)))


def test_all_fits() -> None:
    assert cells(dict(MINE)) == [("4 layers", "", "4 layers", "", "fit")]


def test_what_is_missing_extra_and_different() -> None:
    theirs = {"conv1.weight": (8, 3, 3, 3), "x.weight": (8, 8, 3, 3), "fc.weight": (100, 8), "fc.bias": (100,)}
    assert cells(theirs) == [
        ("2 layers", "", "2 layers", "", "fit"),
        ("b", "conv 8x8x3x3", "", "", "not in the file"),
        ("head", "linear 10x8 + bias", "fc", "linear 100x8 + bias", "differs"),
    ]
    assert cells({**MINE, "n.alpha": (3,)})[-1] == ("", "", "n", "other + alpha", "not in the network")


def test_a_long_table_is_cut() -> None:
    shown = cells({f"layer{i}.weight": (1, i + 1) for i in range(500)})
    assert len(shown) == 61
    assert shown[-1][0] == "... 443 more lines"


def test_a_hostile_file_of_many_layers_does_not_take_forever() -> None:
    assert len(cells({f"layer{i}.weight": (8, 8, 3, 3) for i in range(100_000)})) == 61


def test_shapes_in_short() -> None:
    norm = {"weight": (8,), "bias": (8,), "running_mean": (8,), "running_var": (8,)}
    assert shape_text(layers_of({f"n.{k}": v for k, v in norm.items()})[0]) == "norm 8"
    del norm["running_var"]
    assert shape_text(layers_of({f"n.{k}": v for k, v in norm.items()})[0]) == "norm 8 - var"
    assert shape_text(layers_of({"c.weight": (8, 3, 3, 3), "c.bias": (8,)})[0]) == "conv 8x3x3x3 + bias"


def test_the_number_of_classes_alone() -> None:
    mine = layers_of(MINE)
    assert fits_but_for_the_head(mine, layers_of({**MINE, "head.weight": (100, 8), "head.bias": (100,)}))
    assert not fits_but_for_the_head(mine, layers_of({**MINE, "head.weight": (10, 9)}))
    assert not fits_but_for_the_head(mine, layers_of({k: v for k, v in MINE.items() if k != "head.bias"}))
