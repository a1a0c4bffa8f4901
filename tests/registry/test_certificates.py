"""Certificates that are kept for one registry: who vouches for it, and by what it knows us."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.errors import CoveError
from cove.image.pulling import pull
from cove.oci.web import Patience
from cove.store.db import Store
from tests.conftest import need
from tests.images.tars import Tar
from tests.registry.registries import Fake, FakeImage

FILES = Tar().file("a", b"x").data()
SOON = Patience(connect=60, read=60, attempts=2, pause=0.001)


def make(place: Path, name: str, alternative: str = "IP:127.0.0.1") -> None:
    need("openssl")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
         "-addext", f"subjectAltName={alternative}", "-days", "2",
         "-keyout", place / f"{name}.key", "-out", place / f"{name}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``server``, ``client`` and ``other``."""
    place = tmp_path_factory.mktemp("certificates")
    for name in ("server", "client", "other"):
        make(place, name)
    return place


@pytest.fixture
def secure(made: Path, request: pytest.FixtureRequest) -> Iterator[Fake]:
    """It wants a certificate of its clients if the test is so parametrized."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "server.crt", made / "server.key")
    if getattr(request, "param", ""):
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(made / "client.crt")
    server = Fake(context=context)
    try:
        yield server
    finally:
        server.close()


def keep(store: Store, host: str, name: str, source: Path) -> Path:
    place = Path(store.layout.root) / "certs.d" / host
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(source.read_bytes())
    return place / name


def test_one_that_is_vouched_for(store: Store, secure: Fake, made: Path) -> None:
    keep(store, secure.host, "ca.crt", made / "server.crt")
    assert pull(store, secure.add("web:1", FakeImage([FILES])), patience=SOON).fresh


def test_one_that_is_not(store: Store, secure: Fake, made: Path) -> None:
    """On loopback, too, where otherwise anybody's would do."""
    keep(store, secure.host, "ca.crt", made / "other.crt")
    web = secure.add("web:1", FakeImage([FILES]))
    with pytest.raises(CoveError, match="its certificate is not trusted"):
        pull(store, web, patience=SOON)
    assert secure.requests == []


def test_what_is_no_certificate(store: Store, secure: Fake, tmp_path: Path) -> None:
    (tmp_path / "rubbish").write_text("-----BEGIN NOTHING-----")
    path = keep(store, secure.host, "ca.crt", tmp_path / "rubbish")
    with pytest.raises(CoveError, match=f"{path}: it is no certificate"):
        pull(store, secure.add("web:1", FakeImage([FILES])), patience=SOON)


@pytest.mark.parametrize("secure", ["wanted"], indirect=True)
def test_one_of_our_own(store: Store, secure: Fake, made: Path) -> None:
    web = secure.add("web:1", FakeImage([FILES]))
    with pytest.raises(CoveError, match=f"cannot pull {web}"):
        pull(store, web, patience=SOON)
    assert secure.requests == []
    keep(store, secure.host, "us.cert", made / "client.crt")
    with pytest.raises(CoveError, match=r"us\.key: no such file"):
        pull(store, web, patience=SOON)
    keep(store, secure.host, "us.key", made / "client.key")
    assert pull(store, web, patience=SOON).fresh
