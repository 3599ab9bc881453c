"""`ensemble serve` before anything is started: what is wrong is one line."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from ensemble.cli.serve import TOKEN, _hosts, _read_token, _ready, _Replicas, command
from export.serve.cluster import Replicas
from export.serve.limits import Limits
from export.serve.replica import Plan
from export.serve.served import How
from tests.export.serve.conftest import write_graph
from zoo.cli.group import run
from zoo.errors import NotFoundError, UsageError

ROOT = Path(__file__).parents[3]
GROUP = click.Group(commands={"serve": command})


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "tiny.onnx")


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Return the exit code and the one line of an error."""
    code = run(GROUP, ["serve", *(str(word) for word in words)])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return code, err.removeprefix("error: ").rstrip()


def test_help_imports_neither_ray_nor_a_runtime() -> None:
    program = (
        "import sys; from zoo.cli.group import run; from ensemble.cli.serve import command; run(command, ['--help']); "
        "print([m for m in ('ray', 'torch', 'onnxruntime', 'uvicorn', 'numpy.linalg') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "SIGHUP rolls in the file anew" in " ".join(done.stdout.split())


def test_files_that_cannot_be_served(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, error = refused(capsys, tmp_path / "nix.onnx")
    assert code == 1
    assert error.endswith("nix.onnx' does not exist: give a graph that `ensemble export` wrote")
    (tmp_path / "bad.onnx").write_text("no graph")
    assert refused(capsys, tmp_path / "bad.onnx")[1].endswith("bad.onnx is not an ONNX graph")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--replicas", "0"], "'0' is neither a number of replicas nor a range such as 1-4"),
        (["--replicas", "4-2"], "'4-2' is neither a number"),
        (["--replicas", "x"], "'x' is neither a number"),
        (["--port", "70000"], "70000 is not in the range"),
        (["--max-batch", "0"], "0 is not in the range"),
        (["--max-delay-ms", "-1"], "-1.0 is not in the range"),
        (["--max-delay-ms", "nan"], "'nan' is not a finite number"),
        (["--max-body-mb", "nan"], "'nan' is not a finite number"),
        (["--timeout", "nan"], "'nan' is not a finite number"),
        (["--timeout", "inf"], "'inf' is not a finite number"),
        (["--read-timeout", "nan"], "'nan' is not a finite number"),
        (["--write-timeout", "inf"], "'inf' is not a finite number"),
        (["--write-timeout", "0"], "0.0 is not in the range"),
        (["--allow-host", "http://cats.example"], "'http://cats.example' is no name: give it as in cats"),
        (["--allow-host", "cats.example:80"], "'cats.example:80' is no name"),
        (["--name", "a/b"], "--name 'a/b': a model's name has letters"),
        (["--name", ".."], "--name '..'"),
        (["--name", ".hidden"], "begins with a letter or digit"),
        (["--token", "secret"], "No such option '--token'"),
    ],
)
def test_options_that_cannot_be(
    capsys: pytest.CaptureFixture[str], graph: Path, words: list[str], sentence: str
) -> None:
    code, error = refused(capsys, graph, *words)
    assert code == 2
    assert sentence in error


@pytest.mark.parametrize(
    ("host", "allowed", "inside", "names"),
    [
        ("127.0.0.1", (), True, ("127.0.0.1",)),
        ("my.lan", ("cats.example", "[::7]", "10.0.0.1"), True, ("my.lan", "cats.example", "[::7]", "10.0.0.1")),
        ("192.0.2.7", (), False, None),
    ],
)
def test_names_by_which_a_server_may_be_called(
    host: str, allowed: tuple[str, ...], inside: bool, names: tuple[str, ...] | None
) -> None:
    assert _hosts(host, allowed, inside=inside) == names


def test_a_name_that_would_change_nothing() -> None:
    with pytest.raises(UsageError, match=r"--allow-host 'x' is for servers on loopback: on 192\.0\.2\.7 all names"):
        _hosts("192.0.2.7", ("x",), inside=False)


@pytest.mark.parametrize("file", [".", "my model.onnx"])
def test_a_file_whose_name_is_none_for_a_model(capsys: pytest.CaptureFixture[str], file: str) -> None:
    code, error = refused(capsys, file)
    assert code == 2
    assert error.startswith(f"{file!r}: a model's name has letters, ")
    assert error.endswith("; give --name NAME")


@pytest.mark.parametrize(("text", "pair"), [("1", (1, 1)), ("3", (3, 3)), ("1-4", (1, 4)), ("2-2", (2, 2))])
def test_numbers_of_replicas(text: str, pair: tuple[int, int]) -> None:
    assert _Replicas().convert(text, None, None) == pair
    assert _Replicas().convert(pair, None, None) == pair


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert _read_token(None) is None
    monkeypatch.setenv(TOKEN, "from-there")
    assert _read_token(None) == "from-there"
    assert _read_token(None) is None  # no process that is started later can read it
    (tmp_path / "token").write_text("from-here\n")
    assert _read_token(tmp_path / "token") == "from-here"


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"two\nlines", "ä".encode(), b"a\x00b", b"\xff"])
def test_tokens_that_no_client_can_send(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match=r"--token-file .*token' (has no token|is not text)"):
        _read_token(tmp_path / "token")


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be read: No such file"):
        _read_token(tmp_path / "token")


def test_an_open_server_is_warned_of(
    capsys: pytest.CaptureFixture[str], graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise click.ClickException("far enough")

    monkeypatch.setattr("export.serve.cluster.import_ray", lambda _address: None)
    monkeypatch.setattr("export.serve.listener.reserve", stop)
    monkeypatch.delenv(TOKEN, raising=False)
    for host, warned in (("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("::1", False), ("localhost", False)):  # noqa: S104
        run(GROUP, ["serve", str(graph), "--host", host])
        assert (f"warning: whoever reaches {host} can use this server" in capsys.readouterr().err) is warned
    monkeypatch.setenv(TOKEN, "x")
    run(GROUP, ["serve", str(graph), "--host", "0.0.0.0"])  # noqa: S104
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("replicas", "how", "host", "line"),
    [
        (Replicas(), How("cpu", threads=2), "127.0.0.1", "http://127.0.0.1:80 (1 replica with 2 threads)"),
        (Replicas(2, 2), How("cpu", threads=1), "h", "http://h:80 (2 replicas with 1 thread)"),
        (Replicas(1, 4, 1), How("cuda", threads=1), "::1", "http://[::1]:80 (1 to 4 replicas with a GPU)"),
    ],
)
def test_the_line_that_says_where_the_server_is(replicas: Replicas, how: How, host: str, line: str) -> None:
    plan = Plan("m", host, 80, how, Limits())
    assert _ready(plan, replicas, as_json=False) == f"serving m at {line}; Ctrl-C ends it"
