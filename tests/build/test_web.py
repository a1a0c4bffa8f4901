"""``ADD`` of URLs: through proxies, and ended with who asked for it."""

from __future__ import annotations

import http.server
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.build.conftest import Build
from tests.build.test_attacks import nameless
from tests.build.test_builds import says
from tests.driver import Cove, wait_until

pytestmark = pytest.mark.usefixtures("tidied")


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """One that has every file itself, and the URLs that it was asked for."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"proxy")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


def test_through_a_proxy(fresh_cove: Cove, tmp_path: Path) -> None:
    """A name that only the proxy knows; what NO_PROXY names is asked itself."""
    cove = fresh_cove
    (tmp_path / "Dockerfile").write_text("FROM bb\nADD http://files.test/d/f /f\n")
    with proxy() as (url, seen):
        cove.kill_daemon()  # the next one has this
        said = {"http_proxy": url, "no_proxy": ".direct.test"}
        # Small letters come first: the caller's own would.
        cove.env |= said | {name.upper(): value for name, value in said.items()}
        cove("build", "-t", "through", str(tmp_path))
        assert seen == ["http://files.test/d/f"]
        assert says(cove, "through", "cat /f") == "proxy"
        (tmp_path / "Dockerfile").write_text("FROM bb\nADD http://a.direct.test/f /f\n")
        failed = cove("build", str(tmp_path), code=1)
        assert "a.direct.test" in failed.err and len(seen) == 1


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"])
def test_a_server_that_says_nothing_holds_no_build(
    cove: Cove, build: Build, tmp_path: Path, said: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        port = server.getsockname()[1]
        (tmp_path / "Dockerfile").write_text(f"FROM bb\nADD http://127.0.0.1:{port}/f /f\n")
        caller = cove.spawn("build", "--network", "host", str(tmp_path))
        sock, _ = server.accept()
        with sock:
            sock.settimeout(120)
            assert sock.recv(1 << 16).startswith(b"GET /f ")
            sock.sendall(said)
            caller.send_signal(signal.SIGINT)
            caller.communicate()
            assert caller.returncode == 130
            assert sock.recv(1) == b"", "it hung up"
    wait_until(lambda: not nameless(cove), "the end of the build")
