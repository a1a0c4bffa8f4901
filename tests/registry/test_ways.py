"""Ways to a registry: mirrors, proxies, and a login by an identity token."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from cove.errors import CoveError
from cove.oci.proxies import proxy_for
from tests.driver import Cove
from tests.images.tars import Tar
from tests.registry.registries import Fake, FakeImage, cut, reply, serve, status
from tests.registry.test_verbs import fresh

__all__ = ["fresh"]


@pytest.fixture
def image() -> FakeImage:
    return FakeImage([Tar().file("f", b"x" * 400_000).data()])


@pytest.fixture
def mirror() -> Iterator[Fake]:
    server = Fake()
    try:
        yield server
    finally:
        server.close()


def settings(cove: Cove, **known: object) -> None:
    Path(cove.root).mkdir(exist_ok=True)
    (Path(cove.root) / "registries.json").write_text(json.dumps(known))


# ---- mirrors ----


def test_a_mirror_is_asked_first(fresh: Cove, fake: Fake, mirror: Fake, image: FakeImage) -> None:
    mirror.add("cache/web:1", image)
    mirror.pages("cache/web", [["1"]])
    settings(fresh, mirrors={fake.host: [f"{mirror.host}/cache"]})
    assert fresh("pull", "-q", f"{fake.host}/web:1").out == f"{fake.host}/web:1\n"
    assert fake.requests == []
    names = fresh("image", "inspect", "-f", "{{json .RepoDigests}}", f"{fake.host}/web:1").out
    assert f"{fake.host}/web@" in names and mirror.host not in names
    assert f"{fake.host}/web:1: sha256:" in fresh("pull", "-a", f"{fake.host}/web").out
    assert fake.requests == []


def test_what_no_mirror_has_comes_from_the_registry(
    fresh: Cove, fake: Fake, mirror: Fake, image: FakeImage, nobody: str
) -> None:
    settings(fresh, mirrors={fake.host: [nobody, mirror.host]})
    said = fresh("pull", fake.add("web:1", image)).err
    assert f"mirror {nobody} does not serve" in said and "cannot be reached" in said
    assert f"mirror {mirror.host} does not serve" in said and "no such image" in said
    assert not any("authorization" in headers for _, _, headers in mirror.requests)


def test_a_mirror_that_breaks_off(fresh: Cove, fake: Fake, mirror: Fake, image: FakeImage) -> None:
    mirror.add("web:1", image)
    mirror.fault(image.layer, cut(100), status(404))
    settings(fresh, mirrors={fake.host: [mirror.host]})
    fresh("pull", "-q", fake.add("web:1", image))
    assert fake.count(image.layer) == 1


@pytest.mark.parametrize("wrong", ["web", "http://web.example", "web.example:x", "a b/"])
def test_what_is_no_mirror(fresh: Cove, fake: Fake, wrong: str) -> None:
    settings(fresh, mirrors={fake.host: [wrong]})
    said = fresh("pull", f"{fake.host}/web:1", code=1).err
    assert f'cannot use mirror "{wrong}" of {fake.host}' in said


# ---- proxies ----


@pytest.fixture
def proxy(fake: Fake) -> Iterator[ThreadingHTTPServer]:
    """Leads every name to the one registry."""
    server: ThreadingHTTPServer

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append((request.path, request.headers.get("Proxy-Authorization", "")))
        request.path = urlsplit(request.path).path
        fake._answer(request)

    seen: list[tuple[str, str]] = []
    server = serve(answer)
    server.seen = seen  # type: ignore[attr-defined]
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_through_a_proxy(
    fresh: Cove, fake: Fake, image: FakeImage, proxy: ThreadingHTTPServer
) -> None:
    """Names that only the proxy knows; this host itself needs none."""
    fake.add("web:1", image)
    settings(fresh, insecure=["registry.test:5000"])
    fresh.env["HTTP_PROXY"] = f"http://ada:s%20x@127.0.0.1:{proxy.server_port}"
    fresh("pull", "-q", "registry.test:5000/web:1")
    seen = proxy.seen  # type: ignore[attr-defined]
    login = "Basic " + base64.b64encode(b"ada:s x").decode()
    assert all(url.startswith("http://registry.test:5000/v2/") for url, _ in seen)
    assert {who for _, who in seen} == {login}
    count = len(seen)
    fresh("pull", "-q", f"{fake.host}/web:1")
    assert len(seen) == count


def test_a_proxy_that_is_not_there(fresh: Cove, nobody: str) -> None:
    settings(fresh, insecure=["registry.test:5000"])
    fresh.env["http_proxy"] = nobody
    said = fresh("pull", "registry.test:5000/web:1", code=1).err
    assert "registry.test:5000 cannot be reached: its proxy" in said


EXCEPT = "in.example,.below.example,10.0.0.0/8,1.2.3.4,port.example:8443,[fd00::1]"
ENV = {"HTTPS_PROXY": "http://p:1", "http_proxy": "q:2", "NO_PROXY": EXCEPT}


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://web.example/v2/", "http://p:1"),
        ("http://web.example/v2/", "http://q:2"),
        ("https://in.example/", ""),
        ("https://a.in.example/", ""),
        ("https://win.example/", "http://p:1"),
        ("https://below.example/", "http://p:1"),
        ("https://a.below.example/", ""),
        ("https://10.9.8.7:5000/", ""),
        ("https://11.9.8.7/", "http://p:1"),
        ("https://1.2.3.4/", ""),
        ("https://port.example/", "http://p:1"),
        ("https://port.example:8443/", ""),
        ("https://[fd00::1]/", ""),
        ("https://localhost:5000/", ""),
        ("https://127.0.0.9/", ""),
    ],
)
def test_which_proxy(url: str, found: str) -> None:
    assert proxy_for(url, ENV) == found
    assert proxy_for(url, ENV | {"no_proxy": "*"}) == ""


@pytest.mark.parametrize("text", ["socks5://p:1", "http://", "http://p:x", "http://[::1"])
def test_what_is_no_proxy(text: str) -> None:
    with pytest.raises(CoveError, match="cannot use HTTPS_PROXY"):
        proxy_for("https://web.example/", {"https_proxy": text})


# ---- identity tokens ----


def test_an_identity_token(fresh: Cove, fake: Fake, image: FakeImage, tmp_path: Path) -> None:
    """Docker's config.json has one, or a helper whose user is ``<token>``."""
    asked: list[dict[str, list[str]]] = []

    def token(request: BaseHTTPRequestHandler) -> None:
        form = request.rfile.read(int(request.headers["Content-Length"] or 0))
        asked.append(parse_qs(form.decode()))
        assert request.command == "POST" and "Authorization" not in request.headers
        reply(request, 200, b'{"access_token": "good"}')

    server = serve(token, methods=("POST",))
    place = tmp_path / "docker"
    place.mkdir()
    config = place / "config.json"
    config.write_text(json.dumps({"auths": {fake.host: {"identitytoken": "refresh me"}}}))
    env = {"DOCKER_CONFIG": str(place), "HOME": str(tmp_path)}
    wants = status(401, WWW_Authenticate=f'Bearer realm="http://127.0.0.1:{server.server_port}/t",'
                                         'service="reg",scope="repository:web:pull"')  # fmt: skip
    try:
        fake.fault("/manifests/1", wants)
        fresh("pull", "-q", fake.add("web:1", image), env=env)
        expected = {"grant_type": ["refresh_token"], "refresh_token": ["refresh me"],
                    "client_id": ["cove"], "service": ["reg"],
                    "scope": ["repository:web:pull"]}  # fmt: skip
        assert asked == [expected]
        sent = {headers.get("authorization") for _, _, headers in fake.requests[1:]}
        assert "Bearer good" in sent
        helper = tmp_path / "docker-credential-tests"
        helper.write_text('#!/bin/sh\necho \'{"Username": "<token>", "Secret": "refresh me"}\'\n')
        helper.chmod(0o755)
        config.write_text(json.dumps({"credHelpers": {fake.host: "tests"}}))
        fresh("rmi", f"{fake.host}/web:1")
        fake.fault("/manifests/1", wants)
        fresh("pull", "-q", f"{fake.host}/web:1", env=env | {"PATH": f"{tmp_path}:/usr/bin:/bin"})
        assert asked == [expected] * 2
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("code", [307, 308])
def test_an_identity_token_is_led_to_no_other_host(
    fresh: Cove, fake: Fake, image: FakeImage, tmp_path: Path, code: int
) -> None:
    """By a token server that the registry names, and that lies."""
    heard: list[bytes] = []

    def thief(request: BaseHTTPRequestHandler) -> None:
        heard.append(request.rfile.read(int(request.headers["Content-Length"] or 0)))
        reply(request, 200, b'{"access_token": "good"}')

    other = serve(thief, methods=("POST",))
    there = f"http://127.0.0.1:{other.server_port}/t"

    def lead(request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers["Content-Length"] or 0))
        reply(request, code, b"", {"Location": there})

    server = serve(lead, methods=("POST",))
    place = tmp_path / "docker"
    place.mkdir()
    known = {"auths": {fake.host: {"identitytoken": "refresh me"}}}
    (place / "config.json").write_text(json.dumps(known))
    try:
        realm = f"http://127.0.0.1:{server.server_port}/t"
        fake.fault("/manifests/1", status(401, WWW_Authenticate=f'Bearer realm="{realm}"'))
        env = {"DOCKER_CONFIG": str(place), "HOME": str(tmp_path)}
        said = fresh("pull", "-q", fake.add("web:1", image), env=env, code=None)
        assert said.returncode == 1 and "sends what is secret on to 127.0.0.1" in said.err
        assert heard == []
    finally:
        for each in (server, other):
            each.shutdown()
            each.server_close()
