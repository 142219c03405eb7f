"""A web server on 127.0.0.1 that does to a client what the web does to downloads."""

import contextlib
import email.utils
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Shelf:
    """A file at a path, and how it is served.

    `script` is taken from the front, a step a request: `cut:N` closes the connection N bytes into a body that was said
    to be longer, `html` gives the page, `503` or `429:SECONDS` are statuses and what Retry-After says, `ok` the file.
    `early` answers a range from before the place that was asked for. Once it is used up, the file is served whole.
    """

    content: bytes
    script: list[str] = field(default_factory=list)
    etag: str = '"v1"'
    modified: str = ""
    ranges: bool = True
    if_range: bool = True
    redirect: str = ""
    kind: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True
    delay: float = 0.0
    piece: int = 64 * 1024
    page: bytes = b"<html><head><title>Sign in</title></head></html>"


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


class Server:
    def __init__(self):
        self.shelves: dict[str, Shelf] = {}
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                owner.answer(self)

            def do_HEAD(self):
                owner.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()

    def url(self, path, host="127.0.0.1"):
        return f"http://{host}:{self.port}{path}"

    def put(self, path, content, **how):
        self.shelves[path] = Shelf(content, **how)
        return self.url(path)

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def gets(self, path):
        return [seen for seen in self.seen if seen.path.partition("?")[0] == path and seen.method == "GET"]

    def answer(self, handler):
        seen = Seen(
            handler.command, handler.path, {key.lower(): value for key, value in handler.headers.items()}
        )
        shelf = self.shelves.get(handler.path) or self.shelves.get(handler.path.partition("?")[0])
        with self.lock:
            self.seen.append(seen)
            step = shelf.script.pop(0) if shelf and shelf.script else "ok"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._serve(handler, seen, shelf, step)

    def _serve(self, handler, seen, shelf, step):
        if shelf is None or step.partition(":")[0].isdigit():
            status, _, after = step.partition(":") if shelf else ("404", "", "")
            extra = {"Retry-After": after} if after else {}
            self._head(
                handler,
                seen,
                int(status),
                {"Content-Length": "0", **extra, **(shelf.headers if shelf else {})},
            )
            return
        if shelf.redirect:
            self._head(
                handler, seen, 302, {"Location": shelf.redirect, "Content-Length": "0", **shelf.headers}
            )
            return
        if step == "html":
            self._head(
                handler,
                seen,
                200,
                {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(shelf.page))},
            )
            self._send(handler, seen, shelf.page, shelf)
            return
        start, status = 0, 200
        asked = seen.headers.get("range", "")
        condition = seen.headers.get("if-range")
        same = condition in (None, shelf.etag, shelf.modified) or not shelf.if_range
        if asked and shelf.ranges and same:
            start, status = int(asked.removeprefix("bytes=").partition("-")[0]), 206
            start -= 1000 if step == "early" else 0
        total = len(shelf.content)
        headers = {"Content-Type": shelf.kind, **shelf.headers}
        if shelf.etag:
            headers["ETag"] = shelf.etag
        if shelf.modified:
            headers["Last-Modified"] = shelf.modified
        if start >= total and status == 206:
            self._head(handler, seen, 416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"})
            return
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        body = shelf.content[start:]
        if shelf.length:
            headers["Content-Length"] = str(len(body))
        else:
            headers["Connection"] = "close"
        self._head(handler, seen, status, headers)
        if step.startswith("cut:"):
            body = body[: int(step[4:])]
        self._send(handler, seen, body, shelf)
        if step.startswith("cut:") or not shelf.length:
            handler.close_connection = True

    def _head(self, handler, seen, status, headers):
        seen.status = status
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()

    def _send(self, handler, seen, body, shelf):
        if handler.command == "HEAD":
            return
        for start in range(0, len(body), shelf.piece):
            piece = body[start : start + shelf.piece]
            # Counted first: whoever has read the last byte finds it counted.
            seen.sent += len(piece)
            handler.wfile.write(piece)
            if shelf.delay:
                time.sleep(shelf.delay)


def in_seconds(seconds):
    return email.utils.formatdate(time.time() + seconds, usegmt=True)
