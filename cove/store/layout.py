"""Every path of a state directory, in one place. Pure: it touches no file; ``docs/state.md``
describes each.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

FORMAT = 7
"""Of the whole state directory; raised when an older cove could not read it any more."""


SOCKETS = ("sock", "relay", "guest", "qmp", "files")
"""Of a machine, in ``run/``: its monitor's, that of who carries for its ports and, of a virtual
machine, its guest's, QEMU's and, for a moment, its file server's.
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below ``root``, which is absolute and holds no symbolic link."""

    root: str

    @property
    def lock(self) -> str:
        return f"{self.root}/lock"

    @property
    def format(self) -> str:
        return f"{self.root}/format"

    @property
    def database(self) -> str:
        return f"{self.root}/cove.db"

    @property
    def reserve(self) -> str:
        return f"{self.root}/reserve"

    @property
    def registries(self) -> str:
        """Written by people: which registries may be spoken to over http."""
        return f"{self.root}/registries.json"

    @property
    def builder(self) -> str:
        """Written by people: how much builds may keep."""
        return f"{self.root}/builder.json"

    @property
    def forwarding(self) -> str:
        """There while the host forwards for others alone, and cove had switched that on."""
        return f"{self.root}/forwarding.json"

    @property
    def blobs(self) -> str:
        return f"{self.root}/blobs/sha256"

    @property
    def partial(self) -> str:
        return f"{self.root}/partial"

    @property
    def recipes(self) -> str:
        return f"{self.root}/recipes"

    def recipe(self, key: int) -> str:
        """How the archive of the layer ``roots/l<key>`` is made of its files again."""
        return f"{self.root}/recipes/{key}"

    @property
    def lists(self) -> str:
        return f"{self.root}/lists"

    def manifest_list(self, key: str) -> str:
        """One that is being put together, by the digest of its name."""
        return f"{self.root}/lists/{key}.json"

    @property
    def packed(self) -> str:
        return f"{self.root}/packed"

    def packed_layer(self, key: int) -> str:
        """The compressed archive of the layer ``roots/l<key>``, as a registry or archive had it."""
        return f"{self.root}/packed/{key}"

    @property
    def roots(self) -> str:
        return f"{self.root}/roots"

    @property
    def kernels(self) -> str:
        return f"{self.root}/kernels"

    @property
    def machines(self) -> str:
        return f"{self.root}/machines"

    @property
    def run(self) -> str:
        return f"{self.root}/run"

    @property
    def tmp(self) -> str:
        return f"{self.root}/tmp"

    @property
    def in_memory(self) -> str:
        """How directories begin that are on no disk."""
        return f"cove-{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:8]}-"

    @property
    def front_socket(self) -> str:
        return f"{self.root}/run/front.sock"

    @property
    def api_socket(self) -> str:
        return f"{self.root}/run/api.sock"

    @property
    def docker_socket(self) -> str:
        """Docker's API, unless a setting puts it elsewhere."""
        return f"{self.root}/run/docker.sock"

    @property
    def daemon_pid(self) -> str:
        return f"{self.root}/run/daemon.pid"

    @property
    def daemon_version(self) -> str:
        """The build of the daemon that listens, or listened last."""
        return f"{self.root}/run/daemon.version"

    def layer(self, key: int) -> str:
        return f"{self.root}/roots/l{key}"

    def upper(self, key: int) -> str:
        """The writable layer of a machine: ``fs``, ``work`` and, for views, ``v<i>`` and
        ``w<i>``.
        """
        return f"{self.root}/roots/u{key}"

    def kernel(self, name: str) -> str:
        """A guest kernel: ``meta.json``, ``kernel``, ``config``, ``modules/``, ``initrd/``."""
        return f"{self.root}/kernels/{name}"

    @property
    def agents(self) -> str:
        """Agents for guests of other CPUs, by CPU, with what their compiler keeps."""
        return f"{self.root}/agents"

    @property
    def kvm(self) -> str:
        """What came of the trial boot."""
        return f"{self.root}/kvm.json"

    @property
    def disks(self) -> str:
        return f"{self.root}/disks"

    def disk(self, image: str) -> str:
        """An image as the root disk of virtual machines: an erofs, by the image's id."""
        return f"{self.root}/disks/{image.removeprefix('sha256:')}.erofs"

    @property
    def snapshots(self) -> str:
        return f"{self.root}/snapshots"

    def snapshot(self, snapshot_id: str) -> str:
        """Of a virtual machine: ``meta.json``, ``disk``, and of one that ran ``memory`` and
        ``state``.
        """
        return f"{self.root}/snapshots/{snapshot_id}"

    @property
    def volumes(self) -> str:
        return f"{self.root}/volumes"

    def volume(self, name: str) -> str:
        return f"{self.root}/volumes/{name}"

    def volume_data(self, name: str) -> str:
        """What machines see of it; ids as inside."""
        return f"{self.root}/volumes/{name}/_data"

    def volume_image(self, name: str) -> str:
        """In place of that: a file system of the size that it may have, once it was used."""
        return f"{self.root}/volumes/{name}/image"

    def volume_disk(self, name: str) -> str:
        """In place of that: the disk that its guests have, once one had it."""
        return f"{self.root}/volumes/{name}/disk"

    @property
    def templates(self) -> str:
        return f"{self.root}/templates"

    def template(self, key: str) -> str:
        """A guest that has booted: ``meta.json``, ``memory``, ``state``."""
        return f"{self.root}/templates/{key}"

    def placeholder(self, key: str) -> str:
        """The image that clones are warmed with, by the digest of its program."""
        return f"{self.root}/templates/placeholder-{key}.erofs"

    def scratch(self, size: int, *, journal: bool) -> str:
        """An empty scratch disk of so many bytes, which new ones are copies of."""
        return f"{self.root}/disks/scratch-{size}{'-journal' if journal else ''}.ext4"

    def machine(self, key: int) -> str:
        return f"{self.root}/machines/{key}"

    def log(self, key: int) -> str:
        return f"{self.root}/machines/{key}/log"

    def exit_file(self, key: int) -> str:
        return f"{self.root}/machines/{key}/exit"

    def failed_plan(self, key: int) -> str:
        return f"{self.root}/machines/{key}/plan.txt"

    def sockets(self, key: int) -> tuple[str, ...]:
        return tuple(f"{self.root}/run/{key}.{kind}" for kind in SOCKETS)

    def directories(self) -> tuple[tuple[str, int], ...]:
        """The directories of an empty state directory, parents first, each with its mode."""
        mount_points = ("m", *(f"v{i}" for i in range(VIEWS)))
        return (
            (f"{self.root}/blobs", 0o700),
            (self.blobs, 0o700),
            (self.partial, 0o700),
            (self.recipes, 0o700),
            (self.packed, 0o700),
            (self.lists, 0o700),
            (self.roots, 0o700),
            *((f"{self.roots}/{name}", 0o755) for name in mount_points),
            *((f"{self.roots}/{name}", 0o755) for name in ("p", "p/dev", "p/etc")),
            *((f"{self.roots}/{name}", 0o555) for name in ("p/proc", "p/sys")),
            (self.kernels, 0o700),
            (self.machines, 0o700),
            (self.disks, 0o700),
            (self.templates, 0o700),
            (self.snapshots, 0o700),
            (self.volumes, 0o700),
            (self.run, 0o700),
            (self.tmp, 0o700),
        )

    def files(self) -> tuple[str, ...]:
        """Empty files of an empty state directory: in the lowest layer of every machine, for what
        is mounted over them. Where an image has its own, that one shows.
        """
        return tuple(f"{self.roots}/p/etc/{name}" for name in ("hosts", "hostname", "resolv.conf"))


VIEWS = 8
"""Mount points for views below ``roots``: v0 to v7."""
