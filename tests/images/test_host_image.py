"""The ``host`` image: what it takes of a host and what it must not, on an invented host."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cove.image import catalog, host, skeleton
from cove.image.host import host_image
from cove.spec.machine import MachineSpec
from cove.store.db import Store
from cove.store.records import ImageRecord, MachineRecord

SECRETS = {
    "shadow": 0o640,
    "shadow-": 0o644,
    "ssh/ssh_host_ed25519_key": 0o644,
    "ssh/ssh_host_ed25519_key.pub": 0o644,
    "wireguard/wg0.conf": 0o644,
    "sudoers": 0o440,
    "ssl/private/site.pem": 0o644,
    "app/site.key": 0o644,
    "app/root-only.conf": 0o600,
    "app/client_secret.json": 0o644,
    "closed/world-readable": 0o644,
    "fstab": 0o644,
}
BY_CONTENT = {
    "app/tls.pem": "-----BEGIN RSA PRIVATE KEY-----\nx",
    "app/sources.list": "deb https://user:hunter2@example.org/debian stable main",
    "app/rc": "//registry.example.org/:_authToken=abc",
}
KEPT = {
    "os-release": "ID=test",
    "app/app.conf": "see http://example.org/ and mail a@b",
    "ssl/certs/ca.pem": "-----BEGIN CERTIFICATE-----",
    "pam.d/common-password": "password required pam_unix.so",
}


def write(path: Path, text: str = "x", mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    root = tmp_path / "host"
    etc = root / "etc"
    for name, mode in SECRETS.items():
        write(etc / name, "secret", mode)
    for name, text in (BY_CONTENT | KEPT).items():
        write(etc / name, text)
    (etc / "closed").chmod(0o750)
    write(
        etc / "passwd",
        "root:x:0:0::/root:/bin/zsh\ndaemon:x:1:1:d:/:/bin/false\n"
        "alice:x:1000:1000:Alice:/home/alice:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
    )
    write(etc / "group", "root:x:0:\nadm:x:4:alice,daemon\nalice:x:1000:\n")
    write(etc / "hostname", "secret-name")
    write(etc / "machine-id", "0123456789abcdef")
    write(etc / "su-like", mode=0o4755)
    (etc / "localtime").symlink_to("/usr/share/zoneinfo/UTC")
    os.mkfifo(etc / "fifo")
    os.chown(etc / "app/app.conf", 7, 8)
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/sbin").mkdir()
    (root / "bin").symlink_to("usr/bin")
    (root / "sbin").mkdir()
    (root / "var/lib/dpkg").mkdir(parents=True)
    for name in ("root/.ssh/id_rsa", "home/alice/x", "var/lib/app/data", "opt/app/x", "srv/x"):
        write(root / name, "secret")
    return root


def layer(store: Store, record: ImageRecord) -> Path:
    (key,) = catalog.layer_keys(store, record)
    return Path(store.layout.layer(key))


def test_secrets_are_left_out_and_the_rest_is_there(store: Store, fake: Path) -> None:
    made = layer(store, host_image(store, root=str(fake)))
    for name in SECRETS | BY_CONTENT:
        if name != "shadow":
            assert not (made / "etc" / name).exists(), name
    for name, text in KEPT.items():
        assert (made / "etc" / name).read_text() == text
    assert b"secret" not in b"".join(p.read_bytes() for p in made.rglob("*") if p.is_file())
    for name in ("hostname", "hosts", "resolv.conf", "machine-id"):
        assert (made / "etc" / name).read_bytes() == b""
    assert os.readlink(made / "etc/localtime") == "/usr/share/zoneinfo/UTC"
    assert not (made / "etc/fifo").exists()
    assert (made / "etc/su-like").stat().st_mode & 0o7777 == 0o755
    status = (made / "etc/app/app.conf").stat()
    assert (status.st_uid, status.st_gid) == (7, 8)


def test_everything_else_is_empty(store: Store, fake: Path) -> None:
    record = host_image(store, root=str(fake))
    made = layer(store, record)
    files = {str(p.relative_to(made)) for p in made.rglob("*") if p.is_file()}
    assert all(name.startswith("etc/") for name in files)
    modes = {
        name: stat.S_IMODE((made / name).stat().st_mode) for name in ("tmp", "root", "var/tmp")
    }
    assert modes == {"tmp": 0o1777, "root": 0o700, "var/tmp": 0o1777}
    assert stat.S_IMODE(made.stat().st_mode) == 0o755
    assert os.readlink(made / "bin") == "usr/bin"
    assert catalog.image_views(record) == ("/usr", "/sbin", "/var/lib/dpkg")
    assert all((made / view[1:]).is_dir() for view in catalog.image_views(record))


def test_accounts_are_the_systems_own_without_passwords(store: Store, fake: Path) -> None:
    etc = layer(store, host_image(store, root=str(fake))) / "etc"
    names = [line.split(":")[0] for line in (etc / "passwd").read_text().splitlines()]
    assert names == ["root", "daemon", "nobody"]
    assert (etc / "group").read_text() == "root:x:0:\nadm:x:4:daemon\nnogroup:x:65534:\n"
    assert all(line.split(":")[1] == "*" for line in (etc / "shadow").read_text().splitlines())
    assert stat.S_IMODE((etc / "shadow").stat().st_mode) == 0o640


def test_a_change_of_the_host_makes_a_new_layer(store: Store, fake: Path) -> None:
    first = host_image(store, root=str(fake), clock=0.0)
    assert host_image(store, root=str(fake), clock=5.0) == first
    write(fake / "etc/app/new.conf", "new")
    assert host_image(store, root=str(fake), clock=5.5) == first, "looks once a second"
    second = host_image(store, root=str(fake), clock=7.0)
    assert second.layers != first.layers
    assert (layer(store, second) / "etc/app/new.conf").read_text() == "new"
    write(fake / "etc/passwd", "root:x:0:0::/root:/bin/sh\nnew:x:9:9::/:/bin/false\n")
    third = host_image(store, root=str(fake), clock=9.0)
    assert "new:" in (layer(store, third) / "etc/passwd").read_text()


def test_a_layer_in_use_stays_until_its_machine_ends(store: Store, fake: Path) -> None:
    first = host_image(store, root=str(fake), clock=0.0)
    user = MachineRecord(
        store.new_key(), "1" * 64, "m", MachineSpec("host"), "host", "running", 0.0
    )
    store.put_machine(user)
    for i in range(3):
        write(fake / f"etc/{i}")
        current = host_image(store, root=str(fake), clock=2.0 + 2 * i)
    assert layer(store, first).is_dir() and len(store.layers()) == 4
    assert [r.id for r in store.images() if not host.is_former(r)] == ["host"]
    store.remove_machine(user.key)
    write(fake / "etc/4")
    current = host_image(store, root=str(fake), clock=20.0)
    assert len(store.layers()) == 2, "the one just replaced may be starting"
    assert layer(store, current).is_dir()
    host._known.clear()
    host_image(store, root=str(fake), clock=30.0)
    assert [record.diff_id for record in store.layers()] == list(current.layers)


def test_a_lost_layer_is_made_again(store: Store, fake: Path) -> None:
    import shutil

    shutil.rmtree(layer(store, host_image(store, root=str(fake), clock=0.0)))
    assert layer(store, host_image(store, root=str(fake), clock=5.0)).is_dir()


def test_a_file_that_vanishes_is_left_out(
    store: Store, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = skeleton._copy_file

    def copy(source: int, target: int, name: str) -> int:
        if name == "app.conf":
            raise FileNotFoundError(2, "gone", name)
        return real(source, target, name)

    monkeypatch.setattr(skeleton, "_copy_file", copy)
    etc = layer(store, host_image(store, root=str(fake))) / "etc"
    assert not (etc / "app/app.conf").exists() and (etc / "os-release").exists()


def test_a_full_disk_keeps_the_former_layer(
    store: Store, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = host_image(store, root=str(fake), clock=0.0)

    def full(root: str, target: str) -> int:
        raise OSError(28, "No space left on device", target)

    monkeypatch.setattr(skeleton, "make", full)
    write(fake / "etc/new")
    assert host_image(store, root=str(fake), clock=5.0) == first
    assert os.listdir(store.layout.tmp) == []


def test_a_directory_swapped_for_a_link_is_not_followed(
    store: Store, fake: Path, tmp_path: Path
) -> None:
    """A service that owns a directory of /etc must not make root read for it."""
    (fake / "etc/evil").symlink_to(fake / "etc/closed")
    made = layer(store, host_image(store, root=str(fake)))
    assert (made / "etc/evil").is_symlink()


def test_the_real_host_has_what_a_shell_needs(store: Store) -> None:
    record = catalog.resolve(store, "host")
    made = layer(store, record)
    assert "/usr" in catalog.image_views(record)
    assert (made / "etc/passwd").read_text().startswith("root:x:0:0:")
    assert not (made / "etc/ssh/ssh_host_rsa_key").exists()
    assert catalog.image_config(record).cmd in (("bash",), ("sh",))
