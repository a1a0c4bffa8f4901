"""Who asks for a repository over https is not led to one over http, whatever its server says."""

from __future__ import annotations

import functools
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cove.git.settings import environment, read_address
from tests.build.test_git import commit, git, web
from tests.conftest import need

GUARD = 120
"""Seconds, against hanging."""


class Leading(http.server.BaseHTTPRequestHandler):
    def __init__(self, target: str, *words: object) -> None:
        self.target = target
        super().__init__(*words)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", f"{self.target}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def leading(tmp_path: Path) -> Iterator[str]:
    """The port of a TLS server, whose certificate is at hand, that leads to one without."""
    need("git")
    need("openssl")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/f").touch()
    git(tmp_path / "a", "init", "-q", "-b", "main")
    commit(tmp_path / "a", "x")
    git(tmp_path, "clone", "-q", "--bare", "a", "a.git")
    git(tmp_path / "a.git", "update-server-info")
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-keyout", "key", "-out", "cert", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost"]  # fmt: skip
    subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with ExitStack() as stack:
        target = stack.enter_context(web(tmp_path)).replace("127.0.0.1", "localhost")
        handler = functools.partial(Leading, target)
        server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield f"https://localhost:{server.server_address[1]}/a.git"


def test_https_is_not_led_to_http(leading: str, tmp_path: Path) -> None:
    address = read_address(leading)
    assert address is not None
    found = environment(address, str(tmp_path), str(tmp_path))
    found |= {"GIT_SSL_CAINFO": str(tmp_path / "cert"), "PATH": os.environ["PATH"]}

    def asked(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        words = ["git", "ls-remote", leading, "HEAD"]
        return subprocess.run(
            words, env=env, capture_output=True, text=True, timeout=GUARD, check=False
        )

    refused = asked(found)
    assert refused.returncode and '"http" not supported' in refused.stderr, refused.stderr
    # It is that setting that refuses it: what a repository over http may do, this one could.
    plain = read_address("http://localhost/a.git")
    assert plain is not None
    more = environment(plain, "", "")["GIT_ALLOW_PROTOCOL"]
    assert asked(found | {"GIT_ALLOW_PROTOCOL": more}).stdout.endswith("HEAD\n")
