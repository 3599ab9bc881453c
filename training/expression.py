"""Arithmetic expressions in recipes: numbers, names, operators and a few functions, and nothing else of Python."""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from zoo.errors import UsageError

__all__ = ["compile_expression"]

_Value = Callable[[Mapping[str, float]], float]

_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "floor": math.floor,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
}
_OF_SEVERAL = {"min", "max"}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_LONGEST, _SHOWN = 500, 80
_DEEPEST = 100
"""Operations within operations; Python's own stack is the limit otherwise, which is another one at every call."""


def compile_expression(text: str, names: AbstractSet[str]) -> _Value:
    """Return a function from the values of `names` to the value of an expression such as `"min(1, 2 - t) ** 2"`.

    It knows `+ - * / // % **`, comparisons of two values, `a if condition else b`, `pi`, `e`, `min` and `max` of
    several values, and the functions abs, floor, exp, log, sqrt, sin and cos of one. Every value on the way is a float
    (what compares true is 1.0), so that no power grows without bound.

    Raises:
        UsageError: the text is something else; or, when called, it has no finite value (as 1 / 0).
    """
    said = f"expression {text[:_SHOWN]!r}"
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"more than {_LONGEST} characters")
        with warnings.catch_warnings(action="error"):  # of Python's own about odd spellings, such as `1if t else 2`
            tree = ast.parse(text.strip(), mode="eval").body
        compiled = _compiled(tree, names, _DEEPEST)
    except (SyntaxError, ValueError, ArithmeticError, Warning, RecursionError, MemoryError) as error:
        why = str(error).splitlines() or ["it takes too much memory"]
        raise UsageError(f"{said}: {why[0]}") from error

    def value(at: Mapping[str, float]) -> float:
        try:
            found = compiled(at)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise UsageError(f"{said} has no value at {dict(at)}: {error}") from error
        if not math.isfinite(found):
            raise UsageError(f"{said} is {found} at {dict(at)}")
        return found

    return value


def _compiled(node: ast.AST, names: AbstractSet[str], deepest: int) -> _Value:  # noqa: C901, PLR0911  # a case a kind of node
    """Return what computes a node's value; raise `ValueError` if it, or one below it, is not of those allowed."""

    def sub(part: ast.AST) -> _Value:
        return _compiled(part, names, deepest - 1)

    if not deepest:
        raise ValueError(f"more than {_DEEPEST} operations within each other")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            constant = float(number)
            return lambda _at: constant
        case ast.Name(id=name) if name in names:
            return lambda at: float(at[name])
        case ast.Name(id=name) if name in _CONSTANTS:
            return lambda _at: _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _applied(_OPERATORS[type(op)], [sub(operand)])
        case (
            ast.BinOp(left=left, op=ast.AST() as op, right=right)
            | ast.Compare(left=left, ops=[ast.AST() as op], comparators=[right])
        ) if type(op) in _OPERATORS:
            return _applied(_OPERATORS[type(op)], [sub(left), sub(right)])
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition, yes, no = sub(test), sub(body), sub(orelse)
            return lambda at: yes(at) if condition(at) else no(at)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            if not args or (len(args) > 1) != (name in _OF_SEVERAL):
                raise ValueError(f"{name} takes {'several values' if name in _OF_SEVERAL else 'one value'}")
            return _applied(_FUNCTIONS[name], [sub(part) for part in args])
        case _:
            known = ", ".join([*sorted(names), *_CONSTANTS, *_FUNCTIONS])
            raise ValueError(f"{ast.unparse(node)[:_SHOWN]!r} is not understood; there are numbers, operators, {known}")


def _applied(function: Callable[..., float], parts: list[_Value]) -> _Value:
    return lambda at: float(function(*[part(at) for part in parts]))
