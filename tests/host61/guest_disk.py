"""The guest's system: Debian bookworm with its own kernel, made by mmdebstrap and kept in the cache
until this recipe changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cove.errors import NotFound
from cove.image.distributions import read_wish, sources_for
from tests.driver import ROOT
from tests.host61.newc import archive

CACHE = ROOT / ".cache/host61"
KERNEL = "linux-image-cloud-amd64"
"""Debian's kernel with the drivers of virtual machines; its walls are the other flavours'."""
PACKAGES = (
    KERNEL,
    *("busybox-static", "e2fsprogs", "iproute2", "kmod", "nftables", "procps", "tmux"),
    *("gcc", "libc6-dev", "musl-tools", "libseccomp2"),  # the probe and the decoder are compiled
    *("python3", "python3-venv", "skopeo", "umoci"),
)
MODULES = ("virtio_mmio", "virtio_blk")
SIZE = "32G"

INIT = """\
#!/busybox sh
/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /busybox insmod $module; done
/busybox mount -t ext4 /dev/vda /root
/busybox mount -t ext4 /dev/vdb /root/mnt
/busybox mount --move /dev /root/dev
exec /busybox switch_root /root /usr/bin/python3 -I /mnt/tests/host61/guest.py
"""


@dataclass(frozen=True)
class Guest:
    kernel: Path
    initrd: Path
    disk: Path
    """Raw, never written to."""


def guest_disk() -> Guest:
    """The kept one, or a new one."""
    recipe = "\n".join([*_mmdebstrap(Path()), *MODULES, SIZE, INIT])
    place = CACHE / hashlib.sha256(recipe.encode()).hexdigest()[:12]
    guest = Guest(place / "vmlinuz", place / "initrd", place / "root.ext4")
    if not place.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob("[0-9a-f]" * 12 + "*"):
            shutil.rmtree(old)
        _make(guest, place)
    return guest


def _make(guest: Guest, place: Path) -> None:
    if os.geteuid() != 0:
        sys.exit("host61: only root can make the guest's disk")
    print("host61: making the guest's disk by mmdebstrap", file=sys.stderr)
    draft = place.with_name(place.name + ".draft")
    tree = draft / "tree"
    tree.mkdir(parents=True)
    subprocess.run(_mmdebstrap(tree), check=True, stdin=subprocess.DEVNULL)
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, draft / guest.kernel.name)
    (draft / guest.initrd.name).write_bytes(_initrd(tree, kernel.name.removeprefix("vmlinuz-")))
    for boot in (tree / "boot").iterdir():
        boot.unlink()
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-J", "size=32", "-d", tree, draft / guest.disk.name, SIZE],
        check=True,
    )
    shutil.rmtree(tree)
    draft.rename(place)


def _mmdebstrap(tree: Path) -> list[str]:
    try:
        wish = read_wish("debian:bookworm", "minbase", PACKAGES, "")
        sources = [source.line() for source in sources_for(wish)]
    except NotFound:  # no Debian: mmdebstrap knows the usual ones
        sources = []
    return [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "bookworm",
        str(tree),
        *sources,
    ]


def _initrd(tree: Path, version: str) -> bytes:
    """busybox, what the disk needs, and six lines of shell."""
    lines = []
    for module in MODULES:
        show = ["chroot", tree, "modprobe", "--set-version", version, "--show-depends", module]
        lines += subprocess.run(show, capture_output=True, check=True, text=True).stdout.split("\n")
    paths = dict.fromkeys(line.split()[1] for line in lines if line.startswith("insmod"))
    files = {
        "busybox": (0o755, (tree / "bin/busybox").read_bytes()),
        "init": (0o755, INIT.encode()),
    }
    for number, path in enumerate(paths):
        files[f"modules/{number}.ko"] = (0o644, (tree / path.lstrip("/")).read_bytes())
    return archive(("dev", "modules", "root"), files)
