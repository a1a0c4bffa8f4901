"""Answers that no honest registry gives, made to be too much for who reads them: an error in cove's
words, never one of the reader's own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cove.oci.linked import OCI_INDEX as INDEX
from cove.oci.web import Patience
from cove.store.db import Store
from tests.registry.registries import (
    Fake,
    FakeImage,
    Fault,
    body,
    cut,
    redirect,
    reply,
    status,
)
from tests.registry.test_faults import fails, image, pull, web

__all__ = ["image", "web"]

DEEP = b"[" * 100_000
NO_UTF8 = b'{"errors": [{"code": "\xff\xfe", "message": "x"}]}'


@pytest.mark.parametrize(
    "said",
    [NO_UTF8, DEEP, b'{"errors": ' + DEEP, b'{"errors": {}}', b'{"errors": [7]}', b"7", b'"errors"',
     b'{"errors": [[]]}', b'{"details": [1]}'],
    ids=lambda said: repr(said[:12]),
)  # fmt: skip
def test_what_a_registry_complains(store: Store, fake: Fake, web: str, said: bytes) -> None:
    fake.fault("/manifests/1", status(404, said), status(404, said))
    fails(store, web, "no such image")


@pytest.mark.parametrize(
    "target",
    ["http://[::1", "http://[::1]:x/", "http://a:99999/", "//[", "http://\u00ba.com:0x/",
     "file:///etc/passwd", "gopher://127.0.0.1/"],
)  # fmt: skip
def test_a_redirect_to_what_is_no_address(
    store: Store, fake: Fake, image: FakeImage, web: str, target: str
) -> None:
    fake.fault(image.layer, redirect(target))
    fails(store, web, "no web address")


@pytest.mark.parametrize("realm", ["http://[::1", "http://a:b:c/", "file:///etc/shadow", "http://"])
def test_a_realm_that_is_no_address(store: Store, fake: Fake, web: str, realm: str) -> None:
    wants = status(401, WWW_Authenticate=f'Bearer realm="{realm}",service="x"')
    fake.fault("/manifests/1", wants, wants)
    fails(store, web, "no web address")


@pytest.mark.parametrize(
    "answer",
    [DEEP, b'{"token": "\xff"}', '{"token": "\u03a9"}'.encode(), b'{"token": "a\\nb"}',
     b'{"token": "a b"}', b'{"token": 7}', b"[]", b'{"token": ""}'],
    ids=lambda said: repr(said[:14]),
)  # fmt: skip
def test_what_no_header_can_carry(store: Store, fake: Fake, web: str, answer: bytes) -> None:
    wants = status(401, WWW_Authenticate=f'Bearer realm="http://{fake.host}/token"')
    fake.fault("/manifests/1", wants, wants)
    fake.fault("/token?scope=repository%3Aweb%3Apull", body(answer))
    fails(store, web, "it is no token")


@pytest.mark.parametrize("life", ["9" * 400, "1e999", "-5", '"x"', '"60"', "null", "[]", "{}"])
def test_a_token_with_any_life(store: Store, fake: Fake, web: str, life: str) -> None:
    wants = status(401, WWW_Authenticate=f'Bearer realm="http://{fake.host}/token"')
    fake.fault("/manifests/1", wants)
    answer = f'{{"token": "abc", "expires_in": {life}}}'.encode()
    fake.fault("/token?scope=repository%3Aweb%3Apull", body(answer))
    if life == "1e999":  # no JSON at all
        fails(store, web, "it is no token")
    else:
        assert pull(store, web).fresh


@pytest.mark.parametrize(
    "span",
    ["bytes \u00b2-9/10", "bytes 100000-9/" + "9" * 5000, "bytes " + "9" * 5000, "", "\u00b2"],
)
def test_a_span_that_is_no_span(
    store: Store, fake: Fake, image: FakeImage, web: str, span: str
) -> None:
    def wrong(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        reply(request, 206, data[100_000:], {"Content-Range": span})
        return True

    fake.fault(image.layer, cut(100_000), wrong)
    if span.startswith("bytes 100000-"):  # a total that nobody can read says nothing
        assert pull(store, web).fresh
    else:
        fails(store, web, "the registry sends it from byte")


@pytest.mark.parametrize("length", ["9" * 5000, "\u00b2", "-1", "0x10"])
def test_a_length_that_is_no_length(store: Store, fake: Fake, web: str, length: str) -> None:
    def wrong(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        request.close_connection = True
        reply(request, 200, b"{}", {"Content-Length": length})
        return True

    fake.fault("/manifests/1", *[wrong] * 8)
    fails(store, web)


def test_a_date_that_no_calendar_has(store: Store, fake: Fake, web: str) -> None:
    when = "Mon, 01 Jan 2024 00:00:00 +99999999999999999"
    fake.fault("/manifests/1", *[status(503, Retry_After=when)] * 2)
    assert pull(store, web).fresh


@pytest.mark.parametrize(
    "link", ['<//[>; rel="next"', '<?last=\u00ff>; rel="next"', '<?last=1', "next", '>; "next"<']
)  # fmt: skip
def test_a_next_page_that_leads_nowhere(store: Store, fake: Fake, link: str) -> None:
    from cove.image.pulling import tags_of
    from tests.registry.test_faults import FAST

    pages = body(b'{"tags": ["1"]}', Link=link)
    fake.fault("/tags/list", pages)
    fake.fault("/tags/list?last=%C3%BF", body(b'{"tags": ["2"]}'))
    fake.fault("/tags/list?last=1", body(b'{"tags": ["2"]}'))
    found = tags_of(store, f"{fake.host}/web", patience=FAST)
    assert found[0] == f"{fake.host}/web:1"


def test_a_manifest_in_pieces_of_a_byte(
    store: Store, fake: Fake, image: FakeImage, web: str
) -> None:
    """Half a million of them must not take half a million copies of what has come."""
    size = 1 << 19

    def slow(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"1\r\n \r\n" * (size - len(data)))
        request.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        return True

    fake.fault("/manifests/1", slow)
    assert pull(store, web).fresh


@pytest.mark.parametrize(
    "schema", ["1e300", '"2"', "null", "true", "[]", "9" * 400, "2.0", "-1"]
)  # fmt: skip
def test_any_schema(store: Store, fake: Fake, image: FakeImage, schema: str) -> None:
    document = json.dumps(image.document).replace(
        '"schemaVersion": 2', f'"schemaVersion": {schema}'
    )
    reference = fake.put("web:1", str(image.document["mediaType"]), document.encode())
    fake.blobs |= image.blobs
    fails(store, reference, "cannot")


def test_registries_that_a_crash_has_written(store: Store, web: str) -> None:
    """What is configured for people is read with the same doubts."""
    for damaged in (b"\xff\xfe", b'{"insecure": ["\xff"]}', DEEP, b'{"insecure": ['):
        Path(store.layout.registries).write_bytes(damaged)
        from cove.errors import UsageError

        with pytest.raises(UsageError, match="cannot read"):
            pull(store, web)


# ---- without end ----

HASTE = Patience(connect=60, read=60, attempts=4, pause=0.01, longest=2, whole=1.5, least=1 << 20)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Set when the test is over: what drips ends with it."""
    event = threading.Event()
    yield event
    event.set()


def drip(over: threading.Event, first: bytes, more: bytes) -> Fault:
    """``first``, then ``more`` again and again, until nobody listens."""

    def fault(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        request.close_connection = True
        with suppress(OSError):
            request.wfile.write(first % (len(data) or 300) if b"%d" in first else first)
            while not over.wait(0.01):
                request.wfile.write(more)
        return True

    return fault


DRIPS = {
    "a body": (HEAD, b" "),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "word that it goes on": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("what", DRIPS)
@pytest.mark.parametrize("place", ["manifest", "token", "config", "layer"])
def test_what_drips(
    store: Store, fake: Fake, image: FakeImage, web: str, over: threading.Event,
    what: str, place: str,
) -> None:  # fmt: skip
    """Each byte is in time, and the whole never comes: nobody waits for it twice."""
    config = str(image.document["config"]["digest"])
    ends = {"manifest": "/manifests/1", "token": "web%3Apull", "config": config,
            "layer": image.layer}  # fmt: skip
    if place == "token":
        wants = status(401, WWW_Authenticate=f'Bearer realm="http://{fake.host}/token"')
        fake.fault("/manifests/1", wants)
    fake.fault(ends[place], drip(over, *DRIPS[what]))
    fails(store, web, "it sends too slowly", patience=HASTE)
    assert sum(path.endswith(ends[place]) for _, path, _ in fake.requests) == 1


def test_a_token_without_end(store: Store, fake: Fake, web: str) -> None:
    def endless(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        request.send_response(200)
        request.send_header("Connection", "close")
        request.end_headers()
        request.close_connection = True
        with suppress(OSError):
            request.wfile.write(b'{"token": "')
            while True:
                request.wfile.write(b"a" * 65536)
        return True

    fake.fault("/manifests/1", status(401, WWW_Authenticate=f'Bearer realm="http://{fake.host}/t"'))
    fake.fault("web%3Apull", endless)
    fails(store, web, "it is no token")


@pytest.mark.parametrize("told", ["10000", "1"])
def test_ten_thousand_layers(store: Store, fake: Fake, image: FakeImage, told: str) -> None:
    """Not one of them is asked for."""
    image.document["layers"] *= 10_000
    config = json.loads(image.config)
    config["rootfs"]["diff_ids"] *= int(told)
    image.document["config"] = image.put(json.dumps(config).encode(), "config.v1+json")
    words = "500 layers, not 10000" if told == "10000" else "its config has 1 layers"
    fails(store, fake.add("web:1", image), words)
    assert fake.count(image.layer) == 0


def test_ten_thousand_images_of_an_index(store: Store, fake: Fake, image: FakeImage) -> None:
    """Only the one for this host is asked for."""
    fake.add("web:other", image)
    others = [image.descriptor(os="linux", architecture=f"cpu{n}") for n in range(10_000)]
    here = image.descriptor(os="linux", architecture=image.here)
    document = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [*others, here]})
    assert pull(store, fake.put("web:1", INDEX, document.encode())).fresh
    assert len(fake.requests) < 9
