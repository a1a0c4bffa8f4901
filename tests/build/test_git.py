"""Git repositories: ``ADD``, contexts, and what a hostile one cannot do. git is in a jail."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import io
import os
import re
import signal
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cove.build.contexts import GIT, kind_of
from cove.client.remote import full
from cove.git.door import Door
from cove.planner.defaults import PIDS
from tests.build.conftest import Build
from tests.build.test_attacks import nameless
from tests.build.test_builds import id_of, says
from tests.conftest import need
from tests.driver import Cove, wait_until


@pytest.fixture(autouse=True)
def _tidied(request: pytest.FixtureRequest) -> None:
    if "cove" in request.fixturenames:
        request.getfixturevalue("tidied")


WHO = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
    "PATH": os.environ["PATH"],
}  # fmt: skip
NET = ("--network", "host")
"""The servers listen on this host's loopback."""


def git(root: Path, *words: str) -> str:
    ran = subprocess.run(["git", "-C", str(root), *words], env=WHO, check=True, capture_output=True)
    return ran.stdout.decode().strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Two commits, the first of which is v1; ``next`` is a branch."""
    need("git")
    root = tmp_path / "srv" / "one.git"
    root.mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    (root / "sub").mkdir()
    (root / "Dockerfile").write_text("FROM bb\nCOPY . /all/\n")
    (root / "sub/Dockerfile").write_text("FROM bb\nCOPY f /f\n")
    (root / "sub/f").write_text("1\n")
    (root / "run").write_text("x")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("/etc/passwd")
    commit(root, "first")
    git(root, "tag", "-a", "-m", "t", "v1")
    (root / "sub/f").write_text("2\n")
    commit(root, "second")
    git(root, "branch", "next", "HEAD~1")
    return root


def commit(root: Path, why: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", why)


@pytest.fixture
def served(repo: Path) -> Iterator[str]:
    """By git's own protocol."""
    need(f"{git(repo, '--exec-path')}/git-daemon")
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve() -> None:
            while True:
                sock, _ = server.accept()
                with sock:
                    if stop.is_set():
                        return
                    words = ("git", "daemon", "--inetd", "--export-all")
                    base = f"--base-path={repo.parent}"
                    env = {**WHO, "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "safe.directory",
                           "GIT_CONFIG_VALUE_0": "*",
                           "GIT_CONFIG_KEY_1": "uploadpack.allowReachableSHA1InWant",
                           "GIT_CONFIG_VALUE_1": "true"}  # fmt: skip
                    subprocess.run([*words, base], stdin=sock, stdout=sock, env=env, check=False)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        try:
            yield f"git://127.0.0.1:{port}/one.git"
        finally:
            stop.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


@contextlib.contextmanager
def web(root: Path, login: str = "", asked: Callable[[], object] = int) -> Iterator[str]:
    """Files over HTTP, among them repositories as git's dumb protocol has them; ``asked`` is called
    before each is given out."""
    basic = f"Basic {base64.b64encode(login.encode()).decode()}"

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if login and self.headers.get("Authorization") != basic:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.end_headers()
                return
            asked()
            super().do_GET()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


# ---- what is a repository ----


def test_what_is_a_repository() -> None:
    for text in ("git://h/x", "https://h/x.git#main:a", "git@h:x", "ssh://h/x", "github.com/a/b"):
        assert kind_of(full(text)) == GIT, text
    assert full("github.com/a/b#c") == "https://github.com/a/b.git#c"
    assert full("github.com/a/b.git?branch=x#:c") == "https://github.com/a/b.git?branch=x#:c"
    assert kind_of(full("github.com/a/b?branch=x")) == GIT
    assert kind_of("https://h/x") == "web" and kind_of("./git@h:x") == "folder"


# ---- ADD ----


def test_a_repository_is_added(build: Build, cove: Cove, repo: Path, served: str) -> None:
    head, first = git(repo, "rev-parse", "HEAD"), git(repo, "rev-parse", "HEAD~1")
    git(repo, "update-ref", f"refs/heads/{first}", head)  # a commit is none of a branch's name
    text = f"""\
FROM bb
ADD {served} /head/
ADD {served}#v1 /tag/
ADD {served}#next:sub /branch/
ADD {served}#{first} /commit/
ADD --keep-git-dir=true --checksum={head[:12]} {served} /kept/
"""
    done = build(text, *NET, "-t", "added")
    script = "cat /head/sub/f /tag/sub/f /branch/f /commit/sub/f; ls -A /head; cat /kept/.git/HEAD;"
    script += "grep url /kept/.git/config; ls /kept/.git | grep -cE '^(FETCH_HEAD|logs)$';"
    script += "stat -c %u:%a /head/run; readlink /head/link"
    said = says(cove, "added", script).splitlines()
    assert said[:4] == ["2", "1", "1", "1"] and said[-2:] == ["0:755", "/etc/passwd"]
    assert said[4:-5] == ["Dockerfile", "link", "run", "sub"] and said[-5] == head
    assert said[-4:-2] == [f'\turl = "{served}"', "0"]
    again = build(text, *NET)
    assert again.err.count("CACHED") == 5 and id_of(again) == id_of(done)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("{url}#none /x/", "it has no branch, tag or commit none"),
        (f"{{url}}#{'0123456789' * 4} /x/", "it has no commit 0123456789"),
        ("git://127.0.0.1:99999/x.git /x/", "it is no address of a repository"),
        ("git://127.0.0.1 /x/", "it is no address of a repository"),
        ("{url}#v1:none /x/", "it has no folder none"),
        ("{url}#v1:link /x/", "it has no folder link"),
        ("--checksum=0123456789ab {url} /x/", "is the commit "),
        ("{url}x /x/", "cannot be cloned: "),
        ("ssh://git@127.0.0.1/x.git /x/", "over ssh needs an agent"),
        ("{url}#--upload-pack=x /x/", "is no reference"),
    ],
)
def test_what_cannot_be_added(build: Build, served: str, words: str, why: str) -> None:
    failed = build(f"FROM bb\nADD {words.format(url=served)}\n", *NET, code=1)
    assert why in failed.err and "Dockerfile:2" in failed.err


def test_a_repository_on_this_host_is_not_added(build: Build, served: str) -> None:
    failed = build(f"FROM bb\nADD {served} /x/\n", code=1)
    assert "this host's own loopback" in failed.err and "--network host" in failed.err


def test_over_http_and_with_submodules(build: Build, cove: Cove, repo: Path) -> None:
    """What a submodule or a redirect names is led where the door leads, and to no file."""
    bare = repo.parent / "bare.git"
    git(repo.parent, "clone", "-q", "--bare", str(repo), str(bare))
    git(bare, "update-server-info")
    with web(repo.parent) as url:
        top = repo.parent / "top"
        top.mkdir()
        git(top, "init", "-q", "-b", "main")
        (top / "m").mkdir()
        (top / "f").write_text("top")
        (top / ".gitmodules").write_text(f'[submodule "m"]\n\tpath = m\n\turl = {url}/bare.git\n')
        named = git(repo, "rev-parse", "HEAD")
        git(top, "update-index", "--add", "--cacheinfo", f"160000,{named},m")
        commit(top, "with a submodule")
        git(repo.parent, "clone", "-q", "--bare", str(top), "top.git")
        git(repo.parent / "top.git", "update-server-info")
        build(f"FROM bb\nADD {url}/top.git /x/\n", *NET, "-t", "deep")
        assert says(cove, "deep", "cat /x/f /x/m/sub/f; ls -A /x/m") == (
            "top2\nDockerfile\nlink\nrun\nsub\n"
        )
        (top / ".gitmodules").write_text(f'[submodule "m"]\n\tpath = m\n\turl = file://{repo}\n')
        commit(top, "with a file")
        git(top, "push", "-q", str(repo.parent / "top.git"), "main")
        git(repo.parent / "top.git", "update-server-info")
        failed = build(f"FROM bb\nADD {url}/top.git /x/\n", *NET, code=1)
        assert "transport 'file' not allowed" in failed.err


def test_a_login_is_for_the_server_alone(
    build: Build, cove: Cove, repo: Path, tmp_path: Path
) -> None:
    secret = f"hush{os.getpid()}"
    bare, cache, lines = repo.parent / "bare.git", tmp_path / "cache", list[str]()
    git(repo.parent, "clone", "-q", "--bare", str(repo), str(bare))
    git(bare, "update-server-info")
    asked = functools.partial(_listed, lines, secret)
    with web(repo.parent, f"me:{secret}@", asked) as url:
        typed = url.replace("//", f"//me:{secret}%40@")
        text = f"FROM bb\nADD --keep-git-dir=true {typed}/bare.git /x/\n"
        to = f"--cache-to=type=local,dest={cache}"
        done = build(text, *NET, "-t", "logged", to)
        wrong = text.replace("me:", "you:")
        failed = build(wrong, *NET, code=1).err
    assert "Authentication failed" in failed and "ADD --keep-git-dir=true" in failed
    assert not lines
    config = says(cove, "logged", "cat /x/sub/f /x/.git/config")
    assert config.startswith("2\n") and f"{url}/bare.git" in config
    history = cove("history", "--no-trunc", "logged").out
    shown = url.replace("//", "//xxxxx:xxxxx@")
    assert f"{shown}/bare.git" in history and f"{shown}/bare.git" in done.err
    kept = b"".join(one.read_bytes() for one in cache.rglob("*") if one.is_file())
    assert b"xxxxx:xxxxx@" in kept and secret.encode() not in kept
    assert secret not in config + history + done.err + failed


def _listed(lines: list[str], secret: str) -> None:
    lines += commands_with(secret)


def commands_with(text: str) -> list[str]:
    """Processes that have it on their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


# ---- contexts ----


def test_a_repository_is_the_context(cove: Cove, served: str) -> None:
    cove("build", "-t", "ctx", f"{served}#v1:sub")
    assert says(cove, "ctx", "cat /f") == "1\n"
    cove("build", "-t", "ctx", "-f", "sub/Dockerfile", f"{served}?branch=main&subdir=sub", code=1)
    # An agent that has gone matters to ssh alone.
    cove("build", "-t", "ctx", served, env={"SSH_AUTH_SOCK": "/nothing/there"})
    assert says(cove, "ctx", "cat /all/sub/f; ls -A /all") == "2\nDockerfile\nlink\nrun\nsub\n"
    failed = cove("build", f"{served}#none", code=1)
    assert "it has no branch, tag or commit none" in failed.err


def test_what_is_on_the_web_is_the_context(
    cove: Cove, build: Build, tmp_path: Path, served: str
) -> None:
    root = tmp_path / "web"
    root.mkdir()
    (root / "alone").write_text("FROM bb\nRUN echo alone >/f\n")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in (("Dockerfile", "FROM bb\nCOPY g /f\n"), ("g", "tar\n"), ("h", "h\n"),
                           (".dockerignore", "h\n")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    (root / "x.tar.gz").write_bytes(data.getvalue())
    with web(root) as url:
        for name, said in (("alone", "alone\n"), ("x.tar.gz", "tar\n")):
            cove("build", "-t", "fromweb", f"{url}/{name}")
            assert says(cove, "fromweb", "cat /f") == said
        flags = (f"--build-context=a={url}/x.tar.gz", f"--build-context=b={served}#v1:sub")
        text = "FROM a AS s\nFROM bb\nCOPY --from=s / /a/\nCOPY --from=b f /b\n"
        build(text, *flags, "-t", "named")
        assert says(cove, "named", "ls -A /a; cat /b") == ".dockerignore\nDockerfile\ng\n1\n"
        assert "answered with 404" in cove("build", f"{url}/none", code=1).err
        bad = build("FROM a\n", f"--build-context=a={url}/alone", code=1)
        assert "it is no archive" in bad.err


# ---- hostile ----


def test_a_server_that_says_nothing_holds_no_build(cove: Cove, tmp_path: Path) -> None:
    need("git")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        port = server.getsockname()[1]
        (tmp_path / "Dockerfile").write_text(f"FROM bb\nADD git://127.0.0.1:{port}/x.git /x/\n")
        caller = cove.spawn("build", *NET, str(tmp_path))
        sock, _ = server.accept()
        with sock:
            sock.settimeout(120)
            heard = b""
            while b"x.git" not in heard:
                data = sock.recv(1 << 16)
                assert data, heard
                heard += data
            (pid,) = commands_with(f"insteadOf=git://127.0.0.1:{port}/")
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"Max address space +3221225472 +3221225472 ", limits)
            assert "\nSeccomp:\t2\nSeccomp_filters:\t2\n" in Path(f"/proc/{pid}/status").read_text()
            assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
            assert sorted(os.listdir(f"/proc/{pid}/root/dev")) == ["null", "urandom", "zero"]
            assert not os.listdir(f"/proc/{pid}/root/run")
            assert limit_of_processes(pid) == PIDS
            caller.send_signal(signal.SIGINT)
            caller.communicate()
            assert caller.returncode == 130
            while sock.recv(1 << 16):
                pass
    wait_until(lambda: not nameless(cove), "the end of the build")


def limit_of_processes(pid: str) -> int:
    """How many its control group may have, which is one of ours."""
    found = re.search(r"/cove-[0-9a-f]{8}/[0-9]+$", Path(f"/proc/{pid}/cgroup").read_text(), re.M)
    assert found, "it is in no group of ours"
    places = (Path(f"/sys/fs/cgroup{kind}{found[0]}/pids.max") for kind in ("/pids", ""))
    return next(int(place.read_text()) for place in places if place.exists())


def test_hooks_filters_and_settings_of_a_repository_run_nothing(
    build: Build, cove: Cove, repo: Path, served: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    (repo / ".gitattributes").write_text("* filter=evil\n")
    (repo / ".gitconfig").write_text(f'[filter "evil"]\n\tsmudge = touch {mark}\n')
    (repo / ".lfsconfig").write_text("[lfs]\n\turl = http://127.0.0.1:1/\n")
    hook = repo / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    commit(repo, "evil")
    build(f"FROM bb\nADD {served} /x/\n", *NET, "-t", "evil")
    assert says(cove, "evil", "cat /x/sub/f") == "2\n"
    assert not mark.exists()


def test_a_door_leads_only_where_it_may() -> None:
    """Whatever a program in the jail asks of it."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        listener = socket.create_server(("127.0.0.1", 0))
        door = Door(listener, lambda host, _: "no" if host == "127.0.0.1" else "", {})
        place = listener.getsockname()
        port = there.getsockname()[1].to_bytes(2, "big")
        try:
            for words, said in (
                (b"\5\1\0\5\1\0\1\x7f\0\0\1" + port, b"\5\0\5\2\0\1" + bytes(6)),
                (b"\5\1\0\5\1\0\3\x09localhost" + port, b"\5\0\5\2\0\1" + bytes(6)),
                (b"\5\1\0\5\2\0\1\x7f\0\0\1" + port, b"\5\0"),
                (b"GET / HTTP/1.1\r\n\r\n" + bytes(80), b""),
                (b"\4\1" + bytes(300), b""),
            ):
                with socket.create_connection(place, 120) as sock:
                    sock.sendall(words)
                    heard = b""
                    with contextlib.suppress(ConnectionResetError):
                        while data := sock.recv(1 << 10):
                            heard += data
                    assert heard.startswith(said) if said else True
                    assert b"\5\0\5\0" not in heard
            there.setblocking(False)
            with pytest.raises(BlockingIOError):
                there.accept()
        finally:
            door.close()
