"""The layering of docs/architecture.md, read off the source files, and the habits that go with it."""

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BELOW = {
    "zoo": set(),
    "tta": {"zoo"},
    "training": {"zoo", "tta"},
    "ensemble": {"zoo", "tta"},
    "export": {"zoo", "tta", "ensemble"},
}
"""Top-level package -> those it may import from. `training` and `ensemble` do not know each other."""

SHARED = {
    f"zoo.cli.{name}"
    for name in (
        *(
            "complete",
            "device",
            "dry_run",
            "exporting",
            "group",
            "interrupt",
            "progress",
            "training_options",
            "training_run",
        ),
        "types",
    )
}
"""What the command line of another package may take from the zoo's."""

LONGEST = 350


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for package in BELOW for p in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imported(name: str) -> Iterator[str]:
    """Yield every module of ours that a module imports, at its top or anywhere inside."""
    yield from imported_by(TREES[name], name, is_package=FILES[name].stem == "__init__")


def imported_by(tree: ast.AST, name: str, *, is_package: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".")[: len(name.split(".")) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            # `from zoo import store` names a module, `from zoo.card import Card` does not.
            found = [f"{base}.{a.name}" if f"{base}.{a.name}" in FILES else base for a in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        else:
            continue
        yield from (m for m in found if m.partition(".")[0] in BELOW)


def command_line_of(name: str) -> str | None:
    """Return the cli package that a module is in, if it is in one."""
    parts = name.split(".")
    return ".".join(parts[: parts.index("cli") + 1]) if "cli" in parts else None


def breach(name: str, target: str) -> bool:
    """Say whether module `name` must not import module `target`."""
    mine, its = command_line_of(name), command_line_of(target)
    if its is not None and its != mine:
        return mine is None or target not in SHARED
    own, other = name.partition(".")[0], target.partition(".")[0]
    return mine is None and other != own and other not in BELOW[own]


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_point_one_way(name: str) -> None:
    assert [target for target in imported(name) if breach(name, target)] == []


@pytest.mark.parametrize(
    ("name", "target", "wrong"),
    [
        ("tta.views", "zoo.names", False),
        ("zoo.store", "tta.views", True),
        ("training.loop", "ensemble.merge", True),
        ("ensemble.fit", "training.loop", True),
        ("ensemble.fit", "export.onnx", True),
        ("export.onnx", "ensemble.lockfile", False),
        ("zoo.cli.train", "training.loop", False),
        ("zoo.store", "zoo.cli.progress", True),
        ("zoo.cli.list", "zoo.cli.progress", False),
        ("ensemble.cli.eval", "zoo.cli.progress", False),
        ("ensemble.cli.eval", "zoo.cli.list", True),
        ("zoo.cli.list", "ensemble.cli.options", True),
        ("training.run", "zoo.cli.progress", True),
    ],
)
def test_the_rule_itself(name: str, target: str, wrong: bool) -> None:
    assert breach(name, target) is wrong


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import zoo.card, numpy
from zoo import store, load
from . import names
from .data import Split
def late():
    from ensemble.merge import merge
    importlib.import_module("training.loop")
"""
    found = set(imported_by(ast.parse(source), "zoo.entry", is_package=False))
    assert found == {"zoo.card", "zoo.store", "zoo", "zoo.names", "zoo.data", "ensemble.merge", "training.loop"}
    assert set(imported_by(ast.parse("from .views import flip"), "tta", is_package=True)) == {"tta.views"}
    assert list(imported("zoo.entry")), "there is something to find"


def test_commands_are_where_their_groups_say() -> None:
    for name, tree in TREES.items():
        for text in re.findall(r"'((?:zoo|ensemble|export)\.cli\.\w+)'", ast.unparse(tree)):
            assert text in FILES, name
            assert command_line_of(text) == name


def exported(tree: ast.Module) -> list[str] | None:
    """Return a module's `__all__`, if it has one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def holds_code(tree: ast.Module) -> bool:
    return any(not isinstance(node, ast.Expr) for node in tree.body)


PUBLIC = [name for name, tree in TREES.items() if not name.rpartition(".")[2].startswith("_") and holds_code(tree)]


def rank(name: str) -> tuple[int, str]:
    """Order constants before classes before functions, as ruff does."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_module_offers_is_sorted_exists_and_is_described(name: str) -> None:
    tree = TREES[name]
    names = exported(tree)
    assert names, "a public module says what it offers"
    assert names == sorted(set(names), key=rank)
    module = importlib.import_module(name)
    assert [n for n in names if not hasattr(module, n)] == []
    described = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    offered = [node for node in tree.body if isinstance(node, described) and node.name in names]
    assert [node.name for node in offered if not ast.get_docstring(node)] == []
    assert ast.get_docstring(tree)


def test_the_package_list_is_the_tree() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert table["tool"]["setuptools"]["packages"] == sorted(
        module_name(path) for path in FILES.values() if path.name == "__init__.py"
    )
    folders = {path.parent for path in FILES.values()}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_package_is_typed() -> None:
    assert [package for package in BELOW if not (ROOT / package / "py.typed").is_file()] == []


def test_files_are_small_and_named_after_what_they_hold() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
    assert [name for name in FILES if name.rpartition(".")[2] in {"utils", "util", "helpers", "misc", "common"}] == []
