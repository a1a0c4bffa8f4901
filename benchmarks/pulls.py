"""python -m benchmarks.pulls: pull and unpack from a registry on loopback, cove beside the peers.

All stores lie on one loop-mounted, journalled ext4, made for the occasion, so that no contestant
writes to a better disk. Needs root, docker-registry and skopeo; see --help for docker.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.measure import Series, run_command, table
from benchmarks.peers import base_env

HOW = """\
docker has a store and a network namespace of its own; give it both before:
  unshare --net dockerd --bridge=none --iptables=false --data-root STORE/docker \\
    --exec-root D/exec -H unix://D/sock --pidfile D/pid &
with STORE a directory on the file system that --store names, then
  nsenter --net -t $(cat D/pid) ip link set lo up
  export BENCH_DOCKER=D/sock BENCH_DOCKER_PID=$(cat D/pid)
"""

LAYERS, ENTRIES, SIZE = 5, 52_000, 1_100_000_000
PORT = 5077
Pull = tuple[Callable[[], tuple[float, int]], Callable[[], None]]
"""A timed pull, and what undoes it."""


# ---- images ----


LARGEST = 8 << 20


def host_files() -> tuple[Iterator[Path], Iterator[Path]]:
    """Files of this host, the small and the large ones, again and again: they are as compressible
    as files are.
    """
    found: list[Path] = []
    for top in ("/usr/lib", "/usr/share", "/usr/include", "/usr/bin"):
        for folder, _, names in os.walk(top):
            paths = (Path(folder, name) for name in names)
            found += [p for p in paths if p.is_file() and not p.is_symlink()]
    found = [path for path in found if 0 < path.stat().st_size < LARGEST]
    random.Random(1).shuffle(found)
    mean = SIZE // ENTRIES
    small = [path for path in found if path.stat().st_size < mean]
    return itertools.cycle(small), itertools.cycle([p for p in found if p.stat().st_size >= mean])


def write_layer(
    target: Path, small: Iterator[Path], large: Iterator[Path], entries: int, size: int
) -> None:
    """A tar with so many entries and about so many bytes."""
    written = 0
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for count in range(entries):
            info = tarfile.TarInfo(f"{target.stem}/{count // 40:05}")
            info.mtime = 1_700_000_000
            if count % 40 == 0:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
                continue
            path = next(large if written * entries < size * count else small)
            info.name += f"/{count}-{path.name}"
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(info, file)
            written += info.size


def layout_of(target: Path, tars: list[Path]) -> None:
    """An OCI layout with gzip layers, as ``docker push`` compresses them."""
    blobs = target / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media: str) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        kind = f"application/vnd.oci.image.{media}"
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

    layers, diff_ids = [], []
    for tar in tars:
        data = tar.read_bytes()
        diff_ids.append("sha256:" + hashlib.sha256(data).hexdigest())
        packer = zlib.compressobj(6, wbits=31)
        layers.append(put(packer.compress(data) + packer.flush(), "layer.v1.tar+gzip"))
        tar.unlink()
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = {
        "architecture": arch, "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "benchmarks"} for _ in diff_ids],  # buildah counts them
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": layers,
    }
    entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def make_image(place: Path, name: str, tars: list[Path], registry: str) -> str:
    layout = place / f"{name}.oci"
    layout_of(layout, tars)
    reference = f"{registry}/{name}:1"
    subprocess.run(
        ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}",
         f"docker://{reference}"], check=True,
    )  # fmt: skip
    shutil.rmtree(layout)
    return reference


def big(place: Path, registry: str) -> str:
    """1.1 GB in 52,000 entries and 5 layers."""
    (small, large), tars = host_files(), []
    for number in range(LAYERS):
        tars.append(place / f"layer{number}.tar")
        write_layer(tars[-1], small, large, ENTRIES // LAYERS, SIZE // LAYERS)
    return make_image(place, "big", tars, registry)


def debian(place: Path, registry: str) -> str:
    """Debian's base system, as mmdebstrap makes it."""
    tar = place / "debian.tar"
    subprocess.run(
        ["mmdebstrap", "-q", "--variant=apt", "bookworm", str(tar)], check=True, env=base_env()
    )
    return make_image(place, "debian", [tar], registry)


IMAGES = {"big": big, "debian": debian}


# ---- what they run on ----


@contextmanager
def journalled(place: Path) -> Iterator[Path]:
    """A loop-mounted ext4 with a journal."""
    disk, mount = place / "disk.img", place / "store"
    mount.mkdir()
    with disk.open("wb") as file:
        file.truncate(20 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(mount)], check=True)
    try:
        yield mount
    finally:
        end = time.monotonic() + 20  # a daemon that was told to stop is still putting things away
        while subprocess.run(["umount", "-R", mount], capture_output=True).returncode:
            if time.monotonic() > end:
                subprocess.run(["umount", "-R", "-l", mount], check=False)
                break
            time.sleep(0.2)
        disk.unlink()


@contextmanager
def registry(place: Path, enter: list[str]) -> Iterator[str]:
    """Debian's docker-registry on loopback; ``enter`` leads into another network namespace."""
    conf = place / "registry.yml"
    conf.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {place}/"
        f"registry}}}}\nhttp: {{addr: 127.0.0.1:{PORT}}}\n"
    )
    child = subprocess.Popen(
        [*enter, "docker-registry", "serve", str(conf)], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(1)
        yield f"127.0.0.1:{PORT}"
    finally:
        child.terminate()
        child.wait()


def quiet(*argv: str, env: dict[str, str] | None = None) -> None:
    subprocess.run(argv, env=env, capture_output=True, check=False)


def contestants(store: Path, place: Path, reference: str, cove: str) -> dict[str, Pull]:
    found: dict[str, Pull] = {}
    env = base_env() | {"COVE_ROOT": str(store / "cove")}
    quiet(cove, "ps", env=env)
    found["cove"] = (
        lambda: run_command([cove, "pull", "-q", reference], env),
        lambda: quiet(cove, "rmi", "-f", reference, env=env),
    )
    if shutil.which("podman"):
        tool = ["podman", "--root", str(store / "podman"), "--runroot", str(place / "podman-run")]
        found["podman"] = (
            lambda: run_command([*tool, "pull", "-q", "--tls-verify=false", reference], env),
            lambda: quiet(*tool, "rmi", "-f", reference, env=env),
        )
    if shutil.which("umoci"):
        layout, bundle = store / "umoci", store / "bundle"
        script = (
            f"skopeo copy -q --src-tls-verify=false docker://{reference} oci:{layout}:1 && "
            f"umoci unpack --image {layout}:1 {bundle}"
        )
        found["skopeo and umoci"] = (
            lambda: run_command(["sh", "-c", script], env),
            lambda: quiet("rm", "-rf", str(layout), str(bundle)),
        )
    if os.environ.get("BENCH_DOCKER"):
        other = env | {"DOCKER_HOST": f"unix://{os.environ['BENCH_DOCKER']}"}
        found["docker"] = (
            lambda: run_command(["docker", "pull", "-q", reference], other),
            lambda: quiet("docker", "rmi", "-f", reference, env=other),
        )
    found["curl and tar, one by one"] = floor(store, reference)
    return found


def floor(store: Path, reference: str) -> Pull:
    """What has to be done at least, by the tools everybody has."""
    host, _, name = reference.partition("/")
    name = name.partition(":")[0]
    base = f"http://{host}/v2/{name}"
    accept = "Accept: application/vnd.oci.image.manifest.v1+json"
    text = subprocess.run(
        ["curl", "-s", "-H", accept, f"{base}/manifests/1"], capture_output=True, check=True
    ).stdout
    digests = [layer["digest"] for layer in json.loads(text)["layers"]]
    target = store / "floor"
    script = f"mkdir {target}; " + "".join(
        f"curl -s {base}/blobs/{digest} | tar -xz -C {target}; " for digest in digests
    )
    return (
        lambda: run_command(["bash", "-c", script], base_env()),
        lambda: quiet("rm", "-rf", str(target)),
    )


# ---- the measurement ----


def measure(pulls: dict[str, Pull], rounds: int) -> list[Series]:
    rows = {name: Series(name) for name in pulls}
    for number in range(-1, rounds):
        order = list(pulls)
        random.shuffle(order)
        for name in order:
            pull, undo = pulls[name]
            undo()
            quiet("sync")
            took, code = pull()
            rows[name].failed += code != 0
            if number >= 0:
                rows[name].times.append(took)
            print(f"    {name}: {took / 1e3:.2f} s{' (failed)' if code else ''}", file=sys.stderr)
            undo()
    return list(rows.values())


def main() -> int:
    options = parse()
    place = Path(tempfile.mkdtemp(prefix="cove-pulls-", dir=options.state))
    beside = Path(sys.executable).parent / "cove"
    try:
        with ExitStack() as stack:
            store = Path(options.store or stack.enter_context(journalled(place)))
            address = stack.enter_context(registry(place, []))
            if pid := os.environ.get("BENCH_DOCKER_PID"):
                stack.enter_context(registry(place, ["nsenter", "--net", "-t", pid]))
            for name in options.image.split(","):
                reference = IMAGES[name](place, address)
                pulls = contestants(store, place, reference, str(beside))
                if options.only:
                    pulls = {k: v for k, v in pulls.items() if k in options.only.split(",")}
                rows = measure(pulls, options.rounds)
                print(table(f"pull {name}: {IMAGES[name].__doc__}", rows), flush=True)
            quiet(str(beside), "daemon", "stop", env=base_env() | {"COVE_ROOT": f"{store}/cove"})
            quiet("podman", "--root", f"{store}/podman", "system", "reset", "-f")
    finally:
        quiet("rm", "-rf", str(place))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pulls", description=__doc__, epilog=HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", default="big", help=f"some of: {', '.join(IMAGES)}")
    parser.add_argument("--only", help="names of contestants, with commas")
    parser.add_argument("--state", help="directory for all state (default: the temporary one)")
    parser.add_argument("--store", help="directory on a journalled file system for all stores")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
