"""``cove image bootstrap``: what is asked for, where packages come from, what the tool says; once
for real, from the sources of this machine.
"""

from __future__ import annotations

import http.server
import platform
import shutil
import signal
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.engine.images.bootstrap import CAPABILITIES
from cove.errors import CoveError
from cove.image.aptspeak import Listener, failure
from cove.image.distributions import command, read_wish, sources_for, tool_for
from cove.oci.manifest import host_platform_of
from tests.driver import Cove, wait_until

KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
HOST = "http://packages.example/debian"

WRONG = [
    (("debain:bookworm",), "no such distribution", "did you mean debian?"),
    (("fedora:40",), "no such distribution", "there are debian, ubuntu"),
    (("host",), "no such distribution", "there are debian, ubuntu"),
    (("debian",), "which suite?", "bookworm, trixie"),
    (("debian:bookwrm",), "debian has no suite bookwrm", "bookworm, trixie"),
    (("ubuntu:bookworm",), "ubuntu has no suite bookworm", "jammy, noble"),
    (("debian:bookworm", "--variant", "minbas"), 'no variant "minbas"', "did you mean minbase?"),
    (("debian:bookworm", "--include", "a;b"), '"a;b" is no name of a package', "--include a;b"),
    (("debian:bookworm", "--include=--hook"), '"--hook" is no name of a package', "from:"),
    (("debian:bookworm", "--mirror", "ftp"), '"ftp" is no address', "http://"),
    (("debian:bookworm", "--mirror", "http://a b"), "is no address", "--mirror http://a b"),
    (("debian:bookworm", "--platform", "linux/mips"), "it is not made for linux/mips", "arm64"),
    (("debian:bookworm", "--platform", "a b"), 'platform "a b"', "write linux/amd64"),
    (("debian:bookworm", "-t", "Big"), "must be lowercase", "Big"),
    (("debian:bookworm", "-t", "host"), '"host" is built in', ""),
    ((), "DISTRIBUTION:SUITE is missing", "cove image bootstrap"),
]


@pytest.mark.parametrize(("words", "message", "more"), WRONG, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_said(cove: Cove, words: tuple[str, ...], message: str, more: str) -> None:
    done = cove("image", "bootstrap", *words, code=125)
    assert message in done.err
    assert more in done.err


# ---- sources ----


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/apt/sources.list.d").mkdir(parents=True)
    return tmp_path


def lines(root: Path, image: str, mirror: str = "") -> list[str]:
    wish = read_wish(image, "", (), mirror)
    return [source.line() for source in sources_for(wish, root=str(root))]


def test_both_forms_of_sources(root: Path) -> None:
    (root / "etc/apt/sources.list").write_text(
        f"# deb {HOST} bookworm main\ndeb-src {HOST} bookworm main\n"
        f"deb [arch=amd64 signed-by=/k/debian-archive-x.gpg] {HOST} bookworm main contrib # why\n"
    )
    (root / "etc/apt/sources.list.d/a.sources").write_text(
        f"# first\nTypes: deb deb-src\nURIs: {HOST}\nSuites: bookworm-updates\n bookworm-security\n"
        f"Components: main\nSigned-By: {KEYS}\n\n"
        "Types: deb\nEnabled: no\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n"
    )
    assert lines(root, "debian:bookworm") == [
        f"deb [signed-by=/k/debian-archive-x.gpg] {HOST} bookworm main",
        f"deb [signed-by={KEYS}] {HOST} bookworm-updates main",
        f"deb [signed-by={KEYS}] {HOST} bookworm-security main",
    ]


def test_another_suite_from_the_same_place(root: Path) -> None:
    (root / "etc/apt/sources.list").write_text(
        f"deb {HOST} bookworm main\ndeb {HOST}-security bookworm-security main\n"
    )
    wanted = f"deb [signed-by={KEYS}] {HOST}"
    assert lines(root, "debian:trixie") == [
        f"{wanted} trixie main",
        f"{wanted}-security trixie-security main",
    ]
    assert lines(root, "debian:sid") == [f"{wanted} sid main"]


def test_third_parties_are_no_distribution(root: Path) -> None:
    (root / "etc/apt/sources.list").write_text(
        "deb [signed-by=/k/other.gpg] http://other.example bookworm main\n"
        "deb http://third.example bookworm stable\ndeb http://fourth.example other-bookworm main\n"
    )
    with pytest.raises(CoveError, match="this host has no package sources of debian") as caught:
        lines(root, "debian:bookworm")
    assert "--mirror" in caught.value.hint


def test_a_mirror_takes_the_place_of_the_sources(root: Path) -> None:
    assert lines(root, "debian:bookworm", "http://m.example/d") == [
        f"deb [signed-by={KEYS}] http://m.example/d bookworm main"
    ]


def test_the_command() -> None:
    wish = read_wish("debian:bookworm", "apt", ("curl,jq", "git"), "http://m.example/d")
    words = command(wish, sources_for(wish))
    assert words[0] == "mmdebstrap"
    assert {"--mode=root", "--variant=apt", "--include=curl,jq,git"} < set(words)
    assert words[-3:-1] == ("bookworm", "-")


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from cove.image import distributions

    monkeypatch.setattr(distributions.shutil, "which", lambda name, path: None)
    with pytest.raises(CoveError) as caught:
        distributions.tool_for(read_wish("debian:bookworm", "", (), ""))
    assert caught.value.hint == "apt-get install mmdebstrap"


def test_debootstrap_where_mmdebstrap_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from cove.image import distributions

    found = {"mmdebstrap": "/usr/bin/mmdebstrap", "debootstrap": "/usr/sbin/debootstrap"}
    monkeypatch.setattr(distributions.shutil, "which", lambda name, path: found.get(name))
    monkeypatch.setattr(distributions.os.path, "exists", lambda path: True)
    wish = read_wish("debian:bookworm", "", ("jq",), "http://m.example/d")
    assert distributions.tool_for(wish) == "mmdebstrap"
    del found["mmdebstrap"]
    assert distributions.tool_for(wish) == "debootstrap"
    words = command(wish, sources_for(wish), "debootstrap")
    assert words[:2] == ("sh", "-c") and words[-3::2] == ("bookworm", "http://m.example/d")
    assert {"--variant=minbase", "--include=jq", "--components=main", f"--keyring={KEYS}"} < {
        *words
    }
    with pytest.raises(CoveError, match="debootstrap has no variant apt") as caught:
        distributions.tool_for(read_wish("debian:bookworm", "apt", (), ""))
    assert "apt-get install mmdebstrap" in caught.value.hint


# ---- what the tool says ----


def test_its_words_are_steps() -> None:
    listener = Listener("debian:bookworm")
    said = """I: running apt-get update...
Get:1 http://m.example bookworm InRelease [151 kB]
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Need to get 1,000 kB of archives.
Get:1 http://m.example bookworm/main amd64 a amd64 1 [400 kB]
Get:2 http://m.example bookworm/main amd64 b amd64 1 [700 kB]
Unpacking a (1) ...
Setting up a (1) ..."""
    steps = [step for line in said.splitlines() if (step := listener.hear(line))]
    assert [(step.stage, step.current, step.total, step.unit) for step in steps] == [
        ("reading package lists", 0, 0, ""),
        ("downloading packages", 400_000, 1_000_000, ""),
        ("downloading packages", 1_000_000, 1_000_000, ""),
        ("unpacking packages", 1, 2, "packages"),
        ("setting up packages", 1, 2, "packages"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("E: Unable to locate package nope", "it has no package nope"),
        ("dpkg: error: No space left on device", "no space left on device"),
        ("E: The repository 'x' does not have a Release file.", "have no suite bookworm"),
        ("W: GPG error: NO_PUBKEY 0123", "signed by a key that is not known here"),
        ("Err:1 x\n  Temporary failure resolving 'x'", "sources cannot be reached"),
        ("E: Couldn't find these debs: nope", "it has no package nope"),
        ("E: Failed getting release file http://x/Release", "have no suite bookworm"),
        ("E: something else", "mmdebstrap ended with 25"),
    ],
)
def test_its_failures_are_errors(line: str, message: str) -> None:
    wish = read_wish("debian:bookworm", "", (), "")
    error = failure(wish, deque([*line.split("\n"), "E: mmdebstrap failed"]), 25, "")
    assert error.message.startswith("cannot bootstrap debian:bookworm: ")
    assert message in error.message


# ---- other CPUs ----


def test_another_cpu(root: Path) -> None:
    (root / "etc/apt/sources.list").write_text(f"deb {HOST} bookworm main\n")
    other, name = ("arm64", "arm64") if platform.machine() == "x86_64" else ("arm/v7", "armhf")
    wish = read_wish("debian:bookworm", "", (), "", f"linux/{other}")
    words = command(wish, sources_for(wish, root=str(root)))
    assert words[2:4] == (f"--architectures={name}", "--skip=check/qemu")
    own = host_platform_of().architecture
    assert read_wish("debian:bookworm", "", (), "", f"linux/{own}").platform is None


def test_another_cpu_needs_mmdebstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool, path: tool == "debootstrap")
    with pytest.raises(CoveError) as error:
        tool_for(read_wish("debian:bookworm", "", (), "", "linux/riscv64"))
    assert error.value.message == (
        "cannot bootstrap debian:bookworm for linux/riscv64: mmdebstrap is not installed"
    )


# ---- for real ----


@pytest.fixture
def tool() -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs mmdebstrap: it is not installed")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a web server that has nothing, or never says so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/slow"):
                asked.set()
                over.wait(180)
            self.send_error(404)

        def log_message(self, *words: object) -> None:
            pass

    asked, over = threading.Event(), threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        over.set()
        server.shutdown()


def bootstrapped(cove: Cove) -> bool:
    return "bootstrapped" in cove("images").out


def test_sources_without_the_suite(cove: Cove, tool: None, silent: str) -> None:
    words = ("debian:bookworm", "--mirror", silent, "-t", "bootstrapped")
    done = cove("image", "bootstrap", *words, code=125)
    assert "the package sources have no suite bookworm\n  from: --mirror" in done.err
    assert not bootstrapped(cove)


def test_an_interrupt_ends_the_machine(cove: Cove, tool: None, silent: str) -> None:
    words = ("debian:bookworm", "--mirror", f"{silent}/slow", "-t", "bootstrapped")
    with cove.spawn("image", "bootstrap", *words) as running:
        wait_until(lambda: "mmdebstrap" in cove("ps").out, "the machine of mmdebstrap")
        running.send_signal(signal.SIGINT)
        assert running.wait(180) == 130
    wait_until(lambda: "mmdebstrap" not in cove("ps", "-a").out, "the machine's end")
    assert not bootstrapped(cove)


def test_debian_from_the_sources_of_this_machine(cove: Cove, tool: None) -> None:
    suite = next(
        (s for s in ("bookworm", "trixie", "bullseye") if f"={s}\n" in _release()), "bookworm"
    )
    made = cove(
        "image", "bootstrap", f"debian:{suite}", "-t", "bootstrapped:1", timeout=300, code=None
    )
    if "cannot be reached" in made.err:
        pytest.skip("needs package sources: those of this machine cannot be reached")
    assert made.returncode == 0, made.err
    assert made.out == "bootstrapped:1\n"
    assert f"debian:{suite}: downloading packages\n" in made.err
    listed = cove("run", "--rm", "--pull", "never", "bootstrapped:1", "dpkg", "-l").out
    assert "\nii  dpkg " in listed
    files = "/etc/apt/sources.list /proc/self/status"
    read = cove("run", "--rm", "bootstrapped:1", "sh", "-c", f"cat {files}; ls -l /dev/null").out
    assert f" {suite} main" in read
    cove("rmi", "bootstrapped:1")


def _release() -> str:
    return Path("/etc/os-release").read_text()


@pytest.mark.timeout(900)
def test_debian_by_debootstrap(cove: Cove, tmp_path: Path) -> None:
    """The same machine as bootstrap makes, and what comes out of it."""
    if shutil.which("debootstrap") is None:
        pytest.skip("needs debootstrap: it is not installed")
    wish = read_wish("debian:bookworm", "", (), "")
    try:
        words = command(wish, sources_for(wish), "debootstrap")
    except CoveError as error:
        pytest.skip(f"needs package sources: {error.message}")
    grants = [word for name in CAPABILITIES for word in ("--cap-add", name)]
    with (tmp_path / "root.tar").open("wb") as out, (tmp_path / "log").open("wb") as err:
        made = cove.spawn("run", "--rm", "--network", "host", "--cap-drop", "ALL", *grants, "-e",
                          "LC_ALL=C.UTF-8", "host", *words, stdout=out, stderr=err)  # fmt: skip
        code = made.wait(800)
    said = (tmp_path / "log").read_text(errors="replace")
    if "Failed getting release file" in said:
        pytest.skip("needs package sources: those of this machine cannot be reached")
    assert code == 0, said[-2000:]
    listener = Listener("debian:bookworm")
    stages = [step.stage for line in said.splitlines() if (step := listener.hear(line))]
    assert list(dict.fromkeys(stages))[-1] == "making the image"
    assert {"downloading packages", "unpacking packages", "setting up packages"} < set(stages)
    cove("image", "import", "-q", str(tmp_path / "root.tar"), "debooted:1", timeout=120)
    script = "dpkg -l | grep '^ii  dpkg'; cat /etc/apt/sources.list; ls /etc/hostname /dev/null"
    read = cove("run", "--rm", "--pull", "never", "debooted:1", "sh", "-c", script).out
    assert "ii  dpkg" in read and " bookworm main" in read and " bookworm-security main" in read
    cove("rmi", "debooted:1")
