"""Files in forms, written by the standard library and by a browser's rules."""

import contextlib
import time
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.policy import HTTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.serve.multipart import file_of_form, is_form
from export.serve.problem import Problem


def form(*parts: tuple[str, bytes], boundary: str = "XyZ", end: str = "--\r\n") -> tuple[bytes, str]:
    """Return a form of parts with their `Content-Disposition`, as RFC 7578 has it."""
    body = b"".join(
        b"--%b\r\nContent-Disposition: %b\r\nContent-Type: image/png\r\n\r\n%b\r\n"
        % (boundary.encode(), head.encode(), content)
        for head, content in parts
    )
    return body + f"--{boundary}{end}".encode(), f"multipart/form-data; boundary={boundary}"


FILE = 'form-data; name="file"; filename="a.png"'


@given(content=st.binary(max_size=500) | st.text("\r\n-XyZ", max_size=60).map(str.encode))
def test_any_file_comes_out_as_it_went_in(content: bytes) -> None:
    if b"--XyZ" in content:
        return  # a client chooses a boundary that is not in the file
    assert file_of_form(*form((FILE, content))) == content


@given(content=st.binary(max_size=300))
def test_a_form_of_the_standard_library(content: bytes) -> None:
    message = MIMEMultipart("form-data", policy=HTTP)
    part = MIMEApplication(content, _encoder=lambda one: one.set_payload(content, "latin-1"), policy=HTTP)
    part.add_header("Content-Disposition", "form-data", name="file", filename="b.webp")
    message.attach(part)
    boundary = "a-boundary-of-its-own"
    message.set_boundary(boundary)
    head = b"--" + boundary.encode() + b"\r\nContent-Disposition: " + part["Content-Disposition"].encode()
    body = head + b"\r\n\r\n" + content + b"\r\n--" + boundary.encode() + b"--\r\n"
    assert file_of_form(body, message["Content-Type"]) == content


@pytest.mark.parametrize(
    "head",
    [FILE, "form-data; filename=a.png; name=x", "form-data; filename*=UTF-8''%C3%A4.png", 'form-data; filename=""'],
)
def test_names_of_files(head: str) -> None:
    assert file_of_form(*form((head, b"x"))) == b"x"


def test_other_fields_are_passed_over_and_so_is_what_surrounds_the_form() -> None:
    body, kind = form(('form-data; name="note"', b"hello"), (FILE, b"x"))
    assert file_of_form(b"preamble\r\n" + body + b"epilogue", kind) == b"x"


def test_a_boundary_in_quotes_and_blanks_after_it() -> None:
    body, _ = form((FILE, b"x"), boundary="a b")
    assert file_of_form(body.replace(b"--a b\r\n", b"--a b \t\r\n"), 'Multipart/Form-Data; Boundary="a b"') == b"x"


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (form((FILE, b"x"))[0], "multipart/form-data", "has no boundary"),
        (form((FILE, b"x"))[0], "multipart/form-data; boundary=", "has no boundary"),
        (form((FILE, b"x"))[0], f"multipart/form-data; boundary={'x' * 71}", "has no boundary"),
        (form((FILE, b"x"))[0], "multipart/form-data; boundary=other", "its last boundary is missing"),
        (b"", "multipart/form-data; boundary=x", "its last boundary is missing"),
        (*form((FILE, b"x"), end=""), "its last boundary is missing"),
        (form((FILE, b"x"))[0][:-9], "multipart/form-data; boundary=XyZ", "its last boundary is missing"),
        (*form(), "the form has no files: send one picture"),
        (*form(('form-data; name="a"', b"x")), "the form has no files"),
        (*form((FILE, b"x"), (FILE, b"y")), "the form has 2 files"),
        (*form(("attachment; filename=x", b"x")), "is not form-data"),
        (*form((FILE, b"x"), *[('form-data; name="a"', b"x")] * 16), "the form has more than 16 parts: send one"),
        (*form((FILE, b"x"), *[('form-data; name="a"', b"x")] * 200_000), "the form has more than 16 parts"),
        (*form((f'form-data; filename="{"a" * 4096}"', b"x")), "a part of the form has headers of more than 4,096 byt"),
        (b"--XyZ\r\nno headers\r\n--XyZ--", "multipart/form-data; boundary=XyZ", "has no headers"),
        (b"--XyZ and more\r\n\r\nx\r\n--XyZ--", "multipart/form-data; boundary=XyZ", "has no headers"),
    ],
)
def test_malformed(body: bytes, kind: str, sentence: str) -> None:
    with pytest.raises(Problem, match=sentence) as caught:
        file_of_form(body, kind)
    assert caught.value.status == 400


def test_sixteen_parts_are_a_form_and_a_fence_after_it_is_none() -> None:
    body, kind = form((FILE, b"x"), *[('form-data; name="a"', b"x")] * 15)
    assert file_of_form(body, kind) == b"x"


@pytest.mark.parametrize("sign", [";", '";', "\r\n", "a\r\n"])
@pytest.mark.parametrize("size", [4000, 400_000])
def test_headers_of_parts_take_no_time(sign: str, size: int) -> None:
    hostile = "form-data; filename=b" + sign * (size // len(sign))
    body, kind = form(*[(hostile, b"x")] * 16 if size < 10_000 else [(hostile, b"x")])
    began = time.process_time()
    with contextlib.suppress(Problem):
        file_of_form(body, kind)
    assert time.process_time() - began < 0.3


@given(body=st.binary(max_size=200), data=st.data())
def test_garbage_is_refused_with_a_sentence(body: bytes, data: st.DataObject) -> None:
    whole, kind = form((FILE, body), boundary="b")
    place = data.draw(st.integers(0, len(whole) - 1))
    garbled = whole[:place] + data.draw(st.binary(max_size=4)) + whole[place + 1 :]
    try:
        found: bytes | int = file_of_form(garbled, kind)
    except Problem as problem:
        found = problem.status
    assert isinstance(found, bytes) or found == 400


@pytest.mark.parametrize(
    ("kind", "is_one"),
    [
        ("multipart/form-data; boundary=x", True),
        ("MULTIPART/FORM-DATA", True),
        ("image/png", False),
        ("", False),
        ("multipart/mixed", False),
        ("a\r\nb: c", False),
    ],
)
def test_what_is_a_form(kind: str, is_one: bool) -> None:
    assert is_form(kind) is is_one
