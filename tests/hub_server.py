"""A Hugging Face Hub on the loopback interface, for the real `huggingface_hub` client to talk to.

    with HubServer() as hub:
        hub.create_repo("team/zoo", {"index.json": b"{}"})
        ...  # HF_ENDPOINT=hub.url

It speaks the endpoints that the client uses for models: resolve (with the redirect of LFS files to another origin,
ranges and ETags), info, tree, refs, branches, tags, preupload, LFS batch, commit and repository creation. Errors carry
the Hub's `X-Error-Code`. Where the Hub hides whether a repository exists, so does this one.

What it does is counted (`requests`, `served`), slowed down (`rate`) and broken (`cut`, `corrupt`, `fail`, `stall`).
"""

import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self

from tests.hub_handler import Handler
from tests.hub_repos import Repo

__all__ = ["Fault", "HubServer", "Request"]


@dataclass(frozen=True)
class Request:
    """A request that came in; `path` is unquoted and has no query."""

    method: str
    path: str
    authorized: bool
    range: str | None


@dataclass
class Fault:
    """Something that goes wrong for some requests; `times` is how often it still does, a negative number for always."""

    kind: Literal["cut", "corrupt", "fail", "stall"]
    fragment: str
    value: float
    times: int


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that go away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class HubServer:
    """The server. Use it as a context manager.

    Attributes:
        url: for `HF_ENDPOINT`.
        repos: by name, `org/name`.
        tokens: token -> whether it may write. Every known token sees private repositories.
        requests: all that came in, in order.
        served: bytes of content that were sent, by `org/name/path`.
        rate: bytes a second that each response gets; None for as many as there can be.
        ranges: whether ranges are served; else every answer is the whole file.
        strangers: tokens that were sent where files are stored, which is not the Hub: there must be none.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, bool] = {}
        self.requests: list[Request] = []
        self.served: Counter[str] = Counter()
        self.rate: float | None = None
        self.ranges = True
        self.strangers: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._server = _Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage = f"http://localhost:{self._server.server_port}/storage"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def create_repo(
        self, name: str, files: Mapping[str, bytes] | None = None, *, private: bool = False, gated: bool = False
    ) -> str:
        """Create a repository and return the hash of its last commit."""
        repo = self.repos[name] = Repo(name, private, gated)
        return repo.add(files, "files") if files else repo.branches["main"]

    def commit(self, name: str, files: Mapping[str, bytes], branch: str = "main", message: str = "more") -> str:
        """Commit files as somebody else would, and return the commit's hash; a missing branch starts empty."""
        with self.lock:
            return self.repos[name].add(files, message, branch)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a revision, without the `.gitattributes` that every repository begins with."""
        commit = self.repos[name].find(revision)
        assert commit is not None
        return {path: file.content for path, file in commit.tree.items() if path != ".gitattributes"}

    def count(self, method: str | None = None, fragment: str = "") -> int:
        """Return how many requests there were, of a method, with a fragment in their path."""
        return sum(r.method == (method or r.method) and fragment in r.path for r in self.requests)

    def cut(self, fragment: str, after: int, times: int = 1) -> None:
        """Break the connection after so many bytes of a response's content."""
        self._faults.append(Fault("cut", fragment, after, times))

    def corrupt(self, fragment: str, at: int = 0, times: int = -1) -> None:
        """Serve a file with one byte changed: size and headers are as ever."""
        self._faults.append(Fault("corrupt", fragment, at, times))

    def fail(self, fragment: str, status: int = 500, times: int = 1) -> None:
        """Answer with an error."""
        self._faults.append(Fault("fail", fragment, status, times))

    def stall(self, fragment: str, seconds: float, times: int = 1) -> None:
        """Wait before an answer."""
        self._faults.append(Fault("stall", fragment, seconds, times))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def note(self, method: str, path: str, token: str, wanted: str | None) -> None:
        """Count a request."""
        self.requests.append(Request(method, path, bool(token), wanted))

    def fault(self, kind: str, path: str) -> Fault | None:
        """Return a fault that befalls a request for `path`, and count it."""
        with self.lock:
            for fault in self._faults:
                if fault.kind == kind and fault.fragment in path and fault.times:
                    fault.times -= 1
                    return fault
        return None
