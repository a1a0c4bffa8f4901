"""``cove kernel fetch``: Debian's own kernels by apt, for this CPU and another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.driver import Cove

FETCH = """
import sys
from cove.errors import HostError
from cove.vm.debian import Apt
apt = Apt(sys.argv[1], arch="x86_64", env=(), progress=lambda step: None, gone=lambda: False)
try:
    apt.find("cove-has-no-such-package")
except HostError as error:
    print(error.message, error.host, sep="\\n")
"""


def fetched(cove: Cove, *words: str) -> str:
    """Its name; skips where no package source answers."""
    done = cove("kernel", "fetch", *words, code=None, timeout=300)
    if done.returncode:
        assert done.err.count("cove: cannot fetch") == 1, done.err
        pytest.skip(f"needs Debian's package sources: {done.err.strip().splitlines()[-1]}")
    return done.out.strip()


def test_debians_kernel_comes_whole_and_once(cove: Cove) -> None:
    name = fetched(cove)
    meta = json.loads((cove.root / f"kernels/{name}/meta.json").read_text())
    assert meta["source"] == "debian" and meta["origin"].startswith(f"linux-image-{name}=")
    assert meta["modules"][:2] == ["virtio_ring", "virtio"] and "erofs" in meta["modules"]
    assert meta["later"] == ["fuse", "virtiofs"]
    again = cove("kernel", "fetch")
    assert (again.out, again.err) == (f"{name}\n", f"Kernel is up to date: {name}\n")
    assert os.listdir(cove.root / "tmp") == []


def test_a_kernel_for_another_cpu(cove: Cove) -> None:
    other = "linux/amd64" if os.uname().machine == "aarch64" else "linux/arm64"
    name = fetched(cove, "--platform", other)
    rows = [json.loads(line) for line in cove("kernel", "ls", "--format", "json").out.splitlines()]
    assert [row["Arch"] for row in rows if row["Name"] == name] == [other.removeprefix("linux/")]


def test_a_package_that_is_none(cove: Cove) -> None:
    said = cove("kernel", "fetch", "cove-has-no-such-package", code=None, timeout=300).err
    assert "cannot fetch" in said
    assert os.listdir(cove.root / "tmp") == []


def test_sources_that_do_not_answer_are_not_said_to_lack_it(tmp_path: Path) -> None:
    words = [sys.executable, "-c", FETCH, str(tmp_path)]
    said = subprocess.run(
        ["unshare", "--net", *words], capture_output=True, text=True, check=True, timeout=300
    ).stdout.splitlines()
    assert said[0] == "cannot fetch cove-has-no-such-package: a package source does not answer"
    assert "://" in said[1]


def test_the_trial_of_kvm_is_told_by_info(cove: Cove) -> None:
    remembered = {"usable": False, "reason": "a guest did not start", "host": {}}
    (cove.root / "kvm.json").write_text(json.dumps(remembered))
    said = "no KVM: virtual machines are emulated (a guest did not start)"
    assert said in cove("info", "--format", "{{json .Warnings}}").out
    remembered["usable"] = True
    (cove.root / "kvm.json").write_text(json.dumps(remembered))
    assert "KVM" not in cove("info", "--format", "{{json .Warnings}}").out
    (cove.root / "kvm.json").unlink()
