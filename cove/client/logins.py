"""Where a caller's logins are kept: Docker's ``config.json``, and the helpers that it names.

Runs on the caller's behalf: his environment and his directory are arguments. What a helper is told
goes over its standard input, never as an argument, and is logged nowhere.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from cove.errors import CoveError, HostError, UsageError, printable
from cove.oci import auth
from cove.oci.auth import Credentials

HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NOT_FOUND = "credentials not found"
"""What every helper says of a login that it does not have."""
TOKEN_USER = "<token>"
CONFIG_MAX = 4 << 20
PATIENCE = 60


@dataclass(frozen=True, slots=True)
class Keeper:
    """A caller's ``config.json``."""

    path: str
    env: Mapping[str, str]
    cwd: str

    @property
    def text(self) -> str:
        """Empty where there is none that can be read."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return ""
        with open(fd, encoding="utf-8", errors="surrogateescape") as file:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            return file.read(CONFIG_MAX) if regular else ""

    def find(self, domain: str) -> Credentials | None:
        """The login for a registry; what no helper has may be in the file."""
        text = self.text
        helper = auth.helper_of(text, domain)
        if helper:
            found = self._from_helper(helper, domain)
            if found is not None:
                return found
        return auth.credentials_from_docker(text, domain)

    def keep(self, domain: str, credentials: Credentials) -> bool:
        """Whether a helper keeps it; else the file does."""
        helper = auth.helper_of(self.text, domain)
        if not helper:
            self._rewrite(domain, credentials)
            return False
        entry = {
            "ServerURL": auth.server_of(domain),
            "Username": credentials.username,
            "Secret": credentials.password,
        }
        self._run(helper, "store", json.dumps(entry))
        return True

    def forget(self, domain: str) -> bool:
        """Whether there was one."""
        text = self.text
        helper = auth.helper_of(text, domain)
        had = False
        if helper and self._from_helper(helper, domain) is not None:
            self._run(helper, "erase", auth.server_of(domain))
            had = True
        if auth.with_login(text, domain, None)[1]:
            self._rewrite(domain, None)
            had = True
        return had

    # ---- the file ----

    def _rewrite(self, domain: str, credentials: Credentials | None) -> None:
        self.change(lambda text: auth.with_login(text, domain, credentials)[0])

    def change(self, edited: Callable[[str], str]) -> None:
        """The whole file anew: a reader, and who is killed, see the old one or the new one."""
        place = os.path.realpath(self.path)
        try:
            os.makedirs(os.path.dirname(place), 0o700, exist_ok=True)
            with _alone(os.path.dirname(place)):
                text = self.text
                if text.strip() and not auth.read_document(text) and text.strip() != "{}":
                    raise HostError(
                        f"cannot write {self.path}: it is no JSON document, so it stays as it is",
                        exit_code=1,
                    )
                replace(place, edited(text))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise HostError(f"cannot write {self.path}: {reason}", exit_code=1) from error

    # ---- helpers ----

    def _from_helper(self, helper: str, domain: str) -> Credentials | None:
        try:
            said = json.loads(self._run(helper, "get", auth.server_of(domain)))
        except _Unknown:
            return None
        except ValueError:
            raise _helper_failed(helper, "get", "its answer is no JSON") from None
        user = said.get("Username") if isinstance(said, dict) else None
        secret = said.get("Secret") if isinstance(said, dict) else None
        if not isinstance(user, str) or not isinstance(secret, str):
            raise _helper_failed(helper, "get", "its answer has no user name and secret")
        if user == TOKEN_USER:
            return Credentials("", "", secret)
        return Credentials(user, secret) if user else None

    def _run(self, helper: str, verb: str, said: str) -> str:
        if not HELPER.fullmatch(helper):
            raise UsageError(f'cannot use credential helper "{helper}": it is no name')
        program = shutil.which(
            f"docker-credential-{helper}", path=self.env.get("PATH") or os.defpath
        )
        if program is None:
            raise HostError(
                f"cannot use credential helper docker-credential-{helper}: it is not in PATH",
                host=f"{self.path} names it",
                exit_code=1,
            )
        try:
            done = subprocess.run(
                [program, verb], input=said.encode("utf-8", "surrogateescape"), env=self.env,
                cwd=self.cwd, capture_output=True, timeout=PATIENCE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise _helper_failed(helper, verb, f"no answer in {PATIENCE} seconds") from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise _helper_failed(helper, verb, reason) from error
        out = done.stdout.decode("utf-8", "replace")
        if done.returncode == 0:
            return out
        if NOT_FOUND in out:
            raise _Unknown(NOT_FOUND)
        words = " ".join((out or done.stderr.decode("utf-8", "replace")).split())[:200]
        raise _helper_failed(helper, verb, printable(words) or f"exit code {done.returncode}")


class _Unknown(CoveError):
    """The helper has no such login."""


def keeper_of(env: Mapping[str, str], cwd: str) -> Keeper:
    """Of the caller with this environment."""
    directory = env.get("DOCKER_CONFIG") or f"{env.get('HOME') or '/'}/.docker"
    return Keeper(os.path.join(cwd, directory, "config.json"), env, cwd)


def _helper_failed(helper: str, verb: str, reason: str) -> HostError:
    return HostError(f"cannot {verb} the login by docker-credential-{helper}: {reason}",
                     exit_code=1)  # fmt: skip


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Two logins at once must not lose one of them."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def replace(place: str, text: str) -> None:
    part = f"{place}.{secrets.token_hex(6)}"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(fd)
        os.rename(part, place)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise
