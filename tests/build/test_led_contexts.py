"""Contexts from elsewhere lead to this host's own loopback only where that was typed."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest

from cove.git.fetching import GitTrouble, Repository, fetch_git
from tests.build.conftest import Build
from tests.build.test_git import commit, git, repo, web
from tests.conftest import need, need_root
from tests.driver import Cove

__all__ = ["repo"]

pytestmark = pytest.mark.usefixtures("tidied")
OWN = "this host's own loopback"


@contextmanager
def leading() -> Iterator[tuple[str, list[str]]]:
    """To wherever the path says, else a Dockerfile; and what was asked for."""
    asked: list[str] = []

    class Leading(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = b"" if self.path.startswith("/to/") else b"FROM bb\n"
            self.send_response(200 if data else 302)
            if not data:
                self.send_header("Location", unquote(self.path[4:]))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Leading) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def test_a_redirect_leads_to_no_other_server_of_this_host(cove: Cove, build: Build) -> None:
    with leading() as (url, asked), leading() as (other, never):
        cove("build", f"{url}/to//f")
        assert asked == ["/to//f", "/f"]
        port = other.rpartition(":")[2]
        for target in (other, f"http://localhost.:{port}", f"http://127.1:{port}"):
            failed = cove("build", f"{url}/to/{target}/f", code=1)
            assert OWN in failed.err, failed.err
        failed = build("FROM a\n", f"--build-context=a={url}/to/{other}/f", code=1)
        assert OWN in failed.err
        failed = cove("build", f"http://[64:ff9b::7f00:1]:{port}/f", code=1)
        assert OWN in failed.err and "hint: " in failed.err
        failed = cove("build", "http://192.0.0.192/f", code=1)
        assert "a cloud's metadata service" in failed.err
        assert never == []


def test_a_submodule_leads_to_no_other_server_of_this_host(
    cove: Cove, repo: Path, tmp_path: Path
) -> None:
    need_root()
    need("git")
    git(repo.parent, "clone", "-q", "--bare", str(repo), "bare.git")
    git(repo.parent / "bare.git", "update-server-info")
    with web(repo.parent) as url, web(repo.parent) as other:
        top = repo.parent / "top"
        top.mkdir()
        git(top, "init", "-q", "-b", "main")
        (top / "Dockerfile").write_text("FROM bb\nCOPY . /x/\n")
        (top / "m").mkdir()
        named = git(repo, "rev-parse", "HEAD")
        git(top, "update-index", "--add", "--cacheinfo", f"160000,{named},m")
        for place, code in ((url, 0), (other, 1)):
            words = f'[submodule "m"]\n\tpath = m\n\turl = {place}/bare.git\n'
            (top / ".gitmodules").write_text(words)
            commit(top, "with a submodule")
            kept = f"top{code}.git"
            git(repo.parent, "clone", "-q", "--bare", str(top), kept)
            git(repo.parent / kept, "update-server-info")
            done = cove("build", f"{url}/{kept}", code=code)
            assert code == 0 or OWN in done.err, done.err
        # Whoever typed another host has not typed this one.
        with (tmp_path / "out").open("wb") as out, pytest.raises(GitTrouble, match=OWN):
            fetch_git(
                Repository(f"{url}/bare.git"), out.fileno(), lambda: False,
                place=str(tmp_path), room=1 << 30,
            )  # fmt: skip
