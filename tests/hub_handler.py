"""The endpoints of a fake Hub; see `tests/hub_server.py`."""

import json
import re
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub_repos import Commit, File, Repo, is_large

if TYPE_CHECKING:
    from tests.hub_server import HubServer

__all__ = ["Handler", "Refused"]

_CHUNK = 1 << 16


class Refused(Exception):  # noqa: N818  # an answer
    """An error to be answered with; `code` is the Hub's `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Handler(BaseHTTPRequestHandler):
    """One connection. An endpoint is a method; `_ROUTES` says which, with the parts of the path as arguments."""

    protocol_version = "HTTP/1.1"
    hub: "HubServer"

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.where = unquote(url.path)
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.note(self.command, self.where, self.token, self.headers.get("Range"))
        try:
            if stalled := self.hub.fault("stall", self.where):
                time.sleep(stalled.value)
            if failed := self.hub.fault("fail", self.where):
                raise Refused(int(failed.value), "injected")
            for methods, pattern, endpoint in _ROUTES:
                if self.command in methods.split() and (match := re.fullmatch(pattern, url.path)):
                    endpoint(self, **{key: unquote(part or "") for key, part in match.groupdict().items()})
                    return
            raise Refused(404, f"the fake Hub has no {self.command} {self.where}")
        except Refused as error:
            code = {"X-Error-Code": error.code} if error.code else {}
            self._send(
                error.status, json.dumps({"error": error.message}).encode(), {"X-Error-Message": error.message} | code
            )
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client went away

    def _send(self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | dict(headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _repo(self, name: str, *, write: bool = False) -> Repo:
        """Return a repository, if the token may see it, or write to it."""
        if self.token and self.token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.token):
            raise Refused(404 if self.token else 401, "Repository not found", "RepoNotFound")
        if write and not self.token:
            raise Refused(401, "Invalid username or password.")
        if write and not self.hub.tokens[self.token]:
            raise Refused(403, "Forbidden: you must use a write token to upload to a repository.")
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def resolve(self, repo: str, revision: str, path: str) -> None:
        found = self._repo(repo)
        if found.gated:
            raise Refused(
                403, f"Access to model {repo} is restricted and you are not in the authorized list.", "GatedRepo"
            )
        commit = self._commit(found, revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.tree:
            body = json.dumps({"error": "Entry not found"}).encode()
            self._send(404, body, headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        file = commit.tree[path]
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))}
            headers |= {"ETag": f'"pointer-{file.oid[:8]}"'}
            self._send(302, b"", headers | {"Location": f"{self.hub.storage}/{file.oid}/{repo}/{quote(path)}"})
        else:
            self._content(f"{repo}/{path}", file, headers)

    def storage(self, oid: str, repo: str, path: str) -> None:
        if self.token:
            self.hub.strangers.append(self.token)
        files = [c.tree[path] for c in self.hub.repos[repo].commits.values() if path in c.tree]
        self._content(f"{repo}/{path}", next(file for file in files if file.oid == oid), {})

    def _content(self, key: str, file: File, headers: dict[str, str]) -> None:
        """Send a file, or the range of it that was asked for, with what faults there are."""
        content, total = file.content, len(file.content)
        if broken := self.hub.fault("corrupt", key) if self.command == "GET" else None:
            at = int(broken.value)
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        asked = (self.headers.get("Range") if self.hub.ranges else None) or ""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "bytes=0-")
        assert wanted
        start, end = int(wanted[1]), int(wanted[2] or total - 1) + 1
        if start >= total > 0:
            self._send(416, b"", {"Content-Range": f"bytes */{total}"})
            return
        status = 206 if asked else 200
        headers |= {"ETag": f'"{file.oid}"', "Accept-Ranges": "bytes", "Content-Length": str(end - start)}
        if status == HTTPStatus.PARTIAL_CONTENT:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        self._send(status, b"", headers)
        cut = self.hub.fault("cut", key) if self.command == "GET" else None
        last = min(end, start + int(cut.value)) if cut else end
        begun, view = time.perf_counter(), memoryview(content)
        for at in range(start, last if self.command == "GET" else start, _CHUNK):
            piece = view[at : min(at + _CHUNK, last)]
            if self.hub.rate:
                time.sleep(max(0.0, begun + (at - start) / self.hub.rate - time.perf_counter()))
            self.wfile.write(piece)
            with self.hub.lock:
                self.hub.served[key] += len(piece)
        self.close_connection = cut is not None

    def info(self, repo: str, revision: str = "main") -> None:
        found = self._repo(repo)
        self._json(found.described(self._commit(found, revision)))

    def tree(self, repo: str, revision: str, path: str) -> None:
        found = self._repo(repo)
        recursive = self.query.get("recursive", ["false"])[0].lower() in {"true", "1"}
        self._json(found.listing(self._commit(found, revision), path.strip("/"), recursive=recursive))

    def paths_info(self, repo: str, revision: str) -> None:
        found = self._commit(self._repo(repo), revision).tree
        paths = parse_qs(self.body.decode()).get("paths", [])
        self._json([found[path].listed(path) for path in paths if path in found])

    def refs(self, repo: str) -> None:
        self._json(self._repo(repo).refs())

    def branch(self, repo: str, name: str) -> None:
        found = self._repo(repo, write=True)
        if name in found.branches:
            raise Refused(409, "Reference already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        found.branches[name] = self._commit(found, start).sha
        self._json({})

    def tag(self, repo: str, revision: str) -> None:
        found = self._repo(repo, write=True)
        found.tags[json.loads(self.body)["tag"]] = self._commit(found, revision).sha
        self._json({})

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization'] or 'user'}/{asked['name']}"
        if not self.hub.tokens.get(self.token):
            raise Refused(403 if self.token else 401, f'You don\'t have the rights to create a model under "{name}"')
        if name in self.hub.repos:
            raise Refused(409, "You already created this model repo")
        self.hub.create_repo(name, private=asked.get("visibility") == "private")
        self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def preupload(self, repo: str, revision: str) -> None:
        tree = self._commit(self._repo(repo, write=True), revision).tree
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large(file["path"], file["size"]) else "regular",
                "shouldIgnore": False,
                "oid": tree[file["path"]].oid if file["path"] in tree else None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def batch(self, repo: str) -> None:
        self._repo(repo, write=True)
        objects = []
        for one in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.storage}/{one['oid']}"},
                "verify": {"href": f"{self.hub.url}/api/verify"},
            }
            objects.append(one | ({} if one["oid"] in self.hub.uploads else {"actions": actions}))
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        self.hub.uploads[oid] = self.body
        self._send(200, b"", {"ETag": f'"{oid}"'})

    def verify(self) -> None:
        asked = json.loads(self.body)
        if len(self.hub.uploads.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "no such object")
        self._json({})

    def commit(self, repo: str, revision: str) -> None:
        found = self._repo(repo, write=True)
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        files: dict[str, bytes | File] = {}
        gone = [o["value"]["path"].rstrip("/") for o in operations if o["key"].startswith("deleted")]
        for operation in operations:
            value: dict[str, Any] = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = File(b64decode(value["content"]), lfs=False)
            elif operation["key"] == "lfsFile":
                files[value["path"]] = File(self.hub.uploads[value["oid"]], lfs=True)
        with self.hub.lock:
            if revision not in found.branches:
                raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            if header["value"].get("parentCommit") not in {None, found.branches[revision]}:
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            sha = found.add(files, header["value"]["summary"], revision, gone)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}"})

    def whoami(self) -> None:
        if self.token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        self._json({"type": "user", "name": "user", "orgs": []})

    def valid_yaml(self) -> None:
        self._json({"errors": [], "warnings": []})


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_API = rf"/api/models/{_REPO}"
_REV = r"(?P<revision>[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET HEAD", rf"/storage/(?P<oid>\w+)/{_REPO}/(?P<path>.+)", Handler.storage),
    ("GET HEAD", rf"/{_REPO}/resolve/{_REV}/(?P<path>.+)", Handler.resolve),
    ("GET", _API, Handler.info),
    ("GET", rf"{_API}/revision/{_REV}", Handler.info),
    ("GET", rf"{_API}/tree/{_REV}(?P<path>/.*)?", Handler.tree),
    ("GET", rf"{_API}/refs", Handler.refs),
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", rf"{_API}/paths-info/{_REV}", Handler.paths_info),
    ("POST", rf"{_API}/branch/(?P<name>.+)", Handler.branch),
    ("POST", rf"{_API}/tag/{_REV}", Handler.tag),
    ("POST", rf"{_API}/preupload/{_REV}", Handler.preupload),
    ("POST", rf"{_API}/commit/{_REV}", Handler.commit),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", Handler.batch),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.valid_yaml),
    ("POST", "/api/verify", Handler.verify),
    ("PUT", r"/storage/(?P<oid>\w+)", Handler.upload),
]
