"""The layer of the ``host`` image: an empty system around the host's own programs, by allow-list.

Of /etc it takes what everybody may read, less what is a secret all the same; accounts are made
anew; everything else is empty. A file that vanishes or cannot be read is left out, never an error.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat

from cove.linux.pump import write_all

VERSION = 1
"""Of this file: another one makes another layer."""

VIEWS_MAX = 8
USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
DATABASES = ("/var/lib/dpkg", "/var/lib/rpm", "/var/lib/pacman")
"""What is installed: without it no package manager works on /usr."""

DIRECTORIES = {
    "boot": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "media": 0o755, "mnt": 0o755,
    "opt": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755, "run/lock": 0o1777, "srv": 0o755,
    "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "var": 0o755, "var/backups": 0o755,
    "var/cache": 0o755, "var/cache/apt": 0o755, "var/cache/apt/archives": 0o755,
    "var/lib": 0o755, "var/lib/apt": 0o755, "var/lib/apt/lists": 0o755, "var/lib/misc": 0o755,
    "var/local": 0o755, "var/log": 0o755, "var/log/apt": 0o755, "var/opt": 0o755,
    "var/spool": 0o755, "var/tmp": 0o1777,
}  # fmt: skip
LINKS = {"var/run": "/run", "var/lock": "/run/lock"}

EMPTY = ("hostname", "hosts", "resolv.conf", "machine-id")
"""Written for each machine, or nobody's business."""

MADE = ("passwd", "group", "shadow", "gshadow")

SECRETS = re.compile(
    "|".join(
        rf"(?:{pattern})"
        for pattern in (
            r"(?:g?shadow|passwd|group|subuid|subgid)(?:[-.~].*)?",
            r"fstab|crypttab|exports|machine-info|adjtime|\.pwd\.lock|\.updated|mtab\.fuselock",
            r"ssh/ssh_host_.*|ssl/private|pki/.*/private|pki/private",
            r"sudoers(?:\.d)?|sudo.*\.conf|doas\.conf|polkit-1/rules\.d",
            r"wireguard|openvpn|ipsec\..*|swanctl|strongswan.*|tinc|zerotier.*|tailscale",
            r"NetworkManager/system-connections|netplan|wpa_supplicant|iwd|ppp|bluetooth",
            r"systemd/network|network/interfaces(?:\.d)?",
            r"kubernetes|rancher|docker|containers|containerd|podman|cni|nomad.*|consul.*|vault.*",
            r"letsencrypt|acme.*|krb5\.keytab|krb5kdc|samba|cups|iscsi|multipath.*|ceph|glusterfs",
            r"mysql|postgresql.*|mongod.*|redis|exim4|postfix|dovecot|opendkim|msmtprc|ssmtp|mutt",
            r"apt/auth\.conf(?:\.d)?|cloud|cloud-init.*|puppet.*|chef|salt|ansible|grafana|zabbix",
            r"netrc|\.git-credentials|gitconfig|npmrc|pip\.conf|boto\.cfg|s3cfg|rclone.*|restic.*",
            r"(?:.*/)?[^/]*\.(?:key|keytab|jks|p12|pfx|kdbx|ppk|htpasswd|secret|secrets|token)",
            r"(?:.*/)?[^/]*(?:secret|credential)[^/]*|(?:.*/)?o?passw(?:or)?ds?(?:\.[^/]*)?",
            r"(?:.*/)?(?:id_rsa|id_dsa|id_ecdsa|id_ed25519|\.netrc|\.htpasswd|\.git|\.env)",
        )
    ),
    re.IGNORECASE,
)
"""Paths below /etc that are left out whoever may read them; of a directory all that is in it."""

ADDRESS = re.compile(rb"://[^/\s:@\"']*:[^/\s@\"']+@")
TOKENS = (b"PRIVATE KEY", b"PRIVATE-KEY", b"_authToken")
"""Keys, and addresses with a password in them, in files that everybody may read by mistake."""

SIZE_MAX = 8 << 20
WATCHED = (
    "etc/passwd", "etc/group", "etc/ld.so.cache", "etc/ld.so.conf", "etc/nsswitch.conf",
    "etc/os-release", "etc/locale.gen", "etc/environment", "etc/profile", "etc/bash.bashrc",
    "etc/apt/sources.list",
)  # fmt: skip
"""Files that are edited in place, which their directory's time does not tell."""

IDS_MAX = 65536
SYSTEM_IDS = 1000
NOBODY = 65534
VANISHED = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.ESTALE,
            errno.EIO, errno.ENXIO, errno.EINVAL)  # fmt: skip


def views(root: str) -> tuple[str, ...]:
    """Directories of the host that are shown: /usr, what is not yet merged into it, databases."""
    found = [f"/{name}" for name in ("usr", *USR_LINKS) if _is_directory(f"{root}/{name}")]
    found += [path for path in DATABASES if _is_directory(root + path)]
    return tuple(found[:VIEWS_MAX])


def etc_directories(root: str) -> tuple[str, ...]:
    """The directories of /etc that are copied, which the fingerprint watches."""
    found = []
    todo = ["etc"]
    while todo:
        path = todo.pop()
        found.append(path)
        with contextlib.suppress(OSError), os.scandir(f"{root}/{path}") as entries:
            todo += [
                f"{path}/{entry.name}"
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
                and not _secret(f"{path}/{entry.name}")
                and entry.stat(follow_symlinks=False).st_mode & 0o5 == 0o5
            ]
    return tuple(sorted(found))


def fingerprint(root: str, directories: tuple[str, ...]) -> str:
    """Changes when a file of /etc is made, removed or replaced, or one of the watched is edited."""
    seen = [f"{VERSION} {os.uname().machine} {views(root)}"]
    for path in (*directories, *WATCHED):
        try:
            status = os.lstat(f"{root}/{path}")
        except OSError:
            seen.append(f"{path} -")
        else:
            seen.append(f"{path} {status.st_ino} {status.st_mode} {status.st_mtime_ns}")
    for name in USR_LINKS:
        with contextlib.suppress(OSError):
            seen.append(f"{name} {os.readlink(f'{root}/{name}')}")
    return hashlib.sha256("\n".join(seen).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def make(root: str, target: str) -> int:
    """Fill the empty directory ``target``; the bytes copied."""
    os.chmod(target, 0o755)
    for path, mode in DIRECTORIES.items():
        os.mkdir(f"{target}/{path}")
        os.chmod(f"{target}/{path}", mode)
    for path, link in LINKS.items():
        os.symlink(link, f"{target}/{path}")
    for name in USR_LINKS:
        with contextlib.suppress(OSError):
            os.symlink(os.readlink(f"{root}/{name}"), f"{target}/{name}")
    for view in views(root):
        os.makedirs(target + view, 0o755, exist_ok=True)
    for path in DATABASES:
        with contextlib.suppress(OSError):
            os.symlink(os.readlink(root + path), target + path)
    size = _copy_etc(f"{root}/etc", f"{target}/etc")
    for name in EMPTY:
        _write(f"{target}/etc/{name}", b"", 0o644)
    _make_accounts(f"{root}/etc", f"{target}/etc")
    return size


def remove(directory: str) -> None:
    """A layer that was made here: small, and nobody else ever wrote to it."""
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def _is_directory(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and mode & 0o5 == 0o5


def _secret(path: str) -> bool:
    return SECRETS.fullmatch(path.removeprefix("etc/")) is not None


def _tells_secret(data: bytes) -> bool:
    if any(token in data for token in TOKENS):
        return True
    return b"://" in data and ADDRESS.search(data) is not None


# ---- /etc ----


def _copy_etc(source: str, target: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        fd = os.open(source, flags)
    except OSError:
        return 0
    out = os.open(target, flags)
    try:
        return _copy_directory(fd, out, "")
    finally:
        os.close(fd)
        os.close(out)


def _copy_directory(source: int, target: int, prefix: str) -> int:
    """Everything by descriptors: a service's own directory may change under our hands."""
    size = 0
    with os.scandir(source) as entries:
        found = [entry.name for entry in entries]
    for name in found:
        path = prefix + name
        if not prefix and name in (*EMPTY, *MADE):
            continue
        if SECRETS.fullmatch(path):
            continue
        try:
            size += _copy_entry(source, target, name, path)
        except OSError as error:
            if error.errno not in VANISHED:
                raise
    return size


def _copy_entry(source: int, target: int, name: str, path: str) -> int:
    status = os.lstat(name, dir_fd=source)
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        return 0
    if stat.S_ISREG(mode) and mode & 0o4 and status.st_size <= SIZE_MAX:
        return _copy_file(source, target, name)
    if stat.S_ISDIR(mode) and mode & 0o5 == 0o5:
        return _copy_below(source, target, name, path)
    return 0


def _copy_below(source: int, target: int, name: str, path: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=source)
    try:
        status = os.fstat(fd)
        if status.st_mode & 0o5 != 0o5:
            return 0
        os.mkdir(name, 0o755, dir_fd=target)
        out = os.open(name, flags, dir_fd=target)
        try:
            size = _copy_directory(fd, out, f"{path}/")
            _attributes(out, status)
        finally:
            os.close(out)
        return size
    finally:
        os.close(fd)


def _copy_file(source: int, target: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=source)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o4:
            return 0
        data = os.read(fd, SIZE_MAX + 1)
    finally:
        os.close(fd)
    if len(data) > SIZE_MAX or _tells_secret(data):
        return 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    out = os.open(name, flags, 0o644, dir_fd=target)
    try:
        if data:
            write_all(out, data)
        _attributes(out, status)
    finally:
        os.close(out)
    return len(data)


def _attributes(fd: int, status: os.stat_result) -> None:
    """Owner, mode without setuid, time. An id that no machine can have becomes root."""
    if (status.st_uid or status.st_gid) and max(status.st_uid, status.st_gid) < IDS_MAX:
        os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, status.st_mode & 0o777)
    os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))


# ---- accounts ----


def _make_accounts(source: str, target: str) -> None:
    """root, nobody and the host's system users, none with a password. People are left out."""
    users = ["root:x:0:0:root:/root:" + ("/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh")]
    for line in _accounts(f"{source}/passwd", 7):
        users.append(":".join((line[0], "x", line[2], line[3], "", line[5], line[6])))
    groups = ["root:x:0:"]
    names = {user.partition(":")[0] for user in users}
    for line in _accounts(f"{source}/group", 4):
        members = ",".join(name for name in line[3].split(",") if name in names)
        groups.append(":".join((line[0], "x", line[2], members)))
    if "nobody" not in names:
        users.append(f"nobody:x:{NOBODY}:{NOBODY}:nobody:/nonexistent:/usr/sbin/nologin")
    if not any(group.split(":")[2] == str(NOBODY) for group in groups):
        groups.append(f"nogroup:x:{NOBODY}:")
    _write(f"{target}/passwd", _lines(users), 0o644)
    _write(f"{target}/group", _lines(groups), 0o644)
    shadow = [f"{user.partition(':')[0]}:*:19000:0:99999:7:::" for user in users]
    _write(f"{target}/shadow", _lines(shadow), 0o640)
    _write(f"{target}/gshadow", _lines([f"{g.partition(':')[0]}:*::" for g in groups]), 0o640)


def _accounts(path: str, fields: int) -> list[list[str]]:
    """Lines of system accounts other than root."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":") for line in file]
    except OSError:
        return []
    return [
        line
        for line in lines
        if len(line) == fields
        and line[2].isdecimal()
        and (0 < int(line[2]) < SYSTEM_IDS or int(line[2]) == NOBODY)
    ]


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def _write(path: str, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
