"""``-v``, ``--mount`` and ``--tmpfs`` as Docker reads them. Pure: a source is not looked at here.

A relative source of ``-v`` is kept as typed (``./src``); who knows the caller's directory completes
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from cove.errors import Unsupported, UsageError
from cove.spec.machine import Mount
from cove.spec.suggest import did_you_mean
from cove.spec.values import bad, clean_path, parse_bool, parse_label, parse_size
from cove.spec.volume import NAME, parse_driver, parse_option

PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
NO_EFFECT = ("z", "Z", "cached", "delegated", "consistent", "default", "rw", "U")
"""Accepted: they mean nothing on this host, or ask for what is so anyway."""


def parse_volume(text: str) -> Mount:
    """``SOURCE:TARGET[:OPTION,…]``, ``NAME:TARGET`` or ``TARGET`` (an anonymous volume)."""
    origin = f"-v {text}"
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise bad(
            "volume",
            text,
            "not SOURCE:TARGET[:OPTIONS]",
            hint="write /host/dir:/dir or /host/dir:/dir:ro",
        )
    source, target = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    target = _target(target, text)
    kind = _source_kind(source, text)
    settings: dict[str, Any] = {}
    for option in parts[2].split(",") if len(parts) == 3 else ():
        _volume_option(option, text, settings)
    _check_kind(kind, settings, text)
    if source.startswith("/"):
        source = clean_path(source)
    return Mount(
        type=kind,  # type: ignore[arg-type]
        target=target,
        source=source,
        create_source=kind == "bind",
        origin=origin,
        **settings,
    )


def _source_kind(source: str, text: str) -> str:
    if source.startswith(("/", "./", "../")) or source in (".", ".."):
        return "bind"
    if source and not NAME.fullmatch(source):
        raise bad(
            "volume",
            text,
            f'"{source}" is neither a path nor a name of a volume',
            hint=f"a path of the host begins with / or ./: ./{source}",
        )
    return "volume"


def _volume_option(option: str, text: str, settings: dict[str, Any]) -> None:
    if option in ("ro", "readonly"):
        settings["read_only"] = True
    elif option in PROPAGATIONS:
        settings["propagation"] = option
    elif option.startswith("idmap="):
        _set_idmap("idmap", option.removeprefix("idmap="), text, settings)
    elif option == "nocopy":
        settings["copy"] = False
    elif option not in NO_EFFECT:
        known = ("ro", "rw", "nocopy", "idmap=caller", *PROPAGATIONS)
        hint = did_you_mean(option, known) or f"the options are {', '.join(known)}"
        raise bad("volume", text, f'no option is called "{option}"', hint=hint)


def _check_kind(kind: str, settings: dict[str, Any], text: str) -> None:
    """What means nothing for a volume, or for a bind, is no option of it, as in Docker."""
    wrong = ("propagation", "idmap") if kind == "volume" else ("copy",)
    for name in wrong:
        if name in settings:
            said = settings[name]
            word = {"copy": "nocopy", "idmap": f"idmap={said}"}.get(name, said)
            raise bad("volume", text, f"{word} does not go with a {kind}")


def _target(target: str, text: str) -> str:
    if not target.startswith("/"):
        raise bad("mount", text, f'the target "{target}" is not an absolute path')
    target = clean_path(target)
    if target == "/":
        raise bad("mount", text, "the target cannot be /, the machine's root")
    return target


# ---- --tmpfs ----

_SWITCHES = {
    name: name.removeprefix("no")
    for name in ("exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime")
}


def parse_tmpfs(text: str) -> Mount:
    """``TARGET[:OPTION,…]``; ``options`` keeps the words the planner turns into mount flags."""
    target, _, rest = text.partition(":")
    settings: dict[str, Any] = {}
    words: dict[str, str] = {}
    for option in rest.split(",") if rest else ():
        key, equals, value = option.partition("=")
        if key == "size" and value:
            settings["size"] = _tmpfs_size(value, text)
        elif key == "mode" and value:
            settings["mode"] = _mode(value, text)
        elif key in ("uid", "gid", "nr_inodes") and re.fullmatch(r"\d+[kmg]?", value):
            words[key] = option
        elif option in ("ro", "rw"):
            settings["read_only"] = option == "ro"
        elif option in _SWITCHES:
            words[_SWITCHES[option]] = option
        elif option in PROPAGATIONS:
            settings["propagation"] = option
        else:
            known = ("size", "mode", "uid", "gid", *_SWITCHES)
            hint = did_you_mean(key if equals else option, known)
            raise bad("tmpfs", text, f'no option is called "{option}"', hint=hint)
    return Mount(
        type="tmpfs",
        target=_target(target, text),
        options=tuple(words.values()),
        words=rest,
        origin=f"--tmpfs {text}",
        **settings,
    )


def _tmpfs_size(value: str, text: str) -> int:
    if value.endswith("%"):
        raise bad("tmpfs", text, "a size in percent is not supported", hint="write size=64m")
    return parse_size(value)


def _mode(value: str, text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,5}", value) or int(value, 8) > 0o1777:
        raise bad("mount", text, f'"{value}" is not an octal mode up to 1777')
    return int(value, 8)


# ---- --mount ----

_COMMON = frozenset({"type", "source", "src", "target", "dst", "destination", "readonly", "ro",
                     "consistency"})  # fmt: skip
_KEYS = {
    "bind": _COMMON
    | {"bind-propagation", "bind-nonrecursive", "bind-recursive", "bind-create-src", "idmap"},
    "volume": _COMMON
    | {
        "volume-nocopy",
        "volume-driver",
        "volume-opt",
        "volume-label",
        "volume-subpath",
        "block",
        "size",
    },
    "tmpfs": _COMMON - {"source", "src"} | {"tmpfs-size", "tmpfs-mode", "tmpfs-opt"},
}


def split_csv(text: str) -> list[str]:
    """One line of comma-separated fields; a field may be quoted with ``"``, doubled inside."""
    fields, field, quoted, i = [], "", False, 0
    while i < len(text):
        char = text[i]
        if char == '"':
            if quoted and text[i + 1 : i + 2] == '"':
                field += '"'
                i += 1
            else:
                quoted = not quoted
        elif char == "," and not quoted:
            fields.append(field)
            field = ""
        else:
            field += char
        i += 1
    if quoted:
        raise bad("mount", text, 'a " is not closed')
    return [*fields, field]


def parse_mount(text: str) -> Mount:
    """``type=bind,source=/a,target=/b,readonly``."""
    pairs = []
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        pairs.append((key.strip().lower(), value if equals else None))
    kind = next((v for k, v in pairs if k == "type" and v), "volume").lower()
    if kind not in _KEYS:
        raise _bad_type(kind, text)
    settings: dict[str, Any] = {}
    for name, given in pairs:
        if name not in _KEYS[kind]:
            raise _bad_key(name, kind, text)
        _mount_key(name, given, text, settings)
    return _finished(kind, settings, text)


def _bad_type(kind: str, text: str) -> UsageError | Unsupported:
    if kind in ("image", "npipe", "cluster"):
        return Unsupported(
            f"cannot mount type={kind}: cove has no such mounts", origin=f"--mount {text}"
        )
    hint = did_you_mean(kind, _KEYS) or "the types are bind, volume and tmpfs"
    return bad("mount", text, f'no type is called "{kind}"', hint=hint)


def _bad_key(key: str, kind: str, text: str) -> UsageError:
    if any(key in keys for keys in _KEYS.values()):
        return bad("mount", text, f"{key} does not go with type={kind}")
    hint = did_you_mean(key, sorted(_KEYS[kind]))
    return bad("mount", text, f'no key is called "{key}"', hint=hint)


def _mount_key(key: str, value: str | None, text: str, settings: dict[str, Any]) -> None:
    if key in ("readonly", "ro", "bind-nonrecursive", "bind-create-src", "volume-nocopy", "block"):
        _mount_switch(key, True if value is None else parse_bool(value), settings)
        return
    if not value:
        raise bad("mount", text, f"{key} wants a value: {key}=…")
    setter: Callable[[str, str, str, dict[str, Any]], None] | None = _SETTERS.get(key)
    if setter:
        setter(key, value, text, settings)


def _mount_switch(key: str, on: bool, settings: dict[str, Any]) -> None:
    if key in ("readonly", "ro"):
        settings["read_only"] = on
    elif key == "bind-nonrecursive":
        settings["recursive"] = not on
    elif key == "bind-create-src":
        settings["create_source"] = on
    elif key == "volume-nocopy":
        settings["copy"] = not on
    elif key == "block":
        _set_driver_option(key, f"block={'true' if on else 'false'}", "", settings)


def _set_source(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    settings["source"] = value


def _set_target(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    settings["target"] = _target(value, text)


def _set_propagation(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    if value not in PROPAGATIONS:
        raise bad(
            "mount",
            text,
            f'no propagation is called "{value}"',
            hint=did_you_mean(value, PROPAGATIONS),
        )
    settings["propagation"] = value


def _set_recursive(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    if value == "writable":
        raise Unsupported(
            "cannot use bind-recursive=writable: read-only binds are so all the way down",
            origin=f"--mount {text}",
        )
    if value not in ("enabled", "disabled", "readonly"):
        raise bad("mount", text, "bind-recursive is enabled, disabled or readonly")
    settings["recursive"] = value != "disabled"


def _set_size(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    settings["size"] = _tmpfs_size(value, text)


def _set_mode(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    settings["mode"] = _mode(value, text)


def _set_options(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    if value not in _SWITCHES:
        raise bad("mount", text, f'no tmpfs option is called "{value}"')
    settings["options"] = (*settings.get("options", ()), value)


def _set_idmap(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    if value not in ("none", "caller") and not is_idmap(value):
        raise bad("mount", text, "idmap is none, caller or UID:GID of the host")
    settings["idmap"] = value


def is_idmap(text: str) -> bool:
    """``UID:GID``: who of the host is root inside."""
    found = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text)
    return found is not None and max(map(int, found.groups())) < (1 << 32) - 1


def _set_subpath(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    if value.startswith("/") or ".." in value.split("/"):
        raise bad("mount", text, "volume-subpath is a path in the volume, without ..")
    settings["subpath"] = value


def _set_driver(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    parse_driver(value)


def _set_label(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    settings["labels"] = settings.get("labels", {}) | dict([parse_label(value)])


def _set_driver_option(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    options = settings.get("driver_options", {})
    settings["driver_options"] = options | dict([parse_option(value)])


def _set_disk_size(key: str, value: str, text: str, settings: dict[str, Any]) -> None:
    _set_driver_option(key, f"size={value}", text, settings)


_SETTERS: dict[str, Callable[[str, str, str, dict[str, Any]], None]] = {
    "source": _set_source,
    "src": _set_source,
    "target": _set_target,
    "dst": _set_target,
    "destination": _set_target,
    "bind-propagation": _set_propagation,
    "bind-recursive": _set_recursive,
    "tmpfs-size": _set_size,
    "tmpfs-mode": _set_mode,
    "tmpfs-opt": _set_options,
    "idmap": _set_idmap,
    "volume-driver": _set_driver,
    "volume-opt": _set_driver_option,
    "volume-label": _set_label,
    "volume-subpath": _set_subpath,
    "size": _set_disk_size,
}


def _finished(kind: str, settings: dict[str, Any], text: str) -> Mount:
    source = settings.get("source", "")
    if "target" not in settings:
        raise bad("mount", text, "it has no target", hint="add target=/dir")
    if kind == "bind":
        if not source:
            raise bad("mount", text, "a bind has a source", hint="add source=/host/dir")
        if not source.startswith(("/", "./", "../")) and source not in (".", ".."):
            raise bad(
                "mount",
                text,
                f'the source "{source}" is not a path',
                hint=f"write source=./{source}, or type=volume",
            )
        if source.startswith("/"):
            settings["source"] = clean_path(source)
    elif source and not NAME.fullmatch(source):
        raise bad(
            "mount", text, f'"{source}" is not a name of a volume', hint="add type=bind for a path"
        )
    return Mount(type=kind, origin=f"--mount {text}", **settings)  # type: ignore[arg-type]
