"""Progress: at most ten lines in a pipe, seconds apart, a bar on a terminal, nothing when quiet."""

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
        clock[0] += 4
        bar.advance(1000)
        clock[0] += 4
        bar.advance(3000)
        assert bar.seconds == 8
    assert capsys.readouterr() == (
        "",
        "evaluating: 1,000/4,000 images, 250 images/s\nevaluating: 4,000/4,000 images, 500 images/s\n",
    )


@pytest.mark.parametrize("total", [1, 7, 10, 999])
def test_ten_lines_at_most_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], clock: list[float], total: int
) -> None:
    with Progress(total, "work", "steps") as bar:
        for _ in range(total):
            clock[0] += 3
            bar.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == min(10, total)
    assert lines[-1].startswith(f"work: {total}/{total} steps, ")
    done = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert done == sorted(set(done))


def test_what_is_done_soon_needs_no_line(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Progress(100, "work", "steps") as bar:
        for _ in range(100):
            clock[0] += 0.02
            bar.advance(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("step", [0.05, 0.4, 1.0])
def test_lines_are_seconds_apart(capsys: pytest.CaptureFixture[str], clock: list[float], step: float) -> None:
    began, times = clock[0], []
    with Progress(100, "work", "steps") as bar:
        for _ in range(100):
            clock[0] += step
            bar.advance(1)
            times += [clock[0]] * len(capsys.readouterr().err.splitlines())
    assert 1 <= len(times) <= 10
    gaps = [later - earlier for earlier, later in zip([began, *times], times, strict=False)]
    assert min(gaps) >= 3


def test_what_is_done_twice_is_not_beyond_the_total(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Progress(100, "work", "steps", done=130) as bar:
        for _ in range(5):
            clock[0] += 4
            bar.advance(50)
    assert capsys.readouterr().err == "", "it was all there before"
    with Progress(100, "work", "steps") as bar:
        for _ in range(5):
            clock[0] += 4
            bar.advance(60)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["60/100", "100/100"]


def test_what_an_earlier_run_did_counts_but_not_for_the_rate(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress(100, "work", "steps", done=50) as bar:
        assert bar.rate == 0
        bar.advance(5)
        clock[0] += 4
        bar.advance(5)
        assert bar.rate == 2.5
    assert capsys.readouterr().err == "work: 60/100 steps, 2.5 steps/s\n"


def test_notes_and_labels(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Progress(1, "one", "steps") as bar:
        bar.note("a line [of] :text:")
        bar.note("two\nlines\x1b[2J")
        bar.relabel("two")
        clock[0] += 4
        bar.advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "a line [of] :text:",
        "two lines\N{REPLACEMENT CHARACTER}[2J",
        "two: 1/1 steps, 0.25 steps/s",
    ]


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
        bar.note("\x1b]0;owned\x07")
        clock[0] += 2
        bar.advance(1000)
        bar.relabel("second")
    shown = stderr.getvalue()
    assert "\x1b]0;" not in shown
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


def test_a_bar_is_full_at_the_total(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    stderr = on_terminal(monkeypatch)
    with Progress(100, "work", "steps") as bar:
        clock[0] += 2
        bar.advance(250)
    assert "100/100 steps" in stderr.getvalue()
    assert "250/100" not in stderr.getvalue()
