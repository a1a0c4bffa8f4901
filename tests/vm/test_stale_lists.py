"""A mirror that has replaced a kernel since the host's lists were fetched, as Debian's security
mirror does with each: the newer one is fetched, by its new name.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

PLAY = """
set -e
mount --bind $PLACE/etc /etc/apt
mount -t tmpfs none /var/lib/apt/lists
mkdir -p /var/lib/apt/lists/partial $PLACE/cache/archives/partial
apt-get update -qq -o Dir::Cache=$PLACE/cache -o APT::Sandbox::User=root
mv $PLACE/new/* $PLACE/mirror/
exec "$@"
"""
FETCH = """
import sys
from cove.vm.debian import Apt, find_image
apt = Apt(sys.argv[1], arch="x86_64", env=(), progress=lambda step: None, gone=lambda: False)
found = find_image(apt, "linux-image-cloud-cove")
newer, root = apt.unpack(found, lambda: find_image(apt, "linux-image-cloud-cove"))
print(found, newer, open(root + "/boot/vmlinuz").read())
"""


def package(place: Path, name: str, version: str, depends: str = "") -> str:
    """The file, and what a mirror says of it."""
    root = place / name
    (root / "DEBIAN").mkdir(parents=True)
    (root / "boot").mkdir()
    (root / "boot/vmlinuz").write_text(version)
    fields = [f"Package: {name}", f"Version: {version}", "Architecture: amd64"]
    fields += ["Maintainer: nobody <nobody@example.org>", "Description: of a test"]
    fields += [f"Depends: {depends}"] if depends else []
    (root / "DEBIAN/control").write_text("\n".join(fields) + "\n")
    deb = place / f"{name}_{version}.deb"
    subprocess.run(["dpkg-deb", "-b", str(root), str(deb)], check=True, capture_output=True)
    shutil.rmtree(root)
    data = deb.read_bytes()
    fields += [f"Filename: ./{deb.name}", f"Size: {len(data)}"]
    return "\n".join([*fields, f"SHA256: {hashlib.sha256(data).hexdigest()}", "", ""])


def mirror(place: Path, version: str) -> None:
    """Packages as ``linux-image-cloud-amd64`` and what it names, of one version."""
    place.mkdir()
    image = f"linux-image-6.1.0-{version}-cove"
    listed = package(place, image, version)
    listed += package(place, "linux-image-cloud-cove", version, f"{image} (= {version})")
    (place / "Packages").write_text(listed)


def test_a_kernel_that_the_mirror_has_replaced(tmp_path: Path) -> None:
    mirror(tmp_path / "mirror", "7")
    (tmp_path / "mirror/linux-image-6.1.0-7-cove_7.deb").unlink()
    mirror(tmp_path / "new", "8")
    for part in ("sources.list.d", "apt.conf.d", "preferences.d", "trusted.gpg.d"):
        (tmp_path / "etc" / part).mkdir(parents=True)
    (tmp_path / "etc/sources.list").write_text(f"deb [trusted=yes] copy:{tmp_path}/mirror ./\n")
    words = ["unshare", "--mount", "--net", "sh", "-c", PLAY, "sh", sys.executable, "-c", FETCH]
    done = subprocess.run(
        [*words, str(tmp_path / "own")],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PLACE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == [
        "linux-image-6.1.0-7-cove=7", "linux-image-6.1.0-8-cove=8", "8"
    ], done.stderr  # fmt: skip
