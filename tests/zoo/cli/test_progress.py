"""Progress: at most ten lines in a pipe, a bar on a terminal, nothing when quiet."""

import io
import sys
import time

import pytest

from zoo.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, in a list, for tests to set."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let stderr be a terminal; call it in the test itself, since pytest puts its own stderr there before it."""
    stderr = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", stderr)
    return stderr


def test_plain_lines_say_what_is_done_and_how_fast(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Progress(4000, "evaluating", "images") as bar:
        clock[0] += 2
        bar.advance(1000)
        clock[0] += 2
        bar.advance(3000)
        assert bar.seconds == 4
    assert capsys.readouterr() == (
        "",
        "evaluating: 1,000/4,000 images, 500 images/s\nevaluating: 4,000/4,000 images, 1,000 images/s\n",
    )


@pytest.mark.parametrize("total", [1, 7, 10, 999])
def test_ten_lines_at_most_and_one_at_the_end(capsys: pytest.CaptureFixture[str], total: int) -> None:
    with Progress(total, "work", "steps") as bar:
        for _ in range(total):
            bar.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == min(10, total)
    assert lines[-1].startswith(f"work: {total}/{total} steps, ")
    done = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert done == sorted(set(done))


def test_what_an_earlier_run_did_counts_but_not_for_the_rate(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress(100, "work", "steps", done=50) as bar:
        assert bar.rate == 0
        bar.advance(5)
        clock[0] += 2
        bar.advance(5)
        assert bar.rate == 5
    assert capsys.readouterr().err == "work: 60/100 steps, 5 steps/s\n"


def test_notes_and_labels(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1, "one", "steps") as bar:
        bar.note("a line [of] :text:")
        bar.relabel("two")
        bar.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a line [of] :text:"
    assert lines[1].startswith("two: 1/1 steps, ")


def test_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(0, "work", "steps") as bar:
        bar.advance(0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    shown = on_terminal(monkeypatch) if terminal else io.StringIO()
    with Progress(2, "work", "steps", quiet=True) as bar:
        bar.advance(1)
        bar.note("note")
        bar.relabel("other")
        bar.advance(1)
        assert bar.rate > 0
    assert capsys.readouterr() == ("", "")
    assert shown.getvalue() == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    stderr = on_terminal(monkeypatch)
    with Progress(4000, "[/first] :smile:", "images", done=1000) as bar:
        bar.note("a [/note]")
        clock[0] += 2
        bar.advance(1000)
        bar.relabel("second")
    shown = stderr.getvalue()
    for part in (
        "[/first] :smile:",
        "1,000/4,000 images",
        "a [/note]\n",
        "second",
        "2,000/4,000 images",
        "500 images/s",
    ):
        assert part in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is shown again"


def test_an_error_stops_the_bar_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = on_terminal(monkeypatch)
    with pytest.raises(ValueError, match="mine"), Progress(2, "work", "steps"):
        raise ValueError("mine")
    assert "\x1b[?25h" in stderr.getvalue()
