"""``cove login`` and ``logout``: logins are tried, kept where Docker keeps them, and seen by nobody
else.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from tests.driver import Cove
from tests.registry.registries import PASSWORD, USER, Fake, TokenServer, status
from tests.registry.test_verbs import fresh

__all__ = ["fresh"]

CODED = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
HELPER = """#!/bin/sh
echo "$@" >> "$STORE.words"
case $1 in
store) cat > "$STORE" ;;
get) read -r server; [ -f "$STORE" ] && cat "$STORE" && exit 0
  echo "credentials not found in native keychain"; exit 1 ;;
erase) rm "$STORE" ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who has logged in nowhere."""
    return {"HOME": str(tmp_path), "DOCKER_CONFIG": ""}


def log_in(
    cove: Cove, host: str, env: dict[str, str], secret: str = PASSWORD, code: int = 0
) -> str:
    done = cove("login", "-u", USER, "--password-stdin", host, stdin=f"{secret}\n", env=env,
                code=code)  # fmt: skip
    assert secret not in done.out + done.err
    return done.out if code == 0 else done.err


@pytest.mark.parametrize("setup", ["basic", "guarded"])
def test_a_login_is_tried_and_kept(
    fresh: Cove, home: dict[str, str], setup: str, request: pytest.FixtureRequest
) -> None:
    host = request.getfixturevalue(setup)
    file = Path(home["HOME"]) / ".docker/config.json"
    said = log_in(fresh, host, home, "a bad guess", code=1)
    assert f"cannot log in to {host}: wrong user name or password" in said
    assert not file.exists()
    assert log_in(fresh, host, home) == "Login Succeeded\n"
    assert json.loads(file.read_text()) == {"auths": {host: {"auth": CODED}}}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == ["config.json"]
    said = fresh("pull", f"{host}/no:1", env=home, code=1).err
    assert "needs a login" not in said  # it is let in, and there is no such image
    said = fresh("logout", host, env=home).out
    assert said == f"Removing login credentials for {host}\n"
    assert json.loads(file.read_text()) == {"auths": {}}
    assert fresh("logout", host, env=home).out == f"Not logged in to {host}\n"
    assert "needs a login" in fresh("pull", f"{host}/no:1", env=home, code=1).err
    assert PASSWORD not in (fresh.root / "run/daemon.log").read_text()


def test_what_else_is_in_the_file_stays(fresh: Cove, home: dict[str, str], basic: str) -> None:
    place = Path(home["HOME"]) / ".docker"
    place.mkdir()
    (place / "real.json").write_text('{"psFormat": "x", "auths": {"a.example": {"auth": "YTpi"}}}')
    (place / "config.json").symlink_to("real.json")
    log_in(fresh, basic, home)
    found = json.loads((place / "real.json").read_text())
    assert found == {"psFormat": "x", "auths": {"a.example": {"auth": "YTpi"},
                                                basic: {"auth": CODED}}}  # fmt: skip
    (place / "real.json").write_text("[1, 2")
    said = fresh("login", "-u", USER, "--password-stdin", basic, stdin=PASSWORD, env=home, code=1)
    assert "it is no JSON document, so it stays as it is" in said.err
    assert (place / "real.json").read_text() == "[1, 2"


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_keeps_it(fresh: Cove, home: dict[str, str], basic: str, key: str) -> None:
    place = Path(home["HOME"])
    (place / "bin").mkdir()
    (place / ".docker").mkdir()
    program = place / "bin/docker-credential-box"
    program.write_text(HELPER)
    program.chmod(0o755)
    text = json.dumps({key: "box" if key == "credsStore" else {basic: "box"}})
    (place / ".docker/config.json").write_text(text)
    env = home | {"PATH": f"{place}/bin:{os.environ['PATH']}", "STORE": str(place / "kept")}
    assert "needs a login" in fresh("pull", f"{basic}/no:1", env=env, code=1).err
    log_in(fresh, basic, env)
    assert json.loads((place / "kept").read_text()) == {
        "ServerURL": basic, "Username": USER, "Secret": PASSWORD,
    }  # fmt: skip
    assert (place / ".docker/config.json").read_text() == text
    assert "needs a login" not in fresh("pull", f"{basic}/no:1", env=env, code=1).err
    fresh("logout", basic, env=env)
    assert not (place / "kept").exists()
    words = (place / "kept.words").read_text().split()
    assert words == ["get", "store", "get", "get", "erase"]
    program.write_text("#!/bin/sh\necho the box is locked; exit 3\n")
    said = fresh("pull", f"{basic}/no:1", env=env, code=1).err
    assert "cannot get the login by docker-credential-box: the box is locked" in said
    said = fresh("pull", f"{basic}/no:1", env=home, code=1).err
    assert "docker-credential-box: it is not in PATH" in said


@pytest.mark.parametrize("name", ["../../bin/sh", "x y", "-"])
def test_a_helper_is_a_name(fresh: Cove, home: dict[str, str], basic: str, name: str) -> None:
    (Path(home["HOME"]) / ".docker").mkdir()
    (Path(home["HOME"]) / ".docker/config.json").write_text(json.dumps({"credsStore": name}))
    said = fresh("pull", f"{basic}/no:1", env=home, code=125).err
    assert "it is no name" in said


def test_what_is_no_login(
    fresh: Cove, home: dict[str, str], fake: Fake, tokens: TokenServer
) -> None:
    def refused(*words: str, code: int = 1) -> str:
        return fresh("login", *words, env=home, code=code).err

    assert "nobody is there to be asked" in refused("-u", USER, fake.host)
    assert "--password-stdin needs --username" in refused("--password-stdin", fake.host)
    assert "are both there" in refused("-u", USER, "-p", "x", "--password-stdin", fake.host)
    assert "it is no registry's host" in refused("-u", "a", "-p", "b", "a/b c", code=125)
    fake.fault("/v2/", status(404), status(404))
    assert "it is no registry" in refused("-u", USER, "-p", "x", fake.host)
    challenge = f'Bearer realm="http://{tokens.address}/token",service="test"'
    fake.fault("/v2/", *[status(401, b"", WWW_Authenticate=challenge)] * 3)
    said = refused("-u", USER, "-p", "y", fake.host)
    assert "wrong user name or password" in said
    assert "who is that?" in said
    assert not (Path(home["HOME"]) / ".docker").exists()
