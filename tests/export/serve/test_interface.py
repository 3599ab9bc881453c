"""What clients rely on."""

from dataclasses import replace

import pytest

from export.serve.interface import interface_of
from export.serve.limits import Limits
from tests.export.serve.conftest import INTERFACE, FakeSession, some_images


def test_it_is_read_off_a_session_and_an_answer() -> None:
    session = FakeSession()
    found = interface_of(session, session.answer(some_images(1)))  # type: ignore[arg-type]  # it has what is used
    assert found == INTERFACE  # whose weights sum to 1; the lockfile's do not
    assert found.outputs == ("probs", "member_probs")
    assert found.image_bytes == 8 * 6 * 3


def test_without_member_probs() -> None:
    found = replace(INTERFACE, has_members=False)
    assert [output["name"] for output in found.metadata("m")["outputs"]] == ["probs"]


@pytest.mark.parametrize("other", [{"members": ("x", "y", "z")}, {"weights": (0.2, 0.3, 0.5)}, {"merge": "vote"}, {}])
def test_what_clients_do_not_see_may_change(other: dict[str, object]) -> None:
    assert INTERFACE.difference(replace(INTERFACE, **other)) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(("image_bytes", "most"), [(3072, 64 * 3072 * 16 + 65_536), (3 * 224 * 224, 16 << 20)])
def test_json_of_a_whole_batch_fits_unless_it_is_larger_than_any_body(image_bytes: int, most: int) -> None:
    assert Limits().tensor_body(image_bytes) == most
