"""``POST /build?remote=``: the daemon fetches, by the rules of ``cove build URL``."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest

from tests.api.conftest import Raw
from tests.api.test_build import context, forgotten, post, text
from tests.build.test_git import repo, served, web
from tests.build.test_led_contexts import OWN, leading
from tests.conftest import need
from tests.driver import Cove, wait_until

__all__ = ["forgotten", "repo", "served"]


def says(cove: Cove, *words: str) -> str:
    return cove("run", "--rm", "api-build:far", *words).out


def test_a_repository_or_an_archive_of_another_place(
    raw: Raw, cove: Cove, served: str, tmp_path: Path
) -> None:
    # Nobody reads the body then, however much there is of it.
    for body, remote, shown in (
        (b"", f"{served}#v1:sub", "1\n"),
        (b"x" * (2 << 20), f"{served}?branch=main&subdir=sub", "2\n"),
    ):
        told = text(post(raw, body, remote=remote, t="api-build:far"))
        assert "Step 2/2 : COPY f /f" in told and "Successfully tagged api-build:far" in told
        assert says(cove, "cat", "/f") == shown
    files = {"Dockerfile": "NONSENSE\n", "d/other": "FROM bb\nCOPY g /f\n", "g": "tar\n"}
    (tmp_path / "x.tar").write_bytes(context(**files))
    (tmp_path / "alone").write_text("FROM bb\nLABEL alone=yes\n")
    with web(tmp_path) as url:
        text(post(raw, b"", remote=f"{url}/x.tar", dockerfile="d/other", t="api-build:far"))
        assert says(cove, "cat", "/f") == "tar\n"
        text(post(raw, b"", remote=f"{url}/alone", dockerfile="d/other", t="api-build:far"))
        (image,) = json.loads(cove("image", "inspect", "api-build:far").out)
        assert image["Config"]["Labels"] == {"alone": "yes"}


def test_where_a_remote_does_not_lead(raw: Raw, served: str) -> None:
    with leading() as (url, _), leading() as (other, never):
        for remote, status, why in (
            (f"{url}/to/{other}/f", 500, OWN),
            (f"http://[64:ff9b::7f00:1]:{other.rpartition(':')[2]}/f", 500, OWN),
            ("http://169.254.169.254/latest", 500, "169.254.169.254"),
            (f"{url}/to/http://169.254.169.254/latest", 500, "169.254.169.254"),
            ("git://169.254.169.254/x.git", 500, "169.254.169.254"),
            ("https://u:secret@169.254.169.254/x.git", 500, "169.254.169.254"),
            ("git@host.example:x.git", 501, "ssh needs an agent"),
            ("ssh://host.example/x.git", 501, "ssh needs an agent"),
            (f"{served}#none", 500, "it has no branch, tag or commit none"),
            (f"{served}?nonsense=1", 400, "nonsense"),
            ("../directory", 400, "it is no URL and no git repository"),
            ("file:///etc", 400, "it is no URL and no git repository"),
            ("client-session", 400, "it is no URL and no git repository"),
        ):
            reply = post(raw, b"", remote=remote)
            assert (reply.status, why in reply.message) == (status, True), (remote, reply)
            assert "secret" not in reply.message
        reply = post(raw, b"", remote=f"{served}#v1:sub", dockerfile="none")
        assert (reply.status, reply.message) == (400, "Cannot locate specified Dockerfile: none")
        assert never == []


@pytest.mark.parametrize("scheme", ["git", "http"])
def test_who_leaves_ends_what_is_fetched(raw: Raw, cove: Cove, scheme: str) -> None:
    need("git")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        far = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/x.tar"
        far = far.replace(".tar", ".git") if scheme == "git" else far
        with raw.open() as caller:
            head = f"POST /build?remote={far} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"
            caller.sendall(head.encode())
            sock, _ = server.accept()
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with sock:
            sock.settimeout(120)
            while sock.recv(1 << 16):
                pass
    left = Path(cove.root) / "tmp"
    wait_until(lambda: not [name for name in left.iterdir() if "cove-git-" in name.name], "the end")
