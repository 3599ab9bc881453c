"""Expressions against Python's own value of the same text, and everything else of Python refused in one line."""

import math
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.expression import compile_expression
from zoo.errors import UsageError

NAMES = {"step", "epoch", "t"}
# What Python's `eval` is given; it computes with floats throughout, as expressions do.
PYTHON = {"pi": math.pi, "e": math.e, "exp": math.exp, "log": math.log, "sqrt": math.sqrt, "sin": math.sin}
PYTHON |= {"cos": math.cos, "abs": abs, "min": min, "max": max, "floor": lambda x: float(math.floor(x))}

leaves = st.sampled_from(["t", "step", "epoch", "pi", "e", "0.5", "2.0", "1e-3", "10.0"])


def larger(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["+", "-", "*", "/", "//", "%", "**"])
    one = st.sampled_from(["abs", "floor", "exp", "log", "sqrt", "sin", "cos"])
    several = st.sampled_from(["min", "max"])
    comparison = st.sampled_from(["<", "<=", ">", ">="])
    return st.one_of(
        st.builds("({} {} {})".format, parts, binary, parts),
        st.builds("{} {} {}".format, parts, binary, parts),
        st.builds("({}{})".format, st.sampled_from("+-"), parts),
        st.builds("{}({})".format, one, parts),
        st.builds("{}({}, {}, {})".format, several, parts, parts, parts),
        st.builds("({} if {} {} {} else {})".format, parts, parts, comparison, parts, parts),
    )


@given(
    text=st.recursive(leaves, larger, max_leaves=10),
    at=st.fixed_dictionaries(dict.fromkeys(sorted(NAMES), st.floats(-3, 1000))),
)
def test_value_is_pythons(text: str, at: dict[str, float]) -> None:
    try:
        expected = float(eval(text, {"__builtins__": {}}, PYTHON | at))  # noqa: S307  # of what is made above
    except (ArithmeticError, ValueError, TypeError):  # a TypeError for complex numbers
        expected = math.nan
    value = compile_expression(text, NAMES)
    if math.isfinite(expected):
        assert value(at) == expected
    else:
        with pytest.raises(UsageError) as raised:
            value(at)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.97 ** epoch", 0.97**2.5),
        (" 1 - t ", 0.75),
        ("min(1, 2 - t) ** 2", 1.0),
        ("1 if t < 0.5 else 0.1", 1.0),
        ("1 if t >= 0.5 else 0.1", 0.1),
        ("(t < 0.5) + (t <= 0.25)", 2.0),
        ("max(0.1, cos(pi * t / 2))", math.cos(math.pi / 8)),
        ("0.1 ** floor(epoch)", 0.01),
        ("-t + +step // 7 % 3", -0.25 + 25 // 7 % 3),
        ("t  # of the run", 0.25),
        ("7", 7.0),
        ("99999999999999999999", 1e20),
        ("+".join("t" * 90), 22.5),
    ],
)
def test_what_it_knows(text: str, expected: float) -> None:
    found = compile_expression(text, NAMES)({"step": 25.0, "epoch": 2.5, "t": 0.25})
    assert type(found) is float
    assert found == pytest.approx(expected, rel=1e-15)


def test_what_is_not_chosen_needs_no_value() -> None:
    assert compile_expression("1 / t if t > 0 else 5", NAMES)({"t": 0.0}) == 5


NOT_EXPRESSIONS = [
    "__import__('os').system('true')",
    "().__class__.__bases__",
    "t.real",
    "t.__class__",
    "(1).bit_length()",
    "open('x')",
    "print(t)",
    "exec('1')",
    "eval('1')",
    "abs",
    "abs(abs)",
    "(lambda: 1)()",
    "lambda: 1",
    "[x for x in (1, 2)]",
    "sum(x for x in (1, 2))",
    "{t: 1}",
    "{t}",
    "(t, t)",
    "[t]",
    "t[0]",
    "t[0:1]",
    "'a'",
    "b'a'",
    "f'{t}'",
    "True",
    "None",
    "...",
    "1j",
    "not t",
    "~t",
    "t and 1",
    "t or 1",
    "t @ t",
    "t << 1",
    "t & 1",
    "t == 1",
    "t is t",
    "t in (1,)",
    "0 < t < 1",
    "(u := 1)",
    "u",
    "T",
    "min(*[t])",
    "max(1, t, key=abs)",
    "abs(x=t)",
    "await t",
    "(yield)",
]


@pytest.mark.parametrize("text", NOT_EXPRESSIONS)
def test_everything_else_of_python_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"expression {text!r}: ")) as raised:
        compile_expression(text, NAMES)
    assert "\n" not in str(raised.value)


def test_what_is_not_understood_is_shown_with_what_there_is() -> None:
    with pytest.raises(UsageError) as raised:
        compile_expression("1 + t.real", NAMES)
    assert str(raised.value) == (
        "expression '1 + t.real': 't.real' is not understood; there are numbers, operators, epoch, step, t, pi, e,"
        " abs, min, max, floor, exp, log, sqrt, sin, cos"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid syntax"),
        ("1 2", "invalid syntax"),
        ("t = 1", "invalid syntax"),
        ("t; t", "invalid syntax"),
        ("import os", "invalid syntax"),
        ("t\nt", "invalid syntax"),
        ("(t", "'(' was never closed"),
        ("t\x00", "null bytes"),
        ("\ud800", "surrogates not allowed"),
        ("1if t else 2", "invalid decimal literal"),
        ("'\\d'", "invalid escape sequence"),
        ("sqrt()", "sqrt takes one value"),
        ("sqrt(t, t)", "sqrt takes one value"),
        ("log(t, 2)", "log takes one value"),
        ("min()", "min takes several values"),
        ("max(t)", "max takes several values"),
        ("9" * 400, "int too large to convert to float"),
        ("1" + " + 1" * 200, "more than 500 characters"),
        ("-" * 400 + "t", "more than 100 operations within each other"),
        ("+".join("t" * 200), "more than 100 operations within each other"),
        ("abs(" * 90 + "t" + ")" * 89, "'(' was never closed"),
        ("(" * 240 + "t" + ")" * 240, "nested parentheses"),
    ],
)
def test_what_is_malformed_or_too_much_says_so(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        compile_expression(text, NAMES)
    assert str(raised.value).startswith("expression ")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "1 / t",
        "t // t",
        "1 % t",
        "log(t)",
        "sqrt(t - 1)",
        "(t - 1) ** 0.5",  # a complex number
        "min(1, (t - 1) ** 0.5)",
        "10.0 ** 400",
        "exp(1000)",
        "1e308 * 10",  # infinite, with no exception
        "1e999",
        "1e999 - 1e999",
        "floor(1e999)",
        "t ** -1",
    ],
)
def test_no_finite_value_is_an_error_line(text: str) -> None:
    value = compile_expression(text, NAMES)
    with pytest.raises(UsageError, match=re.escape(f"expression {text!r}")) as raised:
        value({"t": 0.0})
    assert "{'t': 0.0}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "9 ** 9 ** 9 ** 9",
        "floor(1e15) ** floor(1e15)",
        "((t < 1) + (t < 1)) ** " * 6 + "2",
        "floor(9e9 ** 9) ** floor(9e9 ** 9) % 7",
    ],
)
def test_powers_do_not_grow_without_bound(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match="has no value"):
        compile_expression(text, NAMES)({"t": 0.0})
    assert time.monotonic() - began < 2


def test_deepest_expression_has_a_value_from_deep_in_the_stack() -> None:
    value = compile_expression("-" * 99 + "t", NAMES)

    def deeper(by: int) -> float:
        return deeper(by - 1) if by else value({"t": 3.0})

    assert deeper(400) == -3


def test_python_does_not_warn_of_odd_spellings() -> None:
    # A warning would be an error here; "(0.5)(1)" is one that Python gives when it compiles to byte code.
    with pytest.raises(UsageError, match="not understood"):
        compile_expression("(0.5)(1)", NAMES)


@settings(max_examples=200)
@given(st.text(st.sampled_from("t0123456789.e+-*/%()<>= ,abflminoxrsqcp'_[]{}:\n\\"), max_size=30))
def test_any_text_is_a_number_or_one_error_line(text: str) -> None:
    try:
        found = compile_expression(text, NAMES)({"step": 3.0, "epoch": 1.5, "t": 0.5})
    except UsageError as error:
        assert "\n" not in str(error)  # noqa: PT017  # either may happen
    else:
        assert type(found) is float
        assert math.isfinite(found)
