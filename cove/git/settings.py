"""What git is told: the address without its login, environment, settings. Pure."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import unquote, urlunsplit

from cove.oci import doubt

ALLOWED = {"https": "https", "http": "http:https:git", "git": "git:http:https",
           "ssh": "ssh:https"}  # fmt: skip
"""Protocols of redirects and submodules, by the repository's own: who asked for https has that."""
PORTS = {"https": 443, "http": 80, "git": 9418, "ssh": 22}
_PLACE = re.compile(r"[\w.:\[\]-]+")
"""It is in the names of settings: nothing that ends one."""
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_SHORT = re.compile(rf"({_USER})@([A-Za-z0-9][A-Za-z0-9.-]*):(?!-).+")
"""``git@host:path``, a path that begins where the server's user does."""
AGENT, HOSTS = "agent", "known_hosts"
"""In the jail: a directory with the agent's socket, which is called so, too; keys of hosts."""
USER, PASSWORD = "COVE_GIT_USER", "COVE_GIT_PASSWORD"
_ASKED = f'printf \'username=%s\\npassword=%s\\n\' "${USER}" "${PASSWORD}"'
LOGIN = f'!f() {{ test "$1" = get && {_ASKED}; }}; f'
"""A credential helper: a login in an address, or a setting's, would be on a command line, which
every user of the host may read."""


@dataclass(frozen=True, slots=True)
class Address:
    scheme: str
    host: str
    port: int
    place: str
    """HOST[:PORT], as it was written."""
    url: str
    """Without the login."""
    login: tuple[str, str] | None
    """User and password."""
    front: str = ""
    """Over ssh: what the URL begins with, up to its path ..."""
    behind: str = ""
    """... and what it is to begin with in the jail."""


def read_address(remote: str) -> Address | None:
    """None: it is no address of a repository."""
    if any(ord(char) < 33 or ord(char) == 127 for char in remote):
        return None
    if (short := _SHORT.fullmatch(remote)) is not None:
        user, host = short[1], short[2]
        front, behind = f"{user}@{host}:", f"{user}@127.0.0.1:"
        return Address("ssh", host.lower(), PORTS["ssh"], host, remote, None, front, behind)
    parts = doubt.split(remote)
    if parts is None or parts.scheme not in ALLOWED or not parts.path.strip("/"):
        return None
    said, at, place = parts.netloc.rpartition("@")
    if not _PLACE.fullmatch(place):
        return None
    if parts.scheme == "ssh":
        if at and not re.fullmatch(_USER, said):
            return None  # a password: ssh takes none
        front, behind = f"ssh://{parts.netloc}/", f"ssh://{said}{at}127.0.0.1/"
        port = parts.port or PORTS["ssh"]
        url = urlunsplit(parts)
        return Address("ssh", parts.hostname or "", port, place, url, None, front, behind)
    user, _, password = (unquote(word, errors="surrogateescape") for word in said.partition(":"))
    if any(ord(char) < 32 or ord(char) == 127 for char in user + password):
        return None
    return Address(
        parts.scheme,
        parts.hostname or "",
        parts.port or PORTS[parts.scheme],
        place,
        urlunsplit(parts._replace(netloc=place)),
        (user, password) if at and parts.scheme != "git" else None,
    )


def environment(address: Address, home: str, tmp: str) -> dict[str, str]:
    found = {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8",
        "HOME": home, "TMPDIR": tmp,
        "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false", "GIT_ALLOW_PROTOCOL": ALLOWED[address.scheme],
        "GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "120",
        "GIT_TEMPLATE_DIR": "", "GIT_LFS_SKIP_SMUDGE": "1",
    }  # fmt: skip
    if address.scheme == "git":
        found["GIT_OVERRIDE_VIRTUAL_HOST"] = address.place
    if address.login is not None:
        found[USER], found[PASSWORD] = address.login
    return found


def settings(address: Address, socks: int, plain: int) -> dict[str, str]:
    """``plain``: the port of a door that leads to the repository's own host alone, for git's own
    protocol, which knows no proxies."""
    found = {
        "http.proxy": f"socks5h://127.0.0.1:{socks}",
        "core.hooksPath": "/dev/null",
        "core.fsmonitor": "false",
        "core.symlinks": "true",
        "core.autocrlf": "false",
        "core.logAllRefUpdates": "false",
        "core.packedGitWindowSize": "32m",
        "core.packedGitLimit": "512m",
        "pack.threads": "2",
        "protocol.version": "2",
        "transfer.fsckObjects": "true",
        "submodule.recurse": "false",
        "gc.auto": "0",
        "advice.detachedHead": "false",
        "init.defaultBranch": "main",
    }
    if address.scheme == "ssh":
        found[f"url.{address.behind}.insteadOf"] = address.front
    if address.scheme == "git":
        found[f"url.git://127.0.0.1:{plain}/.insteadOf"] = f"git://{address.place}/"
    if address.login is not None:
        found[f"credential.{address.scheme}://{address.place}.helper"] = LOGIN
    return found


def ssh_command(address: Address, plain: int, place: str) -> str:
    """For a shell. The host's key has to be one that is known, under the host's own name; keys for
    us are the agent's alone, and nothing of this host's configuration is read.
    """
    known = address.host if address.port == PORTS["ssh"] else f"[{address.host}]:{address.port}"
    options = {
        "BatchMode": "yes", "StrictHostKeyChecking": "yes", "CheckHostIP": "no",
        "UpdateHostKeys": "no", "UserKnownHostsFile": f"{place}/{HOSTS}",
        "GlobalKnownHostsFile": "none", "HostKeyAlias": known,
        "IdentityFile": "none", "IdentityAgent": f"{place}/{AGENT}/{AGENT}",
        "PreferredAuthentications": "publickey", "ClearAllForwardings": "yes",
        "ForwardAgent": "no", "ConnectTimeout": "15", "ServerAliveInterval": "30",
    }  # fmt: skip
    words = ["ssh", "-F", "none", "-p", str(plain)]
    return shlex.join(
        [*words, *(x for key, value in options.items() for x in ("-o", f"{key}={value}"))]
    )
