"""A registry that is down, slow, wrong or hostile: an error that names it, nothing left over."""

from __future__ import annotations

import gzip
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cove.errors import CoveError
from cove.image.pulling import Pulled
from cove.image.pulling import pull as pull_image
from cove.oci.auth import Credentials
from cove.oci.digest import digest_of
from cove.oci.endpoint import Endpoint
from cove.oci.web import Patience
from cove.store.db import Store
from tests.images.tars import Tar
from tests.registry.registries import (
    MANIFEST,
    Fake,
    FakeImage,
    blob_requests,
    body,
    cut,
    need,
    redirect,
    reply,
    stall,
    status,
)

FAST = Patience(connect=60, read=60, attempts=4, pause=0.01, longest=2)
"""On a busy host a registry may be slow: it is not asked twice."""
FILES = Tar().file("f", os.urandom(400_000)).data()


def pull(store: Store, reference: str, **options: object) -> Pulled:
    return pull_image(store, reference, **({"patience": FAST} | options))  # type: ignore[arg-type]


def fails(store: Store, reference: str, *words: str, **options: object) -> CoveError:
    """The pull fails with an error that has these words, and leaves nothing."""
    with pytest.raises(CoveError) as failed:
        pull(store, reference, **options)
    shown = failed.value.render()
    for word in words:
        assert word in shown, shown
    assert store.images() == [] and store.layers() == [] and store.tags() == {}
    assert not [name for name in os.listdir(store.layout.roots) if name.startswith("l")]
    assert failed.value.exit_code == 1, shown
    return failed.value


@pytest.fixture
def image() -> FakeImage:
    return FakeImage([FILES])


@pytest.fixture
def web(fake: Fake, image: FakeImage) -> str:
    return fake.add("web:1", image)


# ---- cut and resumed ----


def test_a_cut_blob_goes_on_where_it_was(
    store: Store, fake: Fake, image: FakeImage, web: str
) -> None:
    fake.fault(image.layer, cut(100_000), cut(100_000), cut(0))
    assert pull(store, web).fresh
    assert blob_requests(fake, image.layer) == ["", "bytes=100000-", "bytes=200000-",
                                                "bytes=200000-"]  # fmt: skip


def test_a_registry_that_cannot_resume(
    store: Store, fake: Fake, image: FakeImage, web: str
) -> None:
    fake.fault(image.layer, cut(100_000), body(FILES))
    assert pull(store, web).fresh


def test_a_blob_that_is_always_cut(store: Store, fake: Fake, image: FakeImage, web: str) -> None:
    fake.fault(image.layer, cut(1000), *[cut(0)] * 10)
    fails(store, web, f"cannot pull {web}: layer {image.layer[:19]} at byte 1000 of {len(FILES)}",
          "the connection was cut", fake.host)  # fmt: skip
    assert fake.count(image.layer) == 1 + FAST.attempts - 1


def test_a_registry_that_dies_in_the_middle(
    store: Store, fake: Fake, image: FakeImage, web: str
) -> None:
    def die(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        # Whoever polls a socket keeps it: a close alone would let it listen a moment more.
        fake.server.socket.shutdown(socket.SHUT_RDWR)
        fake.server.socket.close()
        return cut(1000)(request, data)

    fake.fault(image.layer, die)
    error = fails(store, web, "cannot be reached", "refused", fake.host)
    assert "host" in error.hint


def test_a_stalled_blob_is_asked_for_again(
    store: Store, fake: Fake, image: FakeImage, web: str
) -> None:
    event = threading.Event()
    fake.fault(image.layer, stall(event))
    hasty = Patience(connect=60, read=2, attempts=4, pause=0.01, longest=2)
    assert pull_image(store, web, patience=hasty).fresh
    event.set()
    assert blob_requests(fake, image.layer) == ["", "bytes=10-"]


@pytest.mark.parametrize("where", ["layer", "config", "/manifests/1"])
def test_the_end_of_a_stalled_pull(
    store: Store, fake: Fake, image: FakeImage, web: str, where: str
) -> None:
    event, stopped = threading.Event(), threading.Event()
    ends = {"layer": image.layer, "config": str(image.document["config"]["digest"])}
    fake.fault(ends.get(where, where), stall(event))
    threading.Timer(0.3, stopped.set).start()
    with pytest.raises(CoveError) as ended:
        pull_image(store, web, stopped=stopped)
    assert ended.value.exit_code == 130
    event.set()
    assert store.layers() == []


# ---- busy ----


def test_a_busy_registry_is_asked_again(
    store: Store, fake: Fake, image: FakeImage, web: str
) -> None:
    busy = [status(500), status(503), status(429, b"", Retry_After="0")]
    fake.fault("/manifests/1", *busy)
    fake.fault(image.layer, *busy)
    assert pull(store, web).fresh


def test_retry_after_is_kept(store: Store, fake: Fake, web: str) -> None:
    fake.fault("/manifests/1", status(429, b"", Retry_After="1"))
    steps: list[str] = []
    begin = time.monotonic()
    assert pull(store, web, progress=lambda step: steps.append(step.stage)).fresh
    assert time.monotonic() - begin >= 1
    assert "it answers 429, trying again in 1 s" in steps


def test_a_date_counts_by_the_servers_clock(store: Store, fake: Fake, web: str) -> None:
    """This host's clock may be years off."""
    date, until = "Thu, 01 Jan 2015 00:00:00 GMT", "Thu, 01 Jan 2015 00:00:01 GMT"

    def busy(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        request.send_response_only(429)
        for name, value in (("Date", date), ("Retry-After", until), ("Content-Length", "0")):
            request.send_header(name, value)
        request.end_headers()
        return True

    fake.fault("/manifests/1", busy)
    begin = time.monotonic()
    assert pull(store, web).fresh
    assert time.monotonic() - begin >= 1  # this host's clock would have it over long ago


def test_too_many_requests(store: Store, fake: Fake, web: str) -> None:
    told = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}'
    fake.fault("/manifests/1", status(429, told, Retry_After="3600"))
    fails(store, web, "too many requests", "TOOMANYREQUESTS slow down", "Retry-After: 3600")
    assert fake.count("/manifests/") == 1, "an hour is not waited for"


@pytest.mark.parametrize("code", [500, 502, 503])
def test_a_broken_registry(store: Store, fake: Fake, web: str, code: int) -> None:
    fake.fault("/manifests/1", *[status(code, b"<html>")] * 10)
    fails(store, web, f"{fake.host} answers {code}")
    assert fake.count("/manifests/") == FAST.attempts


@pytest.mark.parametrize("code", [401, 403])
def test_denied(store: Store, fake: Fake, web: str, code: int) -> None:
    fake.fault("/manifests/1", *[status(code)] * 3)
    fails(store, web, "access denied", "cove login 127.0.0.1")


def test_no_such_tag(store: Store, fake: Fake, web: str) -> None:
    fails(store, f"{fake.host}/web:2", "no such image", "MANIFEST_UNKNOWN", "web:2")


def test_no_such_layer(store: Store, fake: Fake, image: FakeImage, web: str) -> None:
    del fake.blobs[image.layer]
    fails(store, web, f"layer {image.layer} is not there", "BLOB_UNKNOWN")


# ---- unreachable ----


def test_nobody_listens(store: Store, nobody: str) -> None:
    error = fails(store, f"{nobody}/web:1", f"{nobody} cannot be reached: connection refused")
    for word in ("`host`", "bootstrap debian:bookworm", "cove image import", "cove load"):
        assert word in error.hint


def test_no_such_host(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*words: object, **more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    fails(store, "registry.example/web:1", "registry.example cannot be reached: its name")
    error = fails(store, "debian", "cannot pull debian:latest", "registry-1.docker.io")
    assert "`host`" in error.hint


# ---- not what was promised ----


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_layer_with_another_digest(store: Store, fake: Fake, pack) -> None:  # type: ignore[no-untyped-def]
    image = FakeImage([FILES], pack)
    web = fake.add("web:1", image)
    whole = image.blobs[image.layer]
    fake.blobs[image.layer] = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    fails(store, web, "cannot unpack layer")


def test_a_whole_layer_with_another_digest(store: Store, fake: Fake, image: FakeImage) -> None:
    web = fake.add("web:1", image)
    fake.blobs[image.layer] = FILES[:600] + b"?" + FILES[601:]
    fails(store, web, "wrong digest")


def test_a_wrong_diff_id(store: Store, fake: Fake) -> None:
    image = FakeImage([FILES])
    other = FakeImage([Tar().file("other").data()])
    image.document["layers"] = other.document["layers"]
    image.blobs |= other.blobs
    fails(store, fake.add("web:1", image), "wrong diff ID")


@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_a_layer_with_another_length(store: Store, fake: Fake, change: int) -> None:
    image = FakeImage([FILES])
    image.document["layers"][0]["size"] += change
    fails(
        store, fake.add("web:1", image), f"has {len(FILES)} bytes of it, not {len(FILES) + change}"
    )


def test_more_than_promised_without_a_length(
    store: Store, fake: Fake, image: FakeImage, web: str
) -> None:
    def endless(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        request.send_response(200)
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(data + bytes(1 << 20))
        request.close_connection = True
        return True

    fake.fault(image.layer, endless)
    fails(store, web, f"sends more than {len(FILES)} bytes")


def test_a_config_with_another_digest(store: Store, fake: Fake, image: FakeImage, web: str) -> None:
    name = str(image.document["config"]["digest"])
    fake.blobs[name] = fake.blobs[name].replace(b"linux", b"minix")
    fails(store, web, f"config {name}: wrong digest")


def test_a_config_that_is_too_large(store: Store, fake: Fake, image: FakeImage) -> None:
    image.document["config"]["size"] = 100 << 20
    fails(store, fake.add("web:1", image), "larger than 8 MiB")


def test_a_manifest_with_another_digest(
    store: Store, fake: Fake, image: FakeImage, web: str
) -> None:
    name = digest_of(image.manifest)
    fake.manifests[f"/v2/web/manifests/{name}"] = MANIFEST, image.manifest + b" "
    fails(store, f"{fake.host}/web@{name}", "wrong digest")
    fake.fault("/manifests/1", body(image.manifest, Docker_Content_Digest="sha256:" + "0" * 64))
    fails(store, web, "wrong digest")


@pytest.mark.parametrize("told", [True, False])
def test_a_manifest_of_100_mb(store: Store, fake: Fake, web: str, told: bool) -> None:
    sent = []

    def huge(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        request.send_response(200)
        if told:
            request.send_header("Content-Length", str(100 << 20))
        request.end_headers()
        for _ in range(100):
            request.wfile.write(bytes(1 << 20))
            sent.append(1)
        return True

    fake.fault("/manifests/1", huge)
    fails(store, web, "larger than 4 MiB")
    assert len(sent) < 40


@pytest.mark.parametrize(
    ("kind", "document", "words"),
    [
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", {}, "schema version 1"),
        ("application/json", {"schemaVersion": 1, "fsLayers": []}, "schema version 1"),
        (MANIFEST, {"schemaVersion": 3}, "schema version 3 is not 2"),
        (MANIFEST, {"schemaVersion": 2}, "neither an image manifest nor an index"),
        (MANIFEST, [], "cannot read manifest"),
        ("text/html", "<html>", "cannot read manifest"),
    ],
)
def test_what_is_no_manifest(
    store: Store, fake: Fake, kind: str, document: object, words: str
) -> None:
    fails(store, fake.put("web:1", kind, json.dumps(document).encode()), words, "web:1")


def test_a_chart_is_no_image(store: Store, fake: Fake, image: FakeImage) -> None:
    image.document["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
    fails(store, fake.add("web:1", image), "application/vnd.cncf.helm.config", "no")


def test_more_layers_than_the_config_has(store: Store, fake: Fake, image: FakeImage) -> None:
    image.document["layers"] *= 2
    fails(store, fake.add("web:1", image), "its config has 1 layers, its manifest 2")


# ---- led elsewhere ----


def test_a_redirect_without_credentials(
    store: Store, fake: Fake, image: FakeImage, web: str
) -> None:
    """As registries send their clients to a store of blobs."""
    other = Fake()
    try:
        other.blobs[image.layer] = FILES

        def wants_login(request: BaseHTTPRequestHandler, data: bytes) -> bool:
            if request.headers.get("Authorization"):
                return False
            reply(request, 401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
            return True

        fake.fault("/manifests/1", wants_login)
        fake.fault(image.layer, redirect(f"http://{other.host}/v2/x/blobs/{image.layer}"))
        assert pull(store, web, credentials=Credentials("ada", "secret")).fresh
        ((_, _, headers),) = other.requests
        assert "authorization" not in headers
        assert any("authorization" in headers for _, _, headers in fake.requests)
    finally:
        other.close()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", "metadata"),
        ("http://[fe80::1]/x", "link-local"),
        ("http://[::ffff:169.254.169.254]/x", "metadata"),
        ("http://2852039166/x", "metadata"),
        ("file:///etc/shadow", "no web address"),
        ("gopher://127.0.0.1/x", "no web address"),
    ],
)
def test_where_no_redirect_is_followed(
    store: Store, fake: Fake, image: FakeImage, web: str, target: str, words: str
) -> None:
    fake.fault(image.layer, *[redirect(target)] * 5)
    fails(store, web, "not followed", words)


def test_a_circle_of_redirects(store: Store, fake: Fake, web: str) -> None:
    fake.fault("/manifests/1", *[redirect("/v2/web/manifests/1")] * 9)
    fails(store, web, "it leads on more than 5 times")


@pytest.mark.parametrize(
    ("realm", "words"),
    [
        ("http://169.254.169.254/token", "metadata"),
        ("file:///etc/shadow", "no web address"),
    ],
)
def test_a_hostile_token_server(store: Store, fake: Fake, web: str, realm: str, words: str) -> None:
    asks = status(401, b"", WWW_Authenticate=f'Bearer realm="{realm}",service="x"')
    fake.fault("/manifests/1", asks)
    fails(store, web, "not followed", words, credentials=Credentials("ada", "secret"))


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\nb"}'])
def test_what_is_no_token(store: Store, fake: Fake, web: str, answer: bytes) -> None:
    realm = f"http://{fake.host}/token"
    fake.fault("/manifests/1", status(401, b"", WWW_Authenticate=f'Bearer realm="{realm}"'))
    fake.fault("?scope=repository%3Aweb%3Apull", body(answer))
    fails(store, web, "it is no token")


def test_words_of_a_registry_drive_no_terminal(store: Store, fake: Fake, web: str) -> None:
    told = json.dumps({"errors": [{"code": "X", "message": "\x1b]0;owned\x07" + "y" * 999}]})
    fake.fault("/manifests/1", *[status(403, told.encode())] * 3)
    shown = fails(store, web, "access denied").render()
    assert "\x1b" not in shown and len(shown) < 600


# ---- TLS ----


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Fake]:
    """A registry behind a certificate that nobody vouches for."""
    need("openssl")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "2",
         "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server = Fake(context=context)
    try:
        yield server
    finally:
        server.close()


def test_tls_on_loopback(store: Store, secure: Fake) -> None:
    """As Docker: loopback needs no certificate that anybody vouches for."""
    assert pull(store, secure.add("web:1", FakeImage([FILES]))).fresh


def test_no_redirect_from_https_to_http(store: Store, secure: Fake, fake: Fake) -> None:
    image = FakeImage([FILES])
    web = secure.add("web:1", image)
    fake.blobs |= image.blobs
    secure.fault(image.layer, redirect(f"http://{fake.host}/v2/web/blobs/{image.layer}"))
    fails(store, web, "not followed", "from https to http")
    assert fake.requests == []
    realm = f'Bearer realm="http://{fake.host}/token"'
    secure.fault("/manifests/1", status(401, b"", WWW_Authenticate=realm))
    fails(store, web, "from https to http", credentials=Credentials("ada", "secret"))
    assert fake.requests == []


def test_a_certificate_that_nobody_vouches_for(
    store: Store, secure: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere than on loopback."""
    web = secure.add("web:1", FakeImage([FILES]))
    strict = Endpoint(secure.host)
    monkeypatch.setattr("cove.image.registries.endpoint_of", lambda *words: strict)
    error = fails(store, web, "its certificate is not trusted: self")
    assert secure.requests == [] and error.hint == ""


CA = """
[ca]
default_ca = this
[this]
database = {0}/database
rand_serial = yes
new_certs_dir = {0}
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = IP:127.0.0.1
"""


@pytest.mark.parametrize(
    ("begin", "end"),
    [("20200101000000Z", "20200201000000Z"), ("20900101000000Z", "20910101000000Z")],
)
def test_a_clock_that_is_wrong(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: str, end: str
) -> None:
    """A trusted certificate that is over, or has not begun, by this host's clock."""
    need("openssl")
    (tmp_path / "database").touch()
    (tmp_path / "ca.conf").write_text(CA.format(tmp_path))
    for words in (
        ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", "key",
         "-out", "asked"],
        ["ca", "-batch", "-notext", "-selfsign", "-config", "ca.conf", "-keyfile", "key",
         "-in", "asked", "-out", "cert", "-startdate", begin, "-enddate", end],
    ):  # fmt: skip
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server = Fake(context=context)
    try:
        web = server.add("web:1", FakeImage([FILES]))
        strict = Endpoint(server.host)
        monkeypatch.setattr("cove.image.registries.endpoint_of", lambda *words: strict)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        error = fails(store, web, "its certificate is not trusted: certificate")
        assert error.hint == "look at this host's clock: date"
        assert server.requests == []
    finally:
        server.close()
