"""`ensemble serve`: an exported graph behind HTTP."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.group import complain, one_line
from zoo.cli.types import PATH, TEXT, FiniteRange
from zoo.errors import MenagerieError, NotFoundError, UsageError

if TYPE_CHECKING:
    from export.serve.cluster import Replicas
    from export.serve.foreground import Signals, Streams
    from export.serve.replica import Plan
    from export.serve.server import Server

__all__ = ["command"]

TOKEN = "MENAGERIE_TOKEN"  # noqa: S105  # the variable's name
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?")
_WATCH = 5.0
"""Seconds between two looks at whether there still are replicas."""
_LINES = 0.5
"""Seconds between two looks at whether the log is to end."""


class _Replicas(click.ParamType[tuple[int, int]]):
    name = "N|MIN-MAX"

    def convert(
        self,
        value: Any,  # noqa: ANN401  # click's
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([1-9]\d{0,3})(?:-([1-9]\d{0,3}))?", str(value))
        if found is None or int(found[2] or found[1]) < int(found[1]):
            self.fail(f"{value!r} is neither a number of replicas nor a range such as 1-4", param, ctx)
        return int(found[1]), int(found[2] or found[1])


class _Host(click.ParamType[str]):
    name = "NAME"

    def convert(
        self,
        value: Any,  # noqa: ANN401  # click's
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        if not _HOST.fullmatch(str(value)):
            self.fail(f"{value!r} is no name: give it as in cats.example, without scheme and port", param, ctx)
        return str(value)


@click.command("serve")
@click.argument("model", metavar="MODEL", type=PATH)
@click.option("--host", type=TEXT, default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--name", type=TEXT, help="Of the model, in the protocol's paths [default: that of the file].")
@click.option("--replicas", type=_Replicas(), default="1", show_default=True, help="With a range, as many as are busy.")
@click.option(
    "--device", type=TEXT, help="cpu, cuda, tensorrt [default: cuda if Ray has GPUs]; a replica takes one GPU."
)
@click.option("--allow-cpu", is_flag=True, help="Take the CPU where the device cannot run the graph.")
@click.option("--threads", type=click.IntRange(min=1), help="Of a replica on a CPU [default: all, divided among them].")
@click.option("--max-batch", type=click.IntRange(1, 4096), default=64, show_default=True, help="Images in a batch.")
@click.option(
    "--max-delay-ms",
    type=FiniteRange(0, 1000),
    default=2.0,
    show_default=True,
    help="A batch waits so long for requests that are arriving.",
)
@click.option("--max-queue", type=click.IntRange(1), default=256, show_default=True, help="Requests; more get 429.")
@click.option("--max-body-mb", type=FiniteRange(0.001, 2048), default=16.0, show_default=True, help="Of a request.")
@click.option(
    "--max-pixels", type=click.IntRange(1, 100_000_000), default=25_000_000, show_default=True, help="Of a picture."
)
@click.option("--timeout", type=FiniteRange(0.001), default=30.0, show_default=True, help="Seconds in the queue.")
@click.option(
    "--read-timeout", type=FiniteRange(0.001), default=30.0, show_default=True, help="Seconds to send a request."
)
@click.option(
    "--write-timeout", type=FiniteRange(0.001), default=30.0, show_default=True, help="Seconds to read an answer."
)
@click.option("--token-file", type=PATH, help=f"File with a token that clients must send [default: ${TOKEN}].")
@click.option(
    "--allow-host",
    "allow_hosts",
    type=_Host(),
    multiple=True,
    help="Name by which a server on loopback may be called, too, such as a proxy's; give it again for more.",
)
@click.option("--pid-file", type=PATH, help="File for the number of this process, while the server is ready.")
@click.option("--address", type=TEXT, help="Ray cluster to run on, HOST:PORT or auto [default: one of its own].")
@click.option("--access-log", is_flag=True, help="One line of JSON for every request, on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Say where the server is as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say where the server is, nor that a model was reloaded.")
def command(
    *,
    model: Path,
    host: str,
    port: int,
    name: str | None,
    replicas: tuple[int, int],
    device: str | None,
    allow_cpu: bool,
    threads: int | None,
    max_batch: int,
    max_delay_ms: float,
    max_queue: int,
    max_body_mb: float,
    max_pixels: int,
    timeout: float,
    read_timeout: float,
    write_timeout: float,
    token_file: Path | None,
    allow_hosts: tuple[str, ...],
    pid_file: Path | None,
    address: str | None,
    access_log: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Serve an exported graph: the Open Inference Protocol, pictures at /classify, and a page at /.

    MODEL is what `ensemble export` wrote. The server is ready when its address is printed. Ctrl-C or SIGTERM ends it
    once requests under way are answered; SIGHUP rolls in the file anew, without a request lost.

    \b
      ensemble serve model.onnx
      ensemble serve model.onnx --host 0.0.0.0 --token-file token --replicas 1-4
      curl --data-binary @cat.jpg http://127.0.0.1:8000/classify
    """
    label = _label(name, model)
    token = _read_token(token_file)
    from export.serve.models import check_model

    check_model(model)
    from export.serve.cluster import connected, import_ray, other_machines, share

    import_ray(address)
    from export.runtime.providers import threads_of
    from export.serve.app import token_digest
    from export.serve.foreground import Signals, own_streams, until_stopped
    from export.serve.limits import MEBIBYTE, Limits
    from export.serve.listener import is_loopback, reserve
    from export.serve.pidfile import pid_file as own_pid_file
    from export.serve.reaper import reaper
    from export.serve.replica import Plan
    from export.serve.served import How
    from export.serve.server import serving

    inside = is_loopback(host)
    if token is None and not inside:
        complain(f"warning: whoever reaches {host} can use this server: give it a token (--token-file, or ${TOKEN})")
    hosts = _hosts(host, allow_hosts, inside=inside)
    how = How(device=device, allow_cpu=allow_cpu, threads=threads, largest=max_batch)
    limits = Limits(
        max_batch=max_batch,
        max_delay=max_delay_ms / 1000,
        max_queue=max_queue,
        max_body=int(max_body_mb * MEBIBYTE),
        max_pixels=max_pixels,
        timeout=timeout,
        read_timeout=read_timeout,
        write_timeout=write_timeout,
        max_connections=max(1024, 4 * max_queue),
    )
    cpus = max(threads_of(None), (threads or 1) * replicas[1])
    with (
        own_pid_file(pid_file) as write_pid,
        reserve(host, port) as held,
        Signals() as signals,
        own_streams() as streams,
        until_stopped(),
        reaper() as folder,
        connected(address, cpus) as ray,
    ):
        signals.take()
        if address is not None and inside and (others := other_machines(ray)):
            streams.note(
                f"warning: replicas on other machines ({', '.join(others)}) listen on their own {host}, where nobody"
                " reaches them: give --host 0.0.0.0"
            )
        wanted, how = share(ray, how, *replicas)
        digest = None if token is None else token_digest(token)
        plan = Plan(label, host, held.getsockname()[1], how, limits, token=digest, hosts=hosts, log=access_log)
        with _log(streams) as begin_log, serving(ray, model, plan, wanted, folder) as server:
            server.wait()
            signals.gently()
            write_pid()
            if as_json or not quiet:
                streams.say(_ready(plan, wanted, as_json=as_json))
            begin_log(server)
            _watch(server, model, signals, streams, quiet=quiet)


def _watch(server: "Server", model: Path, signals: "Signals", streams: "Streams", *, quiet: bool) -> None:
    """Reload when asked to, and return when asked to stop."""
    while (asked := signals.wait(_WATCH)) != "stop":
        if asked == "reload":
            try:
                done = server.reload(model, lambda: signals.stopping)
            except MenagerieError as error:
                streams.note(f"error: {one_line(str(error))}; the model of before is still served")
            else:
                if done and not quiet:
                    streams.note(f"{model} is rolled in")
        server.serving()  # an error if Ray is gone


@contextmanager
def _log(streams: "Streams") -> Iterator[Callable[["Server"], None]]:
    """Yield what begins to print a server's log. The block ends with its last line: nobody may ask a Ray that ends."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def work(server: "Server") -> None:
        with suppress(MenagerieError):
            while True:
                last = ended.is_set()
                lines = server.lines(0 if last else _LINES)
                if lines:
                    streams.note(*lines)
                if last:
                    return

    def begin(server: "Server") -> None:
        threads.append(threading.Thread(target=work, args=(server,), name="log", daemon=True))
        threads[-1].start()

    try:
        yield begin
    finally:
        ended.set()
        for thread in threads:
            thread.join(_WATCH)


def _ready(plan: "Plan", replicas: "Replicas", *, as_json: bool) -> str:
    """Return the line that says where the server is."""
    url = f"http://{f'[{plan.host}]' if ':' in plan.host else plan.host}:{plan.port}"
    number: Any = replicas.least if replicas.least == replicas.most else [replicas.least, replicas.most]
    if as_json:
        table = {"url": url, "host": plan.host, "port": plan.port, "model": plan.name, "replicas": number}
        return json.dumps({**table, "device": plan.how.device, "threads": plan.how.threads, "pid": os.getpid()})
    each = f"{plan.how.threads} thread{'s' * (plan.how.threads != 1)}" if plan.how.device == "cpu" else "a GPU"
    several = f"{number}" if isinstance(number, int) else f"{number[0]} to {number[1]}"
    return f"serving {plan.name} at {url} ({several} replica{'s' * (number != 1)} with {each}); Ctrl-C ends it"


def _label(name: str | None, model: Path) -> str:
    """Return the model's name in paths; `UsageError` if what was given, or else the file's, cannot stand in one."""
    rule = "a model's name has letters, digits, '.', '_' and '-', and begins with a letter or digit"
    label = model.stem if name is None else name
    if _NAME.fullmatch(label):
        return label
    raise UsageError(f"{str(model)!r}: {rule}; give --name NAME" if name is None else f"--name {name!r}: {rule}")


def _hosts(host: str, allowed: tuple[str, ...], *, inside: bool) -> tuple[str, ...] | None:
    """Return the names that a server on loopback answers to besides that; None elsewhere, where it answers to any.

    Raises:
        UsageError: a name would change nothing.
    """
    if not inside and allowed:
        raise UsageError(f"--allow-host {allowed[0]!r} is for servers on loopback: on {host} all names are answered")
    return (host, *allowed) if inside else None


def _read_token(file: Path | None) -> str | None:
    """Return the token of a file or of the environment, and take it from there: nobody else needs it.

    Raises:
        NotFoundError: the file cannot be read.
        UsageError: there is none in it, or something that no client can send.
    """
    told = os.environ.pop(TOKEN, None)
    if file is None and told is None:
        return None
    try:
        token = (file.read_text() if file is not None else told or "").strip()
    except OSError as error:
        raise NotFoundError(f"--token-file {str(file)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--token-file {str(file)!r} is not text") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        where = f"--token-file {str(file)!r}" if file is not None else f"${TOKEN}"
        raise UsageError(f"{where} has no token: one line of letters, digits and signs, without blanks")
    return token
