"""What the server can do, path by path."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from export.serve.batcher import Batcher, Done
from export.serve.encoding import unpack
from export.serve.exchange import Reply, Request
from export.serve.extensions import EXTENSIONS, index, model_config, model_statistics, why_not
from export.serve.inference import Inference, json_length, parse_inference
from export.serve.inferred import render_inference
from export.serve.intake import Gone, Held, Intake
from export.serve.interface import VERSION
from export.serve.limits import Limits
from export.serve.metrics import CONTENT_TYPE, Family, Metrics, render, total
from export.serve.pictures import Room, describe, picture_of
from export.serve.problem import Problem
from export.serve.served import Served
from export.serve.workers import Workers

__all__ = ["Endpoint", "Endpoints"]

_T = TypeVar("_T")

_QUICK = 32_768  # bytes or numbers that are read or written faster than a thread is asked to
_THREADS = 2  # for pictures, for JSON, and for what is compressed: none waits for another
_TOP = 5
_GET, _POST = frozenset({"GET", "HEAD"}), frozenset({"POST"})
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

Others = Callable[[], Awaitable[Iterable[Iterable[Family]]]]
"""What the other replicas count."""


async def _nowhere(request: Request) -> NoReturn:
    raise Problem(404, why_not(request.path))


@dataclass(frozen=True)
class Endpoint:
    """Something that the server can do.

    Attributes:
        name: in metrics.
        methods: of HTTP.
        answer: coroutine that does it.
        open: whether no token is needed.
    """

    name: str
    methods: frozenset[str]
    answer: Callable[[Request], Awaitable[Reply]] = _nowhere
    open: bool = False


class Endpoints:
    """All that a replica can do.

    Args:
        served: what answers.
        name: of the model.
        limits: of requests.
        metrics: where they are counted.
        others: what other replicas count [default: there are none].
        lanes: batches that run at once.

    Attributes:
        draining: whether the replica is about to end, and not ready for more.
    """

    def __init__(
        self,
        served: Served,
        *,
        name: str,
        limits: Limits,
        metrics: Metrics,
        others: Others | None = None,
        lanes: int = 1,
    ) -> None:
        self.served, self.name, self.limits, self.metrics, self._others = served, name, limits, metrics, others
        self.draining = False
        self.batcher = Batcher(
            served.answer, max_batch=limits.max_batch, max_delay=limits.max_delay, lanes=lanes, ran=self._ran
        )
        self.intake = Intake(limits.max_queue, limits.bodies)
        self._pictures, self._texts = Workers(_THREADS, "pictures"), Workers(_THREADS, "json")
        self._unpackers, self._unpacking = Workers(_THREADS, "unpack"), asyncio.Semaphore(_THREADS)
        self._room = Room(limits.max_pixels)
        metrics.queue_images.set_function(lambda: self.batcher.waiting)
        metrics.inside.set_function(lambda: self.intake.inside)
        page = resources.files("export.serve") / "page"
        self._page = {path: (page.joinpath(file).read_bytes(), kind) for path, (file, kind) in _PAGE.items()}
        self._fixed = {
            "/v2": Endpoint("server", _GET, self._server),
            "/v2/health/live": Endpoint("live", _GET, self._live, open=True),
            "/v2/health/ready": Endpoint("ready", _GET, self._ready, open=True),
            "/classify": Endpoint("classify", _POST, self._classify),
            "/metrics": Endpoint("metrics", _GET, self._count),
            "/v2/repository/index": Endpoint("repository", _POST, self._index),
            **{path: Endpoint("page", _GET, self._show, open=True) for path in _PAGE},
        }
        if name != "stats":  # whose metadata would be there
            self._fixed["/v2/models/stats"] = Endpoint("statistics", _GET, self._statistics)
        self._of_model = {
            "": Endpoint("model", _GET, self._describe),
            "ready": Endpoint("model_ready", _GET, self._model_ready, open=True),
            "infer": Endpoint("infer", _POST, self._infer),
            "config": Endpoint("config", _GET, self._config),
            "stats": Endpoint("statistics", _GET, self._statistics),
        }

    def close(self) -> None:
        """End the threads."""
        self.batcher.close()
        self._pictures.close()
        self._texts.close()
        self._unpackers.close()

    def find(self, request: Request) -> Endpoint:
        """Return what a path stands for."""
        path = request.path.rstrip("/") or request.path[:1]  # none, if what came was no request
        if path in self._fixed:
            return self._fixed[path]
        if path.startswith("/v2/models/"):
            name, _, rest = path.removeprefix("/v2/models/").partition("/")
            version, verb = VERSION, rest
            if rest == "versions" or rest.startswith("versions/"):
                version, _, verb = rest.removeprefix("versions").removeprefix("/").partition("/")
            if verb in self._of_model:
                return self._model(name, version, verb)
        return Endpoint("other", frozenset())

    def _model(self, name: str, version: str, verb: str) -> Endpoint:
        """Return what can be done with a model, or an endpoint that says which one there is."""
        known = self._of_model[verb]
        if (name, version) == (self.name, VERSION):
            return known

        async def unknown(request: Request) -> NoReturn:
            del request
            what = f"version {version[:40]!r} of model" if name == self.name else "model"
            raise Problem(404, f"there is no {what} {name[:80]!r}: this server has {self.name!r}, version {VERSION}")

        return Endpoint(known.name, known.methods, unknown, open=known.open)

    async def _server(self, request: Request) -> Reply:
        del request
        return _json({"name": "menagerie", "version": _version(), "extensions": list(EXTENSIONS)})

    async def _live(self, request: Request) -> Reply:
        del request
        return _json({"live": True})

    async def _ready(self, request: Request) -> Reply:
        del request
        return _json({"ready": not self.draining}, status=503 if self.draining else 200)

    async def _model_ready(self, request: Request) -> Reply:
        del request
        return _json({"name": self.name, "ready": not self.draining}, status=503 if self.draining else 200)

    async def _describe(self, request: Request) -> Reply:
        del request
        return _json(self.served.interface.metadata(self.name))

    async def _show(self, request: Request) -> Reply:
        body, kind = self._page[request.path.rstrip("/") or "/"]
        headers = [(b"cache-control", b"no-cache"), (b"content-security-policy", _POLICY)]
        headers.append((b"referrer-policy", b"no-referrer"))
        return Reply(body, f"{kind}; charset=utf-8", headers=tuple(headers))

    async def _config(self, request: Request) -> Reply:
        del request
        return _json(model_config(self.served.interface, self.limits, self.name))

    async def _statistics(self, request: Request) -> Reply:
        del request
        return _json(model_statistics(await self._counted(), self.name))

    async def _index(self, request: Request) -> Reply:
        with self.intake.admitted() as held:
            body = await held.read(request.receive, request.headers, most=_QUICK, seconds=self.limits.read_timeout)
        return _json(index(body, self.name, ready=not self.draining))

    async def _count(self, request: Request) -> Reply:
        del request
        return Reply(render(await self._counted()), CONTENT_TYPE)

    async def _counted(self) -> list[Family]:
        """Return what all replicas count."""
        others = await self._others() if self._others is not None else []
        return total([self.metrics.families(), *others])

    async def _infer(self, request: Request) -> Reply:
        interface, limits = self.served.interface, self.limits
        with self.intake.admitted() as held, self.batcher.arriving() as here:
            most = limits.tensor_body(interface.image_bytes)
            body = await held.read(request.receive, request.headers, most=most, seconds=limits.read_timeout)
            encoding = request.header(b"content-encoding")
            head = request.headers.get(b"inference-header-content-length")

            until = self._deadline()
            if encoding:
                body = await self._wait(self._unpack(body, encoding, most, held), request, until)

            def parse() -> Inference:
                return parse_inference(body, head, interface, limits.max_batch)

            if json_length(body, head) <= _QUICK:
                asked = parse()
            else:
                asked = await self._wait(self._texts.run(parse), request, until)
            request.notes["images"] = len(asked.images)
            done = await self._ask(asked.images, here, request, until)

            def write() -> tuple[bytes, int | None]:
                return render_inference(done.answer, asked.outputs, done.interface, name=self.name, request_id=asked.id)

            numbers = len(asked.images) * len(interface.classes) * (1 + len(interface.members))
            if numbers <= _QUICK:
                content, length = write()
            else:
                content, length = await self._wait(self._texts.run(write), request, until)
        if length is None:
            return Reply(content)
        return Reply(
            content, "application/octet-stream", headers=((b"inference-header-content-length", str(length).encode()),)
        )

    async def _classify(self, request: Request) -> Reply:
        interface, limits = self.served.interface, self.limits
        top = request.query("top") or str(min(_TOP, len(interface.classes)))
        if not top.isdecimal() or len(top) > 9 or not 1 <= int(top) <= len(interface.classes):  # noqa: PLR2004
            raise Problem(400, f"'top' is {top[:20]!r}: from 1 to {len(interface.classes)} classes can be shown")
        with self.intake.admitted() as held, self.batcher.arriving() as here:
            body = await held.read(request.receive, request.headers, most=limits.max_body, seconds=limits.read_timeout)
            kind, encoding = request.header(b"content-type"), request.header(b"content-encoding")

            until = self._deadline()
            if encoding:
                body = await self._wait(self._unpack(body, encoding, limits.max_body, held), request, until)

            def decode() -> npt.NDArray[np.uint8]:
                return picture_of(body, kind, interface.size, most_pixels=limits.max_pixels, room=self._room.taken)

            image = await self._wait(self._pictures.run(decode), request, until)
            request.notes["images"] = 1
            done = await self._ask(image, here, request, until)
        return _json({"model": self.name, **describe(done.answer, done.interface, top=int(top))})

    async def _unpack(self, body: bytes, encoding: str, most: int, held: Held) -> bytes:
        """Return a body as it was before it was compressed; errors as in `unpack`, and 429 if there is no memory.

        Nobody knows before how large it is, so it holds the most that it may have while it is unpacked. Those who wait
        for a thread hold nothing; whoever fails or has gone gives everything back as its block ends.
        """
        async with self._unpacking:
            held.take(most)
            content = await self._unpackers.run(lambda: unpack(body, encoding, most))
            held.give(most - len(content))
        return content

    def _deadline(self) -> float:
        """Return when a request that has just been read has waited long enough, in the loop's time."""
        return asyncio.get_running_loop().time() + self.limits.timeout

    async def _ask(
        self, images: npt.NDArray[np.uint8], here: Callable[[], None], request: Request, until: float
    ) -> Done:
        """Return what the network says; errors as in `_wait`."""
        done = await self._wait(self.batcher.submit(images, here), request, until)
        self.metrics.images.inc(len(images))
        self.metrics.queue_seconds.observe(done.waited)
        request.notes |= {"batch": done.batch, "queue_ms": round(1000 * done.waited, 3)}
        return done

    async def _wait(self, work: Coroutine[Any, Any, _T], request: Request, until: float) -> _T:
        """Return what some work comes to, unless the client hangs up or has waited long enough."""
        loop = asyncio.get_running_loop()
        asked, gone = loop.create_task(work), loop.create_task(request.receive())
        try:
            await asyncio.wait({asked, gone}, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            if gone.done():
                raise Gone
            raise Problem(
                503, f"the answer did not come within {self.limits.timeout:g} seconds: try again later", retry_after=5
            )
        finally:
            asked.cancel()
            gone.cancel()

    def _ran(self, images: int, seconds: float) -> None:
        self.metrics.batch_images.observe(images)
        self.metrics.batch_seconds.observe(seconds)


def _json(table: dict[str, Any] | list[dict[str, str]], *, status: int = 200) -> Reply:
    return Reply(json.dumps(table, ensure_ascii=False).encode(), status=status)


def _version() -> str:
    """Return this package's version; a checkout that is not installed has none."""
    try:
        return metadata.version("menagerie")
    except metadata.PackageNotFoundError:
        return "unknown"
