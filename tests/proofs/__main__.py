"""nginx and postgres of Debian's packages, in a container and in a virtual machine.

    make test-proofs                  # python -m tests.proofs [container|vm]…

nginx, published on a port, answers from the host, from outside (another network namespace) and from
another machine by its name. postgres, on a named volume and on a bind, as uid 999: after kill -9 of
everything its data are there, also for a newer image.

The first run makes the image from the host's package sources (some minutes); later ones take it
from ``.cache/proofs``. The rest runs in a network namespace of its own, without the host's network.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.driver import ROOT, Cove, new_cove, wait_end, wait_until
from tests.leaks import look
from tests.shared import fetch_kernel, give_guests

IMAGE = ROOT / ".cache/proofs/services.tar"
PACKAGES = "nginx-light,postgresql,curl"
PATIENCE = 300.0
"""Seconds that a service may take to answer: a virtual machine may be interpreted."""
OWNER = 999

HOST, OUTSIDE = "192.0.2.1", "192.0.2.2"
NGINX = 'echo "hello of $(hostname)" > /var/www/html/index.html; exec nginx -g "daemon off;"'
POSTGRES = """
B=$(echo /usr/lib/postgresql/*/bin); D=/data/pg
[ -d $D ] || $B/initdb -D $D -A trust > /dev/null
exec $B/postgres -D $D -k /tmp
"""
ROWS = "create table t(x int); insert into t select generate_series(1, 1000)"


def make_image() -> None:
    """With a user 999, as images of postgres have it."""
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    cove = new_cove()
    try:
        cove("image", "bootstrap", "-q", "--include", PACKAGES, "-t", "packages",
             "debian:bookworm", timeout=1800)  # fmt: skip
        cove("run", "--name", "made", "packages", "sh", "-c",
             f"usermod -u {OWNER} postgres && groupmod -g {OWNER} postgres")  # fmt: skip
        for version in ("1", "2"):
            cove("commit", "-c", f"LABEL version={version}", "made", f"services:{version}")
        cove("rm", "made")
        part = IMAGE.with_suffix(f".{os.getpid()}")
        cove("save", "-o", str(part), "services:1", "services:2", timeout=600)
        part.rename(IMAGE)
    finally:
        cove.close()


def say(text: str, begun: float) -> None:
    print(f"ok  {text} ({time.monotonic() - begun:.1f} s)", flush=True)


def answers(look: Callable[[], str], wanted: str) -> None:
    wait_until(lambda: wanted in look(), wanted, seconds=PATIENCE)


# ---- nginx ----


@contextmanager
def outside() -> Iterator[int]:
    """Another host, as far as this one can tell: the process that holds its network."""
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep 100000"], stdout=subprocess.PIPE
    ) as other:
        try:
            assert other.stdout is not None and other.stdout.read(1)
            enter = ["nsenter", "-t", str(other.pid), "-n"]
            for words in (
                ["ip", "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns",
                 str(other.pid)],
                ["ip", "addr", "add", f"{HOST}/24", "dev", "up0"],
                ["ip", "link", "set", "up0", "up"],
                [*enter, "ip", "addr", "add", f"{OUTSIDE}/24", "dev", "down0"],
                [*enter, "ip", "link", "set", "down0", "up"],
            ):  # fmt: skip
                subprocess.run(words, check=True)
            yield other.pid
        finally:
            other.kill()


def curl(url: str, *enter: str) -> str:
    words = [*enter, "curl", "-s", "-m", "20", url]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def nginx(cove: Cove, kind: str, other: int) -> None:
    begun = time.monotonic()
    name = f"web-{kind}"
    cove("run", "-d", "--isolation", kind, "--memory", "512m", "--name", name, "--network",
         "bridge", "-p", "8080:80", "-p", f"{HOST}:8090:80", "services:1", "sh", "-c",
         NGINX)  # fmt: skip
    hello = "hello of "
    answers(lambda: curl("http://127.0.0.1:8080/"), hello)
    answers(lambda: curl(f"http://{HOST}:8090/", "nsenter", "-t", str(other), "-n"), hello)
    ask = ("run", "--rm", "--network", "bridge", "services:1", "curl", "-s", "-m", "60")
    answers(lambda: cove(*ask, f"http://{name}/", code=None).out, hello)
    cove("rm", "-f", name)
    say(f"nginx in a {kind}: from the host, from outside, by its name", begun)


# ---- postgres ----


def sql(cove: Cove, words: str, code: int | None = None) -> str:
    return cove("exec", "db", "psql", "-h", "/tmp", "-d", "postgres", "-qAtc", words,
                code=code).out  # fmt: skip


def begin(cove: Cove, kind: str, mount: str, version: str) -> None:
    cove("run", "-d", "--isolation", kind, "--memory", "512m", "--name", "db", "--user",
         f"{OWNER}:{OWNER}", "-v", f"{mount}:/data", f"services:{version}", "sh", "-c",
         POSTGRES)  # fmt: skip
    answers(lambda: sql(cove, "select 'up'"), "up")


def kill_everything(cove: Cove) -> None:
    """Daemon, forker and monitors, with which the machines end."""
    gone = []
    for line in look(cove.root).processes:
        with suppress(ProcessLookupError):
            pid = int(line.split()[0])
            gone.append(os.pidfd_open(pid))
            os.kill(pid, signal.SIGKILL)
    for fd in gone:
        wait_end(fd)


def postgres(cove: Cove, kind: str, mount: str, what: str) -> None:
    begun = time.monotonic()
    begin(cove, kind, mount, "1")
    sql(cove, ROWS, 0)
    kill_everything(cove)
    wait_until(lambda: not cove.inspect("db")["State"]["Running"], "its end is known")
    cove("start", "db")
    answers(lambda: sql(cove, "select count(*) from t"), "1000")
    say(f"postgres in a {kind} on {what}: its rows after kill -9 of everything", begun)
    begun = time.monotonic()
    sql(cove, "insert into t values (0)", 0)
    cove("rm", "-f", "db")
    begin(cove, kind, mount, "2")
    assert cove.inspect("db")["Config"]["Labels"]["version"] == "2"
    answers(lambda: sql(cove, "select count(*) from t"), "1001")
    cove("rm", "-f", "db")
    say(f"postgres in a {kind} on {what}: its rows with a newer image", begun)


def prove(kinds: list[str]) -> None:
    cove = new_cove()
    try:
        if "vm" in kinds:
            give_guests(cove)
        cove("load", "-i", str(IMAGE), timeout=600)
        with outside() as other:
            for kind in kinds:
                nginx(cove, kind, other)
        for kind in kinds:
            with tempfile.TemporaryDirectory(dir=cove.root) as bind:
                os.chown(bind, OWNER, OWNER)
                postgres(cove, kind, bind, "a bind")
                assert os.stat(f"{bind}/pg").st_uid == OWNER
            cove("volume", "create", "pg")
            cove(
                "run", "--rm", "-v", "pg:/data", "services:1", "chown", f"{OWNER}:{OWNER}", "/data"
            )
            postgres(cove, kind, "pg", "a volume")
            cove("volume", "rm", "pg")
    except BaseException:
        print(cove.post_mortem(), file=sys.stderr)
        raise
    finally:
        cove.close()


def main() -> int:
    kinds = sys.argv[1:] or ["container", "vm"]
    if os.environ.get("COVE_PROOFS") != "inside":
        if not IMAGE.exists():
            make_image()
        if "vm" in kinds:
            fetch_kernel()
        inside = os.environ | {"COVE_PROOFS": "inside"}
        words = ["unshare", "--net", sys.executable, "-m", "tests.proofs", *kinds]
        return subprocess.run(words, env=inside, cwd=ROOT, check=False).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    prove(kinds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
