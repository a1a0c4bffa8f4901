"""A virtual machine with a warm Python interpreter: forked into eight, each answering with what
only the first had computed; and everything in it removed, then restored. Needs a guest kernel:

    python -m benchmarks.forks --kernels .cache/vm/kernels
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.vm import Bench, kinds
from benchmarks.vm_rows import Row

IMAGE, NAME, COUNT = "cove-bench-python", "parent", 8
SERVER = """
import json, os, re, hashlib
found = {n: hashlib.sha256(str(n).encode()).hexdigest() for n in range(20000)}
secret = os.urandom(16).hex()
for pipe in ("/ask", "/tell"):
    os.mkfifo(pipe)
while True:
    with open("/ask") as ask:
        number = int(ask.read())
    with open("/tell", "w") as tell:
        print(secret, found[number], file=tell)
"""
ASK = ("sh", "-c", "echo 19999 >/ask; cat /tell")
BUSY = ("sh", "cat", "echo", "rm", "test", "sleep", "hostname", "ping", "ip")


def python_tar(target: Path, *others: str) -> Path:
    """An image of this host's own interpreter with its library, of its programs ``others``, and
    busybox.
    """
    program = os.path.realpath("/usr/bin/python3")
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        root = Path(scratch)
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "usr/bin"):
            (root / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
        for applet in BUSY:
            (root / "bin" / applet).symlink_to("busybox")
        shutil.copy(program, root / "usr/bin/python3")
        for path in others:
            shutil.copy(path, root / path.lstrip("/"))
        needed = subprocess.run(
            ["ldd", program, *others], capture_output=True, text=True, check=True
        )
        for word in needed.stdout.split():
            if word.startswith("/") and not word.endswith(":"):
                (root / word.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, root / word.lstrip("/"))
        library = Path("/usr/lib", os.path.basename(program))
        skip = shutil.ignore_patterns("test", "__pycache__", "idlelib", "*config-*", "ensurepip")
        shutil.copytree(library, root / str(library).lstrip("/"), ignore=skip, symlinks=False)
        subprocess.run(["tar", "-C", root, "--numeric-owner", "-cf", target, "."], check=True)
    return target


def begin(bench: Bench) -> str:
    """The machine, and its answer."""
    bench("run", "-d", "--vm", "--name", NAME, IMAGE, "python3", "-c", SERVER)
    ready = ("exec", NAME, "test", "-p", "/tell")
    bench.wait(lambda: _succeeds(bench, *ready), "a warm interpreter")
    return bench("exec", NAME, *ASK)


def _succeeds(bench: Bench, *words: str) -> bool:
    done = subprocess.run([bench.cove, *words], env=bench.env, capture_output=True, check=False)
    return done.returncode == 0


def fork(bench: Bench, said: str, rows: dict[str, Row], *, count: int = COUNT) -> list[str]:
    """Each child is asked as soon as its start is told: their names."""
    answered: list[float] = []
    watch = subprocess.Popen(
        [bench.cove, "events", "--filter", "event=start", "--format", "{{.Actor.Attributes.name}}"],
        env=bench.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(1)  # until it listens
    names: list[str] = []
    threads: list[threading.Thread] = []

    def ask(name: str, began: float) -> None:
        assert bench("exec", name, *ASK) == said, name
        answered.append((time.perf_counter() - began) * 1e3)

    began = time.perf_counter()
    making = subprocess.Popen(
        [bench.cove, "fork", NAME, "-n", str(count)], env=bench.env,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watch.stdout is not None
    while len(names) < count:
        names.append(watch.stdout.readline().strip())
        threads.append(threading.Thread(target=ask, args=(names[-1], began)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    note = making.communicate()[1]
    watch.terminate()
    watch.communicate()
    assert len(answered) == count
    rows["first"].values.append(min(answered))
    rows["last"].values.append(max(answered))
    rows["pause"].values.append(float(note.split()[-2]))
    return names


def memory(bench: Bench, names: list[str], rows: dict[str, Row]) -> None:
    """What each has of its own, and what all have together."""
    for name in names:
        hub = bench("inspect", "-f", "{{.State.Pid}}", name).strip()
        children = Path(f"/proc/{hub}/task/{hub}/children").read_text().split()
        (pid,) = [p for p in children if b"qemu" in Path(f"/proc/{p}/cmdline").read_bytes()]
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                rows["own"].values.append(int(line.split()[1]) / 1024)
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "memfd:moment" in line:
                place = line.split()[0]
                blocks = os.stat(f"/proc/{pid}/map_files/{place}").st_blocks
                rows["shared"].values[:] = [blocks / 2048]


def restore(bench: Bench, said: str, rows: dict[str, Row]) -> None:
    bench("snapshot", "create", NAME, "whole")
    for _ in range(5):
        bench("exec", NAME, "sh", "-c", "rm -rf /* 2>/dev/null", check=False)
        began = time.perf_counter()
        bench("restore", NAME, "whole")
        rows["restore"].values.append((time.perf_counter() - began) * 1e3)
        assert bench("exec", NAME, *ASK) == said
        rows["again"].values.append((time.perf_counter() - began) * 1e3)
    bench("snapshot", "rm", "whole", check=False)


def measure(place: Path, cove: str, kernels: Path, rounds: int) -> None:
    bench = Bench(place, cove, kernels)
    try:
        bench.root.mkdir()
        if (kernels.parent / "kvm.json").exists():
            shutil.copy(kernels.parent / "kvm.json", bench.root / "kvm.json")
        bench("image", "import", str(python_tar(place / "image.tar")), IMAGE)
        print(f"forks of a warm interpreter{'':19} {'min':>8} {'median':>8} {'max':>8}  budget")
        for kind, name in kinds(kernels).items():
            bench.open(name, pool=0)
            said = begin(bench)
            texts = {
                "pause": f"{kind} kernel, parent stood still",
                "first": f"{kind} kernel, fork -n {COUNT}: first answer",
                "last": f"{kind} kernel, fork -n {COUNT}: {COUNT}th answer",
                "own": f"{kind} kernel, fork that answered: own memory",
                "shared": f"{kind} kernel, memory all forks share",
                "restore": f"{kind} kernel, rm -rf /, then restore",
                "again": f"{kind} kernel, the same, to its answer",
            }
            rows = {key: Row(text, 0) for key, text in texts.items()}
            rows["pause"].budget = 150
            rows["own"].unit = rows["shared"].unit = "MiB"
            for turn in range(rounds):
                names = fork(bench, said, rows)
                if turn == 0:
                    memory(bench, names, rows)
                bench("rm", "-f", *names)
            restore(bench, said, rows)
            for row in rows.values():
                print(row.line(), flush=True)
            bench("rm", "-f", NAME)
    finally:
        bench.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--cove", default=str(Path(sys.executable).parent / "cove"))
    parser.add_argument("--kernels", default=".cache/vm/kernels")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cove-b-", dir="/tmp") as place:
        measure(Path(place), options.cove, Path(options.kernels).resolve(), options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
