"""A registry of the tests' own that takes uploads, and misbehaves on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.registry.registries import digest, reply, serve

Fault = Callable[["Depot", BaseHTTPRequestHandler], bool]
"""Answers in its place; False: it shall answer itself."""


class Depot:
    """``faults``: method and a part of the path, to what happens the next times."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.begun = 0
        self.faults: dict[tuple[str, str], list[Fault]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.server = serve(self._answer, methods=("POST", "PATCH", "PUT", "DELETE"))
        self.host = f"127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fault(self, method: str, part: str, *faults: Fault) -> None:
        self.faults.setdefault((method, part), []).extend(faults)

    def sent(self, method: str, part: str = "") -> list[dict[str, str]]:
        """The headers of each such request."""
        return [h for kind, path, h in self.requests if kind == method and part in path]

    def place(self, name: str) -> str:
        return f"/v2/x/blobs/uploads/{name}?state=a%2Fb"

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        headers = {k.lower(): v for k, v in request.headers.items()}
        with self.lock:
            self.requests.append((request.command, request.path, headers))
            ready = [
                known for (method, part), known in self.faults.items()
                if known and method == request.command and part in request.path
            ]  # fmt: skip
            fault = ready[0].pop(0) if ready else None
        if fault is not None and fault(self, request):
            return
        path, query = urlsplit(request.path).path, parse_qs(urlsplit(request.path).query)
        last = path.rpartition("/")[2]
        if "/blobs/uploads/" in path:
            self._upload(request, last, query)
        elif "/manifests/" in path and request.command == "PUT":
            data = body_of(request)
            for name in (last, digest(data)):
                self.manifests[path.replace(last, name)] = headers.get("content-type", ""), data
            reply(request, 201, b"", {"Docker-Content-Digest": digest(data)})
        elif "/manifests/" in path and path in self.manifests:
            kind, data = self.manifests[path]
            reply(request, 200, data, {"Content-Type": kind})
        elif "/blobs/" in path and last in self.blobs:
            reply(request, 200, self.blobs[last])
        elif path == "/v2/":
            reply(request, 200, b"{}")
        else:
            reply(request, 404, b'{"errors": [{"code": "UNKNOWN"}]}')

    def _upload(
        self, request: BaseHTTPRequestHandler, name: str, query: dict[str, list[str]]
    ) -> None:
        if request.command == "POST":
            with self.lock:
                name = f"u{self.begun}"
                self.begun += 1
                self.uploads[name] = bytearray()
            self.tell(request, 202, name)
        elif name not in self.uploads:
            body_of(request)
            reply(request, 404, json.dumps({"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}).encode())
        elif request.command == "PATCH":
            begin = int(request.headers["Content-Range"].partition("-")[0])
            data = body_of(request)
            if begin != len(self.uploads[name]):
                self.tell(request, 416, name)
                return
            self.uploads[name] += data
            self.tell(request, 202, name)
        elif request.command == "PUT":
            data = bytes(self.uploads.pop(name))
            good = query["digest"] == [digest(data)]
            if good:
                self.blobs[digest(data)] = data
            reply(request, 201 if good else 400, b"")
        else:
            self.tell(request, 204, name)

    def tell(self, request: BaseHTTPRequestHandler, status: int, name: str) -> None:
        """Where it goes on, and how much is there."""
        end = max(0, len(self.uploads.get(name, b"")) - 1)
        reply(request, status, b"", {"Location": self.place(name), "Range": f"0-{end}"})


def body_of(request: BaseHTTPRequestHandler, most: int = 1 << 40) -> bytes:
    return request.rfile.read(min(int(request.headers.get("Content-Length") or 0), most))


def hang_up(depot: Depot, request: BaseHTTPRequestHandler) -> bool:
    request.close_connection = True
    return True


def take_part(count: int) -> Fault:
    """So many bytes of a chunk arrive, then the connection is cut."""

    def fault(depot: Depot, request: BaseHTTPRequestHandler) -> bool:
        name = urlsplit(request.path).path.rpartition("/")[2]
        depot.uploads[name] += body_of(request, count)
        request.close_connection = True
        return True

    return fault


def say(status: int, **headers: str) -> Fault:
    def fault(depot: Depot, request: BaseHTTPRequestHandler) -> bool:
        body_of(request)
        reply(request, status, b"", {k.replace("_", "-"): v for k, v in headers.items()})
        return True

    return fault
