"""The page of a server in a real browser: pictures, votes, agreement, tokens, small screens."""

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from export.serve.app import token_digest
from tests.conftest import CLASSES
from tests.export.serve.conftest import FakeSession, Site, answers, site, some_images

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(browser: "Browser") -> Iterator[Open]:
    """A function that opens a page; nothing on it may go wrong unseen."""
    troubles: list[str] = []
    with ExitStack() as stack:

        def go(found: Site, *, expected: str = "", **options: object) -> "Page":
            context = stack.enter_context(browser.new_context(**options))  # type: ignore[arg-type]
            page = context.new_page()
            page.set_default_timeout(30_000)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on(
                "console",
                lambda line: troubles.append(line.text) if not expected or expected not in line.text else None,
            )
            page.on("request", lambda request: strangers(request.url, found.port, troubles))
            page.goto(f"http://127.0.0.1:{found.port}/")
            return page

        yield go
    assert troubles == []


def strangers(url: str, port: int, troubles: list[str]) -> None:
    if not url.startswith((f"http://127.0.0.1:{port}/", "blob:")):
        troubles.append(f"asked {url}")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(some_images(1)[0]).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def check(page: "Page") -> None:
    """Hold what the page shows to the formula."""
    probs, own = answers(some_images(1))
    best = int(probs[0].argmax())
    page.wait_for_selector("#answer:not([hidden])")
    assert page.inner_text("#verdict").startswith(f"{CLASSES[best]}, {100 * probs[0, best]:.1f}")
    top = [item.inner_text().split("\n")[0] for item in page.query_selector_all("#top li")]
    assert top == [CLASSES[c] for c in np.argsort(-probs[0])[:5]]
    votes = [item.inner_text().split("\n")[:2] for item in page.query_selector_all("#each li")]
    assert votes == [[name, CLASSES[c]] for name, c in zip("abc", own[0].argmax(1), strict=True)]
    agree = int((own[0].argmax(1) == best).sum())
    assert f"{agree} of 3 members agree" in page.inner_text("#agreement") or agree == 3
    assert page.evaluate("document.querySelector('#picture').naturalWidth") > 0


def test_a_picture_that_is_chosen(visit: Open, picture: Path) -> None:
    with site() as found:
        page = visit(found)
        assert page.is_hidden("#answer")
        page.set_input_files("#file", picture)
        check(page)
        widths = [item.bounding_box()["width"] for item in page.query_selector_all("#top .fill")]  # type: ignore[index]
        assert widths == sorted(widths, reverse=True)


def test_a_picture_that_is_dropped(visit: Open, picture: Path) -> None:
    with site() as found:
        page = visit(found)
        data = page.evaluate_handle(
            """bytes => { const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "p.png", { type: "image/png" })); return data; }""",
            list(picture.read_bytes()),
        )
        page.dispatch_event("#drop", "dragover", {"dataTransfer": data})
        assert "over" in (page.get_attribute("#drop", "class") or "")
        page.dispatch_event("#drop", "drop", {"dataTransfer": data})
        check(page)


def test_the_keyboard_is_enough(visit: Open, picture: Path) -> None:
    with site() as found:
        page = visit(found)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(picture)
        check(page)


def test_what_is_no_picture_is_said_and_the_next_one_is_answered(visit: Open, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("<img src=x onerror=alert(1)>")
    with site() as found:
        page = visit(found, expected="415")
        page.set_input_files("#file", tmp_path / "x.png")
        page.wait_for_selector("#error:not([hidden])")
        assert (page.text_content("#error") or "").startswith("the picture cannot be read: send a whole PNG")
        page.set_input_files("#file", picture)
        check(page)
        assert page.is_hidden("#error")


def test_a_token_is_asked_for_and_kept_in_the_tab(visit: Open, picture: Path) -> None:
    with site(token=token_digest("let me in")) as found:
        page = visit(found, expected="401")
        page.set_input_files("#file", picture)
        page.wait_for_selector("#key:not([hidden])")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.get_by_text("This was not the token.").wait_for()
        page.fill("#token", "let me in")
        page.keyboard.press("Enter")
        check(page)
        assert page.is_hidden("#key")
        page.reload()
        page.set_input_files("#file", picture)
        check(page)
        assert "let me in" not in page.content()


def test_names_are_text_and_not_markup(visit: Open, picture: Path) -> None:
    names = ("<b>bold</b>", "<img src=x onerror=alert(1)>", "c")
    classes = tuple(f"<i>{name}</i>" for name in CLASSES)
    with site(FakeSession(members=names, classes=classes)) as found:
        page = visit(found)
        page.set_input_files("#file", picture)
        page.wait_for_selector("#answer:not([hidden])")
        assert [item.inner_text().split("\n")[0] for item in page.query_selector_all("#each li")] == list(names)
        assert page.query_selector_all("#answer b, #answer i, #each img") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_the_screen_and_can_be_read(visit: Open, picture: Path, width: int, scheme: str) -> None:
    with site() as found:
        page = visit(found, viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.set_input_files("#file", picture)
        check(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
        assert (brightness(ink) < brightness(paper)) is (scheme == "light")
        for chosen in ("body", ".quiet", "h3", "#drop strong"):
            colour = page.evaluate(f"getComputedStyle(document.querySelector('{chosen}')).color")
            assert contrast(colour, paper) > 4.5  # WCAG 2.2, 1.4.3
        assert io.BytesIO(page.screenshot()).getvalue().startswith(b"\x89PNG")


def brightness(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)`, as WCAG 2.2 defines it."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    low, high = sorted([brightness(first), brightness(second)])
    return (high + 0.05) / (low + 0.05)
