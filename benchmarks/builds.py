"""python -m benchmarks.builds: Dockerfiles, by cove beside buildah, podman and docker.

The base is a Debian with a compiler and pip, which everybody has loaded; packages are files of the
contexts, so that no network is measured. All stores lie on one loop-mounted, journalled ext4. Needs
root, mmdebstrap and package sources; see --help for docker.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import pulls
from benchmarks.measure import Series, run_command, table
from benchmarks.peers import base_env
from benchmarks.pulls import quiet

BASE = "bench-base"
PACKAGES = "gcc,libc6-dev,make,python3-pip"
MANY = 50_000
Change = Callable[[], None]

# ---- what is built ----

PROGRAM = """\
FROM bench-base AS build
WORKDIR /src
COPY Makefile ./
COPY src/ src/
RUN make -s
FROM bench-base
LABEL org.opencontainers.image.title=program
COPY --from=build /src/program /usr/local/bin/
RUN useradd -m app
USER app
CMD ["program"]
"""
SERVICE = """\
FROM bench-base
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY wheels /wheels
COPY requirements.txt .
RUN pip install --break-system-packages --no-index --find-links /wheels -r requirements.txt
COPY . .
RUN python3 -m compileall -q app
EXPOSE 8000
CMD ["python3", "-m", "app"]
"""
PACKAGED = """\
FROM bench-base
COPY debs/ /tmp/debs/
RUN dpkg -i /tmp/debs/*.deb && rm -rf /tmp/debs
RUN mkdir -p /etc/tool && printf 'a=1\\n' >/etc/tool/conf
COPY entry.sh /usr/local/bin/
VOLUME /data
HEALTHCHECK CMD jq --version
ENTRYPOINT ["entry.sh"]
"""
BESIDE = """\
FROM bench-base AS one
RUN sleep 0.5 && echo 1 >/out
FROM bench-base AS two
RUN sleep 0.5 && echo 2 >/out
FROM bench-base AS three
RUN sleep 0.5 && echo 3 >/out
FROM bench-base
COPY --from=one /out /1
COPY --from=two /out /2
COPY --from=three /out /3
"""


@dataclass(frozen=True)
class Work:
    """``change`` is made before each build; ``cold``: nothing is taken from a cache."""

    context: Path
    cold: bool = False
    change: Change = lambda: None


def program(top: Path) -> Path:
    """C in two stages."""
    (top / "src").mkdir(parents=True)
    (top / "Dockerfile").write_text(PROGRAM)
    (top / "Makefile").write_text("program: src/*.c\n\tgcc -O2 -o $@ $^\n")
    for number in range(6):
        body = "".join(f"int f{number}_{i}(int a) {{ return a * {i}; }}\n" for i in range(200))
        (top / f"src/part{number}.c").write_text(body)
    (top / "src/main.c").write_text("int main(void) { return 0; }\n")
    return top


def service(top: Path) -> Path:
    """Python with its packages from a directory of wheels."""
    (top / "app").mkdir(parents=True)
    (top / "Dockerfile").write_text(SERVICE)
    (top / "requirements.txt").write_text("click\nPyYAML\n")
    for number in range(50):
        (top / f"app/module{number}.py").write_text(f"NUMBER = {number}\n" * 40)
    (top / "app/__main__.py").write_text("print('hello')\n")
    words = ["download", "-q", "--only-binary=:all:", "--python-version", "3.11", "-d",
             str(top / "wheels"), "click", "PyYAML"]  # fmt: skip
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, stderr=subprocess.DEVNULL)
    return top


def packaged(top: Path) -> Path:
    """Debian packages, from a directory of them."""
    (top / "debs").mkdir(parents=True)
    (top / "Dockerfile").write_text(PACKAGED)
    (top / "entry.sh").write_text('#!/bin/sh\nexec "$@"\n')
    words = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download"]
    subprocess.run([*words, "jq", "libjq1", "libonig5"], cwd=top / "debs", check=True)
    return top


def many(top: Path) -> Path:
    """A context of 50,000 files."""
    for number in range(MANY):
        if number % 100 == 0:
            folder = top / f"tree/{number // 10_000}/{number // 100}"
            folder.mkdir(parents=True)
        (folder / f"file{number}").write_text(f"{number}\n" * 20)
    (top / "Dockerfile").write_text("FROM bench-base\nCOPY . /all/\n")
    return top


def beside(top: Path) -> Path:
    """Three stages that need nothing of each other."""
    top.mkdir()
    (top / "Dockerfile").write_text(BESIDE)
    return top


def edited(path: Path) -> Change:
    """Another line at the end of a file, each time."""
    whole = path.read_text()

    def change() -> None:
        path.write_text(f"{whole}# {random.random()}\n")

    return change


def works(place: Path) -> dict[str, Callable[[], Work]]:
    return {
        "cold-program": lambda: Work(program(place / "program"), cold=True),
        "cold-service": lambda: Work(service(place / "service"), cold=True),
        "cold-packaged": lambda: Work(packaged(place / "packaged"), cold=True),
        "cached": lambda: Work(service(place / "cached")),
        "one-line": lambda: line_of(service(place / "line")),
        "many": lambda: one_of_many(many(place / "many")),
        "stages": lambda: Work(beside(place / "beside"), cold=True),
    }


def line_of(top: Path) -> Work:
    return Work(top, change=edited(top / "app/__main__.py"))


def one_of_many(top: Path) -> Work:
    return Work(top, change=edited(top / "tree/0/7/file777"))


# ---- who builds ----


@dataclass(frozen=True)
class Builder:
    tool: list[str]
    build: list[str]
    load: list[str]
    env: dict[str, str]

    def words(self, work: Work) -> list[str]:
        cold = ["--no-cache"] * work.cold
        tag = f"bench-{work.context.name}"
        return [*self.tool, *self.build, *cold, "-q", "-t", tag, str(work.context)]


def builders(store: Path, place: Path, cove: str, archive: Path) -> dict[str, Builder]:
    env = base_env() | {"COVE_ROOT": str(store / "cove"), "TMPDIR": str(store)}
    none = ["build", "--network", "none"]
    load = ["load", "-q", "-i", str(archive)]
    found = {"cove": Builder([cove], none, load, env)}
    for name in ("buildah", "podman"):
        if shutil.which(name):
            tool = [name, "--root", str(store / name), "--runroot", str(place / name[0])]
            tool += ["--storage-driver", "overlay"]
            alike = ["build", "--network", "host", "--layers", "--jobs", "3"]
            alike += ["--isolation", "chroot"]  # their fastest, which knows no other network
            own = ["pull", "-q", f"docker-archive:{archive}"] if name == "buildah" else load
            found[name] = Builder(tool, alike, own, env)
    if socket := os.environ.get("BENCH_DOCKER"):
        env = env | {"DOCKER_HOST": f"unix://{socket}", "DOCKER_BUILDKIT": "0"}
        found["docker"] = Builder(["docker"], none, load, env)
    return found


def base(place: Path, kept: str | None) -> Path:
    """The base as ``docker save`` would write it."""
    tar = Path(kept) if kept else place / "base.tar"
    if not tar.exists():
        words = ["mmdebstrap", "-q", "--variant=apt", f"--include={PACKAGES}", "bookworm"]
        subprocess.run([*words, str(tar)], check=True, env=base_env())
    layout, archive = place / "base.oci", place / "base.docker"
    copy = place / "layer.tar"
    os.symlink(tar.resolve(), copy)
    pulls.layout_of(layout, [copy])
    words = ["skopeo", "copy", "-q", f"oci:{layout}", f"docker-archive:{archive}:{BASE}:latest"]
    subprocess.run(words, check=True)
    shutil.rmtree(layout)
    return archive


# ---- the measurement ----


def measure(work: Work, contestants: dict[str, Builder], rounds: int) -> list[Series]:
    rows = {name: Series(name) for name in contestants}
    for number in range(-1, rounds):
        for name in random.sample(list(contestants), len(contestants)):
            work.change()
            quiet("sync")
            took, code = run_command(contestants[name].words(work), contestants[name].env)
            rows[name].failed += code != 0
            if number >= 0:
                rows[name].times.append(took)
            print(f"    {name}: {took / 1e3:.2f} s{' (failed)' * bool(code)}", file=sys.stderr)
    return list(rows.values())


def main() -> int:
    options = parse()
    place = Path(tempfile.mkdtemp(prefix="cb-", dir=options.state))
    cove = str(Path(sys.executable).parent / "cove")
    try:
        with ExitStack() as stack:
            store = Path(options.store or stack.enter_context(pulls.journalled(place)))
            contestants = builders(store, place, cove, base(place, options.base))
            for builder in contestants.values():
                subprocess.run(
                    [*builder.tool, *builder.load], env=builder.env, check=True,
                    stdout=subprocess.DEVNULL,
                )  # fmt: skip
            for name, make in works(place).items():
                if name in (options.work or name).split(","):
                    rows = measure(make(), contestants, options.rounds)
                    print(table(name, rows), flush=True)
            env = contestants["cove"].env
            quiet(cove, "network", "prune", "-f", env=env)  # its bridge and rules are the host's
            quiet(cove, "daemon", "stop", env=env)
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=False)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.builds", description=__doc__, epilog=pulls.HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", help=f"some of: {', '.join(works(Path()))}")
    parser.add_argument(
        "--base", metavar="TAR", help="a root file system to begin with, or where to keep it"
    )
    parser.add_argument("--state", help="directory for all state (default: the temporary one)")
    parser.add_argument("--store", help="directory on a journalled file system for all stores")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
