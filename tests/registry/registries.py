"""Registries: Debian's own on loopback, a token server for it, and one of our own that misbehaves
on request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cove.oci.manifest import host_platform_of
from tests.conftest import need
from tests.driver import wait_until

USER, PASSWORD = "ada", "correct horse"
HTPASSWD = "ada:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# ---- Debian's docker-registry ----


@contextmanager
def docker_registry(place: Path, auth: str = "") -> Iterator[str]:
    """``HOST:PORT`` of a docker-registry that keeps its images in ``place``."""
    with mortal_registry(place, auth) as one:
        yield one.host


@dataclass
class Mortal:
    """A docker-registry that may be ended and begun again, in the same place."""

    host: str
    begin: Callable[[], subprocess.Popen[bytes]]
    child: subprocess.Popen[bytes]

    def end(self) -> None:
        self.child.kill()
        self.child.wait()

    def again(self) -> None:
        self.child = self.begin()
        assert listens(int(self.host.rpartition(":")[2]), self.child)


@contextmanager
def mortal_registry(place: Path, auth: str = "") -> Iterator[Mortal]:
    need("docker-registry")
    place.mkdir(exist_ok=True)
    conf = place / "registry.yml"

    def begin() -> subprocess.Popen[bytes]:
        with (place / "log").open("ab") as log:
            return subprocess.Popen(["docker-registry", "serve", conf], stdout=log, stderr=log)

    for _ in range(9):  # a port that was free may be somebody's by now
        port = free_port()
        conf.write_text(
            f"version: 0.1\nlog: {{level: error}}\n"
            f"storage: {{filesystem: {{rootdirectory: {place}/data}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}'}}\n{auth}"
        )
        one = Mortal(f"127.0.0.1:{port}", begin, begin())
        if listens(port, one.child):
            break
    else:
        raise AssertionError(f"docker-registry does not listen: {(place / 'log').read_text()}")
    try:
        yield one
    finally:
        one.child.terminate()
        one.child.wait()


def listens(port: int, child: subprocess.Popen[bytes]) -> bool:
    """Once it does; False: it has ended."""

    def answers() -> bool:
        with socket.socket() as sock:
            return child.poll() is not None or sock.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, "docker-registry listens")
    return child.poll() is None


def push(source: str, target: str, *options: str) -> None:
    need("skopeo")
    done = subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *options,
         source, f"docker://{target}"], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---- a token server, for docker-registry's token authentication ----


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer:
    """Signs what Debian's registry believes. ``public/`` is for everybody, the rest for USER."""

    def __init__(self, place: Path) -> None:
        need("openssl")
        self.key, self.certificate = place / "key.pem", place / "certificate.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tokens",
             "-keyout", self.key, "-out", self.certificate, "-days", "2"],
            check=True, capture_output=True,
        )  # fmt: skip
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.life = 60
        self.server = serve(self._answer)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def auth(self) -> str:
        """For the registry's configuration."""
        return (
            f"auth: {{token: {{realm: 'http://{self.address}/token', service: test, "
            f"issuer: tests, rootcertbundle: {self.certificate}}}}}\n"
        )

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        who = request.headers.get("Authorization", "")
        query = parse_qs(urlsplit(request.path).query)
        self.asked.append((who, query))
        known = who == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if who and not known:
            reply(request, 401, b'{"details": "who is that?"}')
            return
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            if known or name.startswith("public/"):
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
        body = {"token": self.sign(access), "expires_in": self.life}
        reply(request, 200, json.dumps(body).encode())

    def sign(self, access: list[dict[str, object]]) -> str:
        lines = self.certificate.read_text().splitlines()
        der = "".join(line for line in lines if not line.startswith("-"))
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        claims = {
            "iss": "tests", "sub": USER, "aud": "test", "exp": now + 600, "nbf": now - 60,
            "iat": now, "jti": os.urandom(8).hex(), "access": access,
        }  # fmt: skip
        text = ".".join(url64(json.dumps(part).encode()) for part in (head, claims))
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key], input=text.encode(),
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        return f"{text}.{url64(signed)}"


# ---- images as bytes ----


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class FakeImage:
    """An image's documents and blobs; ``pack`` compresses a layer."""

    tars: list[bytes]
    pack: Callable[[bytes], bytes] = bytes
    architecture: str = ""
    variant: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        here = host_platform_of()
        config = {
            "architecture": self.architecture or here.architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in self.tars]},
        }
        if self.variant:
            config["variant"] = self.variant
        layers = [self.put(self.pack(tar), "layer.v1.tar") for tar in self.tars]
        self.config = json.dumps(config).encode()
        self.document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put(self.config, "config.v1+json"),
            "layers": layers,
        }

    def put(self, data: bytes, media: str) -> dict[str, object]:
        name = digest(data)
        self.blobs[name] = data
        kind = f"application/vnd.oci.image.{media}"
        return {"mediaType": kind, "digest": name, "size": len(data)}

    @property
    def here(self) -> str:
        """The architecture it is for."""
        return str(json.loads(self.config)["architecture"])

    @property
    def manifest(self) -> bytes:
        return json.dumps(self.document).encode()

    @property
    def layer(self) -> str:
        """Digest of the lowest layer."""
        return str(self.document["layers"][0]["digest"])

    def descriptor(self, **platform: str) -> dict[str, object]:
        data = self.manifest
        found: dict[str, object] = {
            "mediaType": MANIFEST,
            "digest": digest(data),
            "size": len(data),
        }
        return found | ({"platform": platform} if platform else {})


# ---- a registry that misbehaves on request ----

Fault = Callable[[BaseHTTPRequestHandler, bytes], bool]
"""Answers in the registry's place, given the bytes it would send; False: it shall answer itself."""


class Fake:
    """The least that is a registry. ``faults`` are asked first, by the end of the path."""

    def __init__(self, address: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.lists: dict[str, list[list[str]]] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.server = serve(self._answer, address)
        if context is not None:
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.host = f"{address}:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, image: FakeImage) -> str:
        """The reference under which it can be pulled."""
        self.blobs |= image.blobs
        self.put(name, MANIFEST, image.manifest)
        return f"{self.host}/{name}"

    def put(self, name: str, kind: str, data: bytes) -> str:
        path, _, tag = name.partition(":")
        for known in (tag or "latest", digest(data)):
            self.manifests[f"/v2/{path}/manifests/{known}"] = kind, data
        return f"{self.host}/{name}"

    def pages(self, path: str, pages: list[list[str]]) -> None:
        """The list of tags of a repository, in so many answers."""
        self.lists[f"/v2/{path}/tags/list"] = pages

    def _page(self, request: BaseHTTPRequestHandler, pages: list[list[str]]) -> None:
        asked = parse_qs(urlsplit(request.path).query).get("last", ["0"])
        number = int(asked[0])
        more = number + 1 < len(pages)
        path = urlsplit(request.path).path
        link = {"Link": f'<{path}?last={number + 1}&n=1>; rel="next"'} if more else {}
        reply(request, 200, json.dumps({"name": "x", "tags": pages[number]}).encode(), link)

    def fault(self, end: str, *faults: Fault) -> None:
        """For the next requests whose path ends so, one fault each."""
        self.faults.setdefault(end, []).extend(faults)

    def count(self, part: str, method: str = "GET") -> int:
        return sum(part in path and kind == method for kind, path, _ in self.requests)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        with self.lock:
            headers = {k.lower(): v for k, v in request.headers.items()}
            self.requests.append((request.command, request.path, headers))
            ends = [end for end in self.faults if request.path.endswith(end) and self.faults[end]]
            fault = self.faults[ends[0]].pop(0) if ends else None
        kind, data = self.manifests.get(request.path, ("", b""))
        if not kind and "/blobs/" in request.path:
            kind = "application/octet-stream"
            data = self.blobs.get(request.path.rpartition("/")[2], b"")
            kind = kind if data else ""
        if fault is not None and fault(request, data):
            return
        pages = self.lists.get(urlsplit(request.path).path)
        if pages is not None:
            self._page(request, pages)
        elif request.path == "/v2/":
            reply(request, 200, b"{}")
        elif not kind:
            code = "BLOB_UNKNOWN" if "/blobs/" in request.path else "MANIFEST_UNKNOWN"
            reply(request, 404, json.dumps({"errors": [{"code": code, "message": "no"}]}).encode())
        else:
            send(request, kind, data)


def serve(
    answer: Callable[[BaseHTTPRequestHandler], None],
    address: str = "127.0.0.1",
    methods: tuple[str, ...] = (),
) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                answer(self)
            except ConnectionError:
                self.close_connection = True

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *words: object) -> None:
            pass

    for method in methods:
        setattr(Handler, f"do_{method}", Handler.do_GET)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *words: object) -> None:
            pass

    server = Server((address, 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def reply(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> None:
    request.send_response(status)
    sent = {"Content-Length": str(len(body))} | dict(headers or {})
    for name, value in sent.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def send(request: BaseHTTPRequestHandler, kind: str, data: bytes) -> None:
    """A document or blob, from where the client wants it."""
    begin = request.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
    headers = {"Content-Type": kind, "Docker-Content-Digest": digest(data)}
    if begin:
        at = int(begin)
        span = f"bytes {at}-{len(data) - 1}/{len(data)}"
        reply(request, 206, data[at:], headers | {"Content-Range": span})
    else:
        reply(request, 200, data, headers)


# ---- faults ----


def cut(at: int) -> Fault:
    """All headers, ``at`` bytes of what is left to send, and a reset."""

    def fault(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        begin = request.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
        first = int(begin or 0)
        request.send_response(206 if begin else 200)
        request.send_header("Content-Length", str(len(data) - first))
        if begin:
            span = f"bytes {first}-{len(data) - 1}/{len(data)}"
            request.send_header("Content-Range", span)
        request.end_headers()
        request.wfile.write(data[first : first + at])
        request.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        if at == 0:
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True
        return True

    return fault


def status(code: int, body: bytes = b"", **headers: str) -> Fault:
    def fault(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        reply(request, code, body, {k.replace("_", "-"): v for k, v in headers.items()})
        return True

    return fault


def body(data: bytes, **headers: str) -> Fault:
    """Other bytes than those that were asked for."""
    return status(200, data, **headers)


def redirect(target: str, code: int = 307) -> Fault:
    return status(code, b"", Location=target)


def stall(event: threading.Event, at: int = 10) -> Fault:
    """A few bytes, then nothing until ``event``; then the connection is closed."""

    def fault(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:at])
        request.wfile.flush()
        event.wait(180)
        request.close_connection = True
        return True

    return fault


def blob_requests(fake: Fake, name: str) -> list[str]:
    """The Range of each request for a blob, empty for the whole."""
    return [headers.get("range", "") for _, path, headers in fake.requests if path.endswith(name)]
