"""Protobuf's text format, beside protobuf's own."""

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from export.pbtxt import Enum, parse_text, to_text

TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=["Cs", "Cc"]) | st.just("\n")
)


def parsed(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@given(TEXTS, st.integers(-(2**31), 2**31 - 1), st.lists(st.integers(-1, 2**62), min_size=1))
def test_what_is_written_is_what_protobuf_reads(text: str, number: int, numbers: list[int]) -> None:
    fields = {
        "name": text,
        "max_batch_size": number,
        "input": [{"name": text, "data_type": Enum("TYPE_FP16"), "dims": numbers, "optional": True}, {"name": "b"}],
        "optimization": {"graph": {"level": -1}},
        "parameters": [{"key": "a", "value": {"string_value": text}}],
    }
    found = parsed(to_text(fields))
    assert (found.name, found.max_batch_size, found.optimization.graph.level) == (text, number, -1)
    assert [(i.name, i.optional, list(i.dims)) for i in found.input] == [(text, True, numbers), ("b", False, [])]
    assert found.input[0].data_type == model_config_pb2.TYPE_FP16
    assert {key: value.string_value for key, value in found.parameters.items()} == {"a": text}


@given(TEXTS, st.booleans(), st.booleans())
def test_what_protobuf_writes_is_read(text: str, one_line: bool, pointy: bool) -> None:
    config = model_config_pb2.ModelConfig(name=text, max_batch_size=7)
    config.input.add(name="a", dims=[3, -1])
    config.input.add(name="b", data_type="TYPE_UINT8")
    written = text_format.MessageToString(config, as_utf8=True, as_one_line=one_line, pointy_brackets=pointy)
    assert parse_text(written) == {
        "name": [text] if text else [],
        "max_batch_size": ["7"],
        "input": [{"name": ["a"], "dims": ["3", "-1"]}, {"name": ["b"], "data_type": ["TYPE_UINT8"]}],
    } or (not text and "name" not in parse_text(written))


def test_what_people_write_is_read() -> None:
    text = """
    # a comment: { not a message
    name: 'five'   # another
    input: [ { name: "a" "b", dims: [1, 2]; dims: 3 }, { name: "c\\"d\\n" } ]
    max_batch_size: 8,
    optimization < graph: < level: 1 > >
    """
    assert parse_text(text) == {
        "name": ["five"],
        "input": [{"name": ["ab"], "dims": ["1", "2", "3"]}, {"name": ['c"d\n']}],
        "max_batch_size": ["8"],
        "optimization": [{"graph": [{"level": ["1"]}]}],
    }
    assert [i.name for i in parsed(text).input] == ["ab", 'c"d\n'], "and protobuf reads the same"


@pytest.mark.parametrize(
    "text",
    [
        *('name: "a', "name:", "name", "input {", "input { name: }", "}", "name: }", "input { > }", "3: 4", ": 5"),
        *("dims: [1, 2", "dims: [", 'name: "\\xg"', "name: ]", '"name": 3'),
    ],
)
def test_what_is_not_in_the_format_is_refused(text: str) -> None:
    with pytest.raises(text_format.ParseError):
        parsed(text)
    with pytest.raises(ValueError, match=r"\w"):
        parse_text(text)
