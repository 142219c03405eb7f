"""A Hub on this machine: the Hugging Face Hub's protocol over HTTP, its repositories in memory.

    with hub_server.serving() as hub:
        commit = hub.add("USER/NAME", {"config.json": b"{}"})
        HfApi(endpoint=hub.url, token=hub.token) ...
        hub.fault("PUT /lfs", status=503)          # the next such request fails
        assert hub.count("PUT /lfs") == 2

What its repositories hold is in `hub_contents`. Large files go through LFS and are served from another host name, as
on the real Hub.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub_contents import Contents, Entry, Repository, git_hash, is_large
from tests.hub_faults import Faults


class Hub(Faults, Contents):
    """A running server.

    Attributes:
        url: What to give as `endpoint`.
        token: Of the user `USER`, who may write; `reader` is one of `USER` who may only read, `other` of `OTHER`.
        requests: Every request so far, `METHOD path`, in order.
    """

    token, reader, other = "hf_writer", "hf_reader", "hf_other"

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []
        self.authorised: list[tuple[str, str]] = []
        self.users = {
            self.token: ("USER", "write"),
            self.reader: ("USER", "read"),
            self.other: ("OTHER", "write"),
        }
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.hub = self
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://localhost:{self.port}"

    def count(self, pattern: str) -> int:
        """Count the requests so far whose `METHOD path` a regular expression is found in."""
        return sum(re.search(pattern, request) is not None for request in self.requests)


@contextmanager
def serving() -> Generator[Hub]:
    """Run a Hub on a free port of this machine for the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


class _Error(Exception):
    def __init__(self, status: int, message: str, code: str = "", **more: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class _CutError(Exception):
    """The connection is to be closed without an answer."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections are cut on purpose here: nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else an answer of two writes takes 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _any(self) -> None:
        hub = self.server.hub
        request = f"{self.command} {self.path}"
        hub.requests.append(request)
        hub.authorised.append((request, self.headers.get("Authorization") or ""))
        fault = hub.take_fault(request)
        self.cut_after: int | None = fault.cut_after if fault else None
        try:
            if fault and fault.wait:
                sleep(fault.wait)
            self.body = self._read_body()
            if fault and fault.status is not None:
                self._tell({"error": fault.message}, fault.status, dict(fault.headers))
                return
            self.lost = bool(fault and fault.lost)
            address = urlsplit(self.path)
            self.query = parse_qs(address.query)
            self._dispatch([unquote(part) for part in address.path.strip("/").split("/")])
        except _Error as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            self._tell({"error": str(error), **error.more}, error.status, headers)
        except (_CutError, BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any  # noqa: N815

    def _read_body(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        length = int(self.headers.get("Content-Length") or 0)
        if self.cut_after is not None and length > self.cut_after:
            self.rfile.read(self.cut_after)
            raise _CutError
        body = self.rfile.read(length)
        if len(body) < length:
            raise _CutError
        return body

    def _tell(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._send(
            json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})}
        )

    def _send(self, content: bytes, status: int, headers: Mapping[str, str]) -> None:
        if getattr(self, "lost", False):
            raise _CutError
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut_after is not None:
            self.wfile.write(content[: self.cut_after])
            self.wfile.flush()
            raise _CutError
        self.wfile.write(content)

    def _dispatch(self, parts: list[str]) -> None:
        hub = self.server.hub
        match parts:
            case ["api", "whoami-v2"]:
                name, role = self._user()
                self._tell(
                    {"type": "user", "name": name, "orgs": [], "auth": {"accessToken": {"role": role}}}
                )
            case ["api", "validate-yaml"]:
                self._tell({"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                self._create()
            case ["api", "models", owner, name, *rest]:
                self._api(f"{owner}/{name}", rest)
            case [owner, name, "resolve", revision, *path] if path:
                self._resolve(f"{owner}/{name}", revision, "/".join(path))
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self._batch(f"{owner}/{name.removesuffix('.git')}")
            case ["lfs", owner, name, sha] if self.command == "PUT":
                if hashlib.sha256(self.body).hexdigest() != sha:
                    raise _Error(400, "the object is not what its name says")
                with hub.lock:
                    hub.objects[sha] = self.body
                self._send(b"", 200, {"ETag": f'"{sha}"'})
            case ["lfs", owner, name, sha]:
                self._serve(hub.objects[sha], {"ETag": f'"{sha}"'})
            case ["verify", owner, name]:
                told = json.loads(self.body)
                kept = hub.objects.get(told["oid"])
                if kept is None or len(kept) != told["size"]:
                    raise _Error(404, "there is no such object")
                self._tell({})
            case _:
                raise _Error(404, f"there is nothing at {self.path}")

    def _user(self) -> tuple[str, str]:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not given:
            raise _Error(401, "Invalid username or password.")
        if given not in self.server.hub.users:
            raise _Error(401, "Invalid credentials in Authorization header")
        return self.server.hub.users[given]

    def _repository(self, repo: str, *, write: bool = False) -> Repository:
        hub = self.server.hub
        made = hub.repositories.get(repo)
        told = bool(self.headers.get("Authorization"))
        name, role = self._user() if told or write else ("", "")
        if made is None or (made.private and name != repo.split("/")[0]):
            raise _Error(404 if told else 401, "Repository not found", "RepoNotFound")
        if write and (name != repo.split("/")[0] or role != "write"):
            raise _Error(403, "You do not have the rights to write here")
        return made

    def _revision(self, made: Repository, revision: str) -> str:
        sha = made.resolve(revision)
        if sha is None:
            raise _Error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def _create(self) -> None:
        hub, asked = self.server.hub, json.loads(self.body)
        name, role = self._user()
        owner = asked.get("organization") or name
        repo = f"{owner}/{asked['name']}"
        if owner != name or role != "write":
            raise _Error(403, f"You don't have the rights to create a model under the namespace {owner}")
        with hub.lock:
            if repo in hub.repositories:
                raise _Error(409, "You already created this model repo", url=f"{hub.url}/{repo}")
            hub.make(repo, private=bool(asked.get("private")) or asked.get("visibility") == "private")
        self._tell({"url": f"{hub.url}/{repo}", "name": repo})

    def _api(self, repo: str, rest: list[str]) -> None:
        hub = self.server.hub
        made = self._repository(repo, write=self.command == "POST" and rest[:1] != ["paths-info"])
        match self.command, rest:
            case "GET", [] | ["revision", _]:
                sha = self._revision(made, rest[1] if rest else "main")
                siblings = [{"rfilename": path} for path in sorted(made.commits[sha].tree)]
                told = {
                    "_id": repo,
                    "id": repo,
                    "modelId": repo,
                    "private": made.private,
                    "sha": sha,
                    "tags": [],
                }
                self._tell(told | {"siblings": siblings, "downloads": 0, "likes": 0})
            case "GET", ["refs"]:
                branches = [
                    {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
                    for name, sha in made.branches.items()
                ]
                self._tell({"branches": branches, "tags": [], "converts": []})
            case "GET", ["tree", revision, *_]:
                tree = made.commits[self._revision(made, revision)].tree
                self._tell([_listed(path, entry) for path, entry in sorted(tree.items())])
            case "POST", ["paths-info", revision]:
                tree = made.commits[self._revision(made, revision)].tree
                asked = (
                    json.loads(self.body)["paths"]
                    if self.body[:1] == b"{"
                    else parse_qs(self.body.decode())["paths"]
                )
                self._tell([_listed(path, tree[path]) for path in asked if path in tree])
            case "POST", ["preupload", revision]:
                tree = made.commits[self._revision(made, revision)].tree
                self._tell({"files": [self._mode(file, tree) for file in json.loads(self.body)["files"]]})
            case "POST", ["branch", branch]:
                start = json.loads(self.body or b"{}").get("startingPoint") or "main"
                with hub.lock:
                    if branch in made.branches:
                        raise _Error(409, f"Reference already exists: {branch}")
                    made.branches[branch] = self._revision(made, start)
                self._tell({})
            case "POST", ["commit", branch]:
                self._commit(repo, made, branch)
            case _:
                raise _Error(404, f"there is nothing at {self.path}")

    def _commit(self, repo: str, made: Repository, branch: str) -> None:
        hub = self.server.hub
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        with hub.lock:
            if branch not in made.branches:
                raise _Error(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            header = lines[0]["value"]
            head = made.branches[branch]
            if header.get("parentCommit", head) != head:
                raise _Error(412, "A commit has happened since. Please refresh and try again.")
            tree = dict(made.commits[head].tree)
            for line in lines[1:]:
                value = line["value"]
                path = value["path"]
                match line["key"]:
                    case "file":
                        content = base64.b64decode(value["content"])
                        tree[path] = Entry(git_hash(content), len(content))
                        hub.blobs[git_hash(content)] = content
                    case "lfsFile":
                        if value["oid"] not in hub.objects:
                            raise _Error(400, f"the LFS object of {path} was never uploaded")
                        tree[path] = hub.pointer(value["oid"], len(hub.objects[value["oid"]]))
                    case "deletedFile":
                        if tree.pop(path, None) is None:
                            raise _Error(404, "A file with this name doesn't exist", "EntryNotFound")
                    case other:
                        raise _Error(400, f"no such operation: {other}")
            sha = hub.commit(made, branch, tree, header["summary"])
        url = f"{hub.url}/{repo}/commit/{sha}"
        self._tell({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _mode(self, file: dict[str, Any], tree: dict[str, Entry]) -> dict[str, Any]:
        sample = base64.b64decode(file.get("sample") or "")
        large = is_large(file["path"], sample, file.get("size", 0))
        there = tree.get(file["path"])
        ignored = tree.get(".gitignore")
        patterns = self.server.hub.content(ignored).decode().split() if ignored else []
        return {
            "path": file["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": any(fnmatch(file["path"], pattern) for pattern in patterns),
            "oid": (there.lfs or there.oid) if there else None,
        }

    def _batch(self, repo: str) -> None:
        hub, asked = self.server.hub, json.loads(self.body)
        self._repository(repo, write=True)
        told: list[dict[str, Any]] = []
        for item in asked["objects"]:
            answer = {"oid": item["oid"], "size": item["size"], "authenticated": True}
            if item["oid"] not in hub.objects:
                upload = {"href": f"{hub.storage}/lfs/{repo}/{item['oid']}"}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{hub.url}/verify/{repo}"}}
            told.append(answer)
        self._tell({"transfer": "basic", "objects": told})

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        hub = self.server.hub
        made = self._repository(repo)
        sha = self._revision(made, revision)
        entry = made.commits[sha].tree.get(path)
        if entry is None:
            raise _Error(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry.oid}"'}
        if not entry.lfs:
            self._serve(hub.blobs[entry.oid], headers)
            return
        linked = {"X-Linked-Etag": f'"{entry.lfs}"', "X-Linked-Size": str(entry.size)}
        self._send(b"", 302, headers | linked | {"Location": f"{hub.storage}/lfs/{quote(repo)}/{entry.lfs}"})

    def _serve(self, content: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self._send(content, 200, headers | {"Accept-Ranges": "bytes"})
            return
        first = int(asked[1])
        if first >= len(content):
            self._send(b"", 416, {"Content-Range": f"bytes */{len(content)}"})
            return
        last = min(int(asked[2] or len(content)), len(content) - 1)
        told = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self._send(content[first : last + 1], 206, headers | told)


def _listed(path: str, entry: Entry) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "file", "path": path, "oid": entry.oid, "size": entry.size}
    if entry.lfs:
        told["lfs"] = {"oid": entry.lfs, "size": entry.size, "pointerSize": 130}
    return told
