"""Images of OCI layouts as flat text, to be compared: each field of the config, and each entry of
each layer and of the root that they make.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Flat = dict[str, str]
"""What it is, by where it is."""
OLD = 1_600_000_000
"""What is older than this was given a time; anything else has that of the build."""
KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "link",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
}
OPAQUE, GONE = ".wh..wh..opq", ".wh."


Entries = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Image:
    config: dict[str, Any]
    layers: list[Entries]


def read_layout(path: Path) -> Image:
    """An OCI layout with one image."""

    def blob(digest: str) -> bytes:
        return (path / "blobs" / digest.replace(":", "/")).read_bytes()

    index = json.loads((path / "index.json").read_text())
    return read_image(blob(index["manifests"][0]["digest"]), blob)


def read_dir(path: Path) -> Image:
    """What containers/image calls ``dir:``, which keeps a config of Docker's as it is."""
    manifest = (path / "manifest.json").read_bytes()
    return read_image(manifest, lambda digest: (path / digest.partition(":")[2]).read_bytes())


def read_image(manifest: bytes, blob: Callable[[str], bytes]) -> Image:
    parts = json.loads(manifest)
    config = json.loads(blob(parts["config"]["digest"]))
    return Image(config, [read_layer(blob(one["digest"])) for one in parts["layers"]])


def read_layer(data: bytes) -> Entries:
    """Entries by their paths, without a slash at either end; a hard link is what it leads to."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    found: Entries = {}
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        for member in tar:
            name = member.name.removeprefix("./").strip("/")
            name = "" if name == "." else name
            if member.islnk():
                found[name] = found[member.linkname.removeprefix("./").strip("/")]
                continue
            entry: dict[str, Any] = {
                "type": KINDS[member.type],
                "mode": f"{stat.S_IMODE(member.mode):o}",
                "owner": f"{member.uid}:{member.gid}",
            }
            if member.isreg():
                file = tar.extractfile(member)
                content = file.read() if file else b""
                entry["size"] = len(content)
                entry["digest"] = hashlib.sha256(content).hexdigest()[:16]
            if member.issym():
                entry["link"], entry["mode"] = member.linkname, "777"
            if member.ischr() or member.isblk():
                entry["device"] = f"{member.devmajor}:{member.devminor}"
            if member.mtime < OLD and not name.rpartition("/")[2].startswith(GONE):
                entry["time"] = f"{member.mtime:g}"
            for key, value in member.pax_headers.items():
                if key.startswith("SCHILY.xattr."):
                    raw = value.encode("utf-8", "surrogateescape")
                    entry[key.removeprefix("SCHILY.")] = raw.hex()
            found[name] = entry
    return found


def applied(layers: list[Entries]) -> Entries:
    """What a machine sees of them."""
    root: Entries = {}
    for layer in layers:
        for name in layer:
            folder, _, last = name.rpartition("/")
            if last == OPAQUE:
                drop(root, folder, itself=False)
            elif last.startswith(GONE):
                drop(root, f"{folder}/{last.removeprefix(GONE)}".lstrip("/"), itself=True)
        for name, entry in layer.items():
            if not name.rpartition("/")[2].startswith(GONE):
                if entry["type"] != "folder":
                    drop(root, name, itself=True)
                root[name] = entry
    return root


def drop(root: Entries, name: str, *, itself: bool) -> None:
    inside = f"{name}/" if name else ""
    for other in [one for one in root if one.startswith(inside) and one != name]:
        del root[other]
    if itself:
        root.pop(name, None)


def flat_entries(where: str, entries: Entries) -> Flat:
    return {
        f"{where} /{name} {field}": str(value)
        for name, entry in entries.items()
        for field, value in entry.items()
    }


def flat_json(where: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from flat_json(f"{where}.{name}", one)
    elif isinstance(value, list) and value:
        for number, one in enumerate(value):
            yield from flat_json(f"{where}[{number}]", one)
    else:
        yield where, json.dumps(value, ensure_ascii=False)


def flat_image(image: Image) -> Flat:
    """Without the times of config and history, which are others each time, and the first layer,
    which is the base's. A layer is called by the step that made it.
    """
    config = dict(image.config)
    config.pop("created", None)
    config["rootfs"] = dict(config["rootfs"], diff_ids=len(config["rootfs"]["diff_ids"]))
    past = [{name: one[name] for name in one if name != "created"} for one in config["history"]]
    found = dict(flat_json("config", config | {"history": past}))
    steps = [number for number, one in enumerate(past) if not one.get("empty_layer")]
    for number, layer in list(zip(steps, image.layers, strict=True))[1:]:
        found |= flat_entries(f"step {number}", layer)
    return found | flat_entries("root", applied(image.layers))
