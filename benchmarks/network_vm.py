"""Bytes a second to and from a virtual machine on a network, beside the same guest of plain QEMU
whose tap is a port of a bridge that was made by hand: same kernel, CPU, memory, accelerator.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from cove.linux.probe import probe_facts
from cove.linux.virtual import probe_virtual
from cove.planner.virtual.qemu import BARE, MACHINES

MEMORY = "256M"
SCRIPT = """#!/bin/sh
run() {{ /bin/busybox "$@"; }}
run mount -t proc proc /proc
run mknod /dev/null c 1 3
run mknod /dev/urandom c 1 9
exec < /dev/null > /dev/null 2>&1
for name in {modules}; do run insmod /modules/$name.ko; done
run ip link set lo up
run ip addr add {address}/24 dev eth0
run ip link set eth0 up
while :; do {iperf} -s; done
"""


class PlainGuest:
    """It serves iperf3 at ``address``, on ``bridge``, until it is closed. ``offloads``: guest and
    tap hand each other packets that no wire would carry, unchecked (vnet_hdr), as QEMU does if
    nobody says otherwise.
    """

    def __init__(
        self,
        place: Path,
        root: Path,
        kernel: Path,
        *,
        bridge: str,
        address: str,
        iperf: str,
        offloads: bool,
    ) -> None:
        self.tap = "bench-on" if offloads else "bench-off"
        flags = ["vnet_hdr"] if offloads else []
        subprocess.run(["ip", "tuntap", "add", self.tap, "mode", "tap", *flags], check=True)
        subprocess.run(["ip", "link", "set", self.tap, "master", bridge, "up"], check=True)
        record = json.loads((kernel / "meta.json").read_text())
        modules = record.get("modules", [])
        initrd = place / f"{self.tap}.cpio"
        _write_initrd(root, kernel, initrd, SCRIPT.format(
            modules=" ".join(modules), address=address, iperf=iperf))  # fmt: skip
        with (place / f"{self.tap}.log").open("wb") as log:
            self.process = subprocess.Popen(
                _command(record, kernel / "kernel", initrd, self.tap, offloads),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        subprocess.run(["ip", "link", "del", self.tap], check=True)


def _command(
    record: dict[str, object], kernel: Path, initrd: Path, tap: str, offloads: bool
) -> list[str]:
    """As the design notes have it; emulated, as cove does where no trial under KVM passed."""
    facts = probe_virtual(probe_facts("/"), os.uname().machine)
    kind, hz = MACHINES["x86_64"], int(str(record.get("hz", 250)))
    options = record.get("options", [])
    bare = set(options if isinstance(options, list) else ()) >= BARE
    switch = "on" if offloads else "off"
    words = ["no_timer_check", "tsc=reliable", "mitigations=off", "panic=-1", "quiet"]
    if facts.tsc_khz:
        words += [f"tsc_early_khz={facts.tsc_khz}", f"lpj={facts.tsc_khz * 1000 // hz}"]
    return [
        "qemu-system-x86_64", "-M", kind.name + (",acpi=off" if bare else ""),
        "-accel", "tcg,tb-size=64", "-cpu", kind.cpu, "-m", MEMORY, "-nodefaults",
        "-no-user-config", "-display", "none", "-no-reboot", "-kernel", str(kernel),
        "-initrd", str(initrd), "-append", " ".join(words),
        "-netdev", f"tap,id=n,ifname={tap},script=no,downscript=no,vnet_hdr={switch}",
        "-device", f"virtio-net-device,netdev=n,mac=02:be:00:00:00:0{1 + offloads}",
    ]  # fmt: skip


def _write_initrd(root: Path, kernel: Path, target: Path, script: str) -> None:
    tree = shutil.copytree(root, target.with_suffix(".tree"), symlinks=True)
    (tree / "init").write_text(script)
    (tree / "init").chmod(0o755)
    for name in ("dev", "proc", "tmp"):
        (tree / name).mkdir(exist_ok=True)
    shutil.copytree(kernel / "modules", tree / "modules")
    names = subprocess.run(["find", "."], cwd=tree, capture_output=True, check=True).stdout
    with target.open("wb") as file:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names, stdout=file, check=True
        )
