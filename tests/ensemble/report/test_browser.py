"""The page in a real browser: nothing is fetched, nothing complains, nothing is wider than a phone."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ensemble.report.page import page
from ensemble.report.record import Record

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

# Beside the page, in a document of its own: the page's own policy lets no script run in it.
HARNESS = """<!doctype html><link rel="icon" href="data:,"><body><script>
const frame = document.createElement("iframe");
frame.width = WIDTH; frame.height = 800; frame.src = "report.html";
frame.onload = () => {
  const inside = frame.contentDocument, root = inside.documentElement;
  for (const d of inside.querySelectorAll("details")) d.open = true;
  const wide = [...inside.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest("svg")
    && e.getBoundingClientRect().right > WIDTH + 1).map(e => e.tagName);
  const front = inside.querySelector("section[aria-labelledby=front] > .scroll");
  const words = [...inside.querySelectorAll("svg text")].filter(e => e.getBoundingClientRect().height > 0)
    .map(e => Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b) * parseFloat(getComputedStyle(e).fontSize));
  const out = {scroll: root.scrollWidth, wide, images: [...inside.images].every(i => i.naturalWidth > 0),
    hidden: front.scrollWidth - front.clientWidth, smallest: Math.min(...words),
    fetched: frame.contentWindow.performance.getEntriesByType("resource").map(r => r.name)};
  document.body.textContent = "RESULT" + JSON.stringify(out) + "END";
};
document.body.append(frame);
</script></body>"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; yield its address, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            asked.append(self.path if hasattr(self, "path") else str(words))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def browse(address: str, profile: Path) -> tuple[str, str]:
    """Return the document after its scripts have run, and what the browser wrote to its log."""
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    words = [str(CHROMIUM), *options, "--virtual-time-budget=5000", f"--user-data-dir={profile}", "--dump-dom", address]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("classes", [10, 100])
def test_nothing_is_fetched_nothing_complains_and_nothing_overflows(
    record: Callable[..., Record], tmp_path: Path, serve: tuple[str, list[str]], width: int, classes: int
) -> None:
    names = tuple(f"a rather long class name {i}" for i in range(classes))
    made = record(classes=names, points=60, members=12, name="a-rather-long-network-name-seed")
    (tmp_path / "report.html").write_text(page(made), encoding="utf-8")
    (tmp_path / "harness.html").write_text(HARNESS.replace("WIDTH", str(width)), encoding="utf-8")
    address, asked = serve
    dom, log = browse(f"{address}/harness.html", tmp_path / "profile")
    found = re.search("RESULT(.*)END", dom)
    assert found is not None
    result: dict[str, Any] = json.loads(found[1].replace("&amp;", "&"))
    assert "CONSOLE" not in log
    assert asked == ["/harness.html", "/report.html"]
    assert [name for name in result["fetched"] if not name.startswith("data:")] == []
    assert result["scroll"] <= width
    assert result["wide"] == []
    assert width < 1200 or result["hidden"] <= 0, "the table of the front is all in sight"
    assert result["images"]
    assert result["smallest"] >= 6.5, "CSS pixels of the smallest text in a plot"


def test_the_check_sees_what_it_is_there_to_see(
    record: Callable[..., Record], tmp_path: Path, serve: tuple[str, list[str]]
) -> None:
    bad = '<img src="other.png" alt=""><script>1</script><p style="width: 900px">wide</p></body>'
    (tmp_path / "report.html").write_text(page(record()).replace("</body>", bad), encoding="utf-8")
    (tmp_path / "harness.html").write_text(HARNESS.replace("WIDTH", "390"), encoding="utf-8")
    address, _ = serve
    dom, log = browse(f"{address}/harness.html", tmp_path / "profile")
    found = re.search("RESULT(.*)END", dom)
    assert found is not None
    result = json.loads(found[1].replace("&amp;", "&"))
    assert "CONSOLE" in log
    assert result["scroll"] > 390
    assert result["wide"]
    assert not result["images"]
