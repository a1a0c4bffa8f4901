"""``-v``, ``--mount`` and ``--tmpfs``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cove.errors import Unsupported, UsageError
from cove.spec.machine import Mount
from cove.spec.mounts import parse_mount, parse_tmpfs, parse_volume, split_csv

BIND = Mount("bind", "/b", "/a")
MADE = Mount("bind", "/b", "/a", create_source=True)

GOOD: list[tuple[Callable[[str], Mount], str, Mount]] = [
    (parse_volume, "/a:/b", MADE),
    (parse_volume, "/a:/b:ro", msgspec.structs.replace(MADE, read_only=True)),
    (parse_volume, "/a:/b:ro,z", msgspec.structs.replace(MADE, read_only=True)),
    (parse_volume, "/a:/b:rw,rslave", msgspec.structs.replace(MADE, propagation="rslave")),
    (parse_volume, "/a:/b:idmap=caller", msgspec.structs.replace(MADE, idmap="caller")),
    (parse_volume, "./a:/b", msgspec.structs.replace(MADE, source="./a")),
    (parse_volume, ".:/b", msgspec.structs.replace(MADE, source=".")),
    (parse_volume, "/x/../a/:/b/./", MADE),
    (parse_volume, "data:/b", Mount("volume", "/b", "data")),
    (parse_volume, "/b", Mount("volume", "/b")),
    (parse_volume, "data:/b:nocopy,ro", Mount("volume", "/b", "data", read_only=True, copy=False)),
    (
        parse_mount,
        "source=data,target=/b,volume-nocopy,volume-subpath=a/b,volume-label=k=v",
        Mount("volume", "/b", "data", copy=False, subpath="a/b", labels={"k": "v"}),
    ),
    (
        parse_mount,
        "source=data,target=/b,block,size=1g",
        Mount("volume", "/b", "data", driver_options={"block": "true", "size": "1g"}),
    ),
    (parse_mount, "type=bind,source=/a,target=/b", BIND),
    (
        parse_mount,
        "type=bind,src=/a,dst=/b,readonly",
        msgspec.structs.replace(BIND, read_only=True),
    ),
    (
        parse_mount,
        "type=bind,src=/a,destination=/b,ro=true",
        msgspec.structs.replace(BIND, read_only=True),
    ),
    (parse_mount, "type=bind,src=/a,dst=/b,readonly=false", BIND),
    (
        parse_mount,
        "type=bind,src=/a,dst=/b,bind-propagation=shared",
        msgspec.structs.replace(BIND, propagation="shared"),
    ),
    (
        parse_mount,
        "type=bind,src=/a,dst=/b,bind-nonrecursive",
        msgspec.structs.replace(BIND, recursive=False),
    ),
    (
        parse_mount,
        "type=bind,src=/a,dst=/b,bind-recursive=disabled",
        msgspec.structs.replace(BIND, recursive=False),
    ),
    (
        parse_mount,
        "type=bind,src=/a,dst=/b,idmap=caller",
        msgspec.structs.replace(BIND, idmap="caller"),
    ),
    (
        parse_mount,
        'type=bind,"source=/a,x",target=/b',
        msgspec.structs.replace(BIND, source="/a,x"),
    ),
    (parse_mount, "source=data,target=/b", Mount("volume", "/b", "data")),
    (
        parse_mount,
        "type=tmpfs,target=/b,tmpfs-size=64m,tmpfs-mode=1770",
        Mount("tmpfs", "/b", size=64 << 20, mode=0o1770),
    ),
    (parse_tmpfs, "/run", Mount("tmpfs", "/run")),
    (
        parse_tmpfs,
        "/run:rw,noexec,nosuid,size=65536k,mode=755,uid=5",
        Mount("tmpfs", "/run", size=64 << 20, mode=0o755, options=("noexec", "nosuid", "uid=5")),
    ),
    (parse_tmpfs, "/run:ro,noexec,exec", Mount("tmpfs", "/run", read_only=True, options=("exec",))),
]


@pytest.mark.parametrize(("parse", "text", "mount"), GOOD, ids=lambda v: str(v)[:50])
def test_good_mounts(parse: Callable[[str], Mount], text: str, mount: Mount) -> None:
    found = parse(text)
    flag = {parse_volume: "-v", parse_mount: "--mount", parse_tmpfs: "--tmpfs"}[parse]
    words = text.partition(":")[2] if parse is parse_tmpfs else ""
    assert found == msgspec.structs.replace(mount, words=words, origin=f"{flag} {text}")


BAD: list[tuple[Callable[[str], Any], str, str, str]] = [
    (parse_volume, "", "not SOURCE:TARGET[:OPTIONS]", "/host/dir:/dir"),
    (parse_volume, "a:b:c:d", "not SOURCE:TARGET[:OPTIONS]", ""),
    (parse_volume, "/a:b", 'the target "b" is not an absolute path', ""),
    (parse_volume, "/a:/", "the target cannot be /, the machine's root", ""),
    (parse_volume, "src/x:/b", '"src/x" is neither a path nor a name of a volume', "./src/x"),
    (parse_volume, "/a:/b:r0", 'no option is called "r0"', "did you mean ro?"),
    (parse_mount, "type=bind,target=/b", "a bind has a source", "source=/host/dir"),
    (parse_mount, "type=bind,source=/a", "it has no target", "target=/dir"),
    (parse_mount, "type=bind,source=a,target=/b", 'the source "a" is not a path', "source=./a"),
    (parse_mount, "type=bnd,source=/a,target=/b", 'no type is called "bnd"', "did you mean bind?"),
    (parse_mount, "type=image,source=a,target=/b", "cannot mount type=image", ""),
    (
        parse_mount,
        "type=bind,sorce=/a,target=/b",
        'no key is called "sorce"',
        "did you mean source?",
    ),
    (
        parse_mount,
        "type=bind,source=/a,target=/b,tmpfs-size=1",
        "tmpfs-size does not go with type=bind",
        "",
    ),
    (
        parse_mount,
        "type=bind,source=/a,target=/b,bind-propagation=x",
        'no propagation is called "x"',
        "",
    ),
    (
        parse_mount,
        "type=bind,source=/a,target=/b,bind-recursive=writable",
        "bind-recursive=writable",
        "",
    ),
    (parse_mount, "type=bind,source=,target=/b", "source wants a value", ""),
    (parse_mount, 'type=bind,"source=/a,target=/b', 'a " is not closed', ""),
    (parse_mount, "source=/a,target=/b", '"/a" is not a name of a volume', "type=bind"),
    (parse_mount, "source=a,target=/b,volume-driver=nfs", 'cannot use the volume driver "nfs"', ""),
    (parse_mount, "source=a,target=/b,volume-subpath=../c", "without ..", ""),
    (parse_mount, "source=a,target=/b,volume-opt=size=1x", '"1x"', ""),
    (parse_mount, "source=a,target=/b,block=maybe", '"maybe"', ""),
    (parse_mount, "type=bind,source=/a,target=/b,block", "block does not go with type=bind", ""),
    (parse_volume, "data:/b:rslave", "rslave does not go with a volume", ""),
    (parse_volume, "/a:/b:nocopy", "nocopy does not go with a bind", ""),
    (parse_tmpfs, "/run:size=10%", "a size in percent is not supported", "size=64m"),
    (parse_tmpfs, "/run:mode=9", '"9" is not an octal mode up to 1777', ""),
    (parse_tmpfs, "/run:noexe", 'no option is called "noexe"', "did you mean noexec?"),
    (parse_tmpfs, "run", 'the target "run" is not an absolute path', ""),
]


@pytest.mark.parametrize(("parse", "text", "message", "hint"), BAD, ids=lambda v: str(v)[:50])
def test_bad_mounts(parse: Callable[[str], Any], text: str, message: str, hint: str) -> None:
    with pytest.raises((UsageError, Unsupported)) as caught:
        parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_fields_of_one_csv_line() -> None:
    assert split_csv('a,"b,c","d""e",') == ["a", "b,c", 'd"e', ""]
