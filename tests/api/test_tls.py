"""Docker's API over TCP: for who has a certificate of the authority that the setting names, and for
nobody else.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from cove.daemon.tls import STRANGERS, check_age, home_of, make_context, parse_settings
from cove.errors import UsageError
from tests.api.conftest import Command, Raw
from tests.conftest import need
from tests.driver import Cove, wait_until
from tests.kernel.conftest import closed_cove
from tests.networks.conftest import Host, host

__all__ = ["host"]

PORT = 2376
PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
EXTENSIONS = """
[server]
subjectAltName = IP:127.0.0.1
extendedKeyUsage = serverAuth
[client]
extendedKeyUsage = clientAuth
"""


def openssl(*words: str, place: Path) -> None:
    subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True)


def make_authority(place: Path, name: str) -> None:
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", f"{name}-key.pem", "-out", f"{name}.pem", "-days", "2", "-subj",
            f"/CN={name}", place=place)  # fmt: skip


def make_certificate(place: Path, name: str, authority: str, use: str, days: int = 2) -> None:
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}",
            place=place)  # fmt: skip
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey",
            f"{authority}-key.pem", "-CAcreateserial", "-days", str(days), "-out", f"{name}.pem",
            "-extfile", "extensions", "-extensions", use, place=place)  # fmt: skip


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("openssl")
    place = tmp_path_factory.mktemp("keys")
    (place / "extensions").write_text(EXTENSIONS)
    make_authority(place, "ca")
    make_authority(place, "other")
    make_certificate(place, "server", "ca", "server")
    make_certificate(place, "client", "ca", "client")
    make_certificate(place, "stranger", "other", "client")
    make_certificate(place, "expired", "ca", "client", days=-1)
    return place


def setting(keys: Path) -> str:
    files = f"ca={keys}/ca.pem,cert={keys}/server.pem,key={keys}/server-key.pem"
    return f"address=127.0.0.1:{PORT},{files}"


@pytest.fixture(scope="module")
def cove(host: Host, keys: Path, bb_tar: Path, isolation: str) -> Iterator[Cove]:
    """Its daemon, and who asks it, are in the network of ``host``."""
    with closed_cove(bb_tar, isolation) as driver:
        driver.stop_daemon()
        driver.env["COVE_DOCKER_TLS"] = setting(keys)
        driver("ps")
        yield driver


def context_of(keys: Path, name: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=f"{keys}/ca.pem")
    if name:
        context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}-key.pem")
    return context


def connect(keys: Path, name: str = "") -> ssl.SSLSocket:
    return connect_in(context_of(keys, name))


def connect_in(context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", PORT), timeout=120))
        made = context.wrap_socket(plain, server_hostname="127.0.0.1", session=session)
        stack.pop_all()
    return made


def rest(sock: socket.socket) -> bytes:
    found = b""
    while piece := sock.recv(1 << 16):
        found += piece
    return found


def test_dockers_command_works_with_a_certificate(keys: Path, command: Command) -> None:
    command.host = f"tcp://127.0.0.1:{PORT}"
    flags = ("--tlsverify", f"--tlscacert={keys}/ca.pem", f"--tlscert={keys}/client.pem",
             f"--tlskey={keys}/client-key.pem")  # fmt: skip
    # The input ends before the output begins: half of the connection is closed.
    counted = command(*flags, "run", "-i", "--rm", "bb", "wc", "-c", stdin=b"x" * 3_000_000)
    assert counted.stdout == b"3000000\n"
    zeros = ("head", "-c", "5000000", "/dev/zero")
    assert len(command(*flags, "run", "--name", "zeros", "bb", *zeros).stdout) == 5_000_000
    assert len(command(*flags, "logs", "zeros").stdout) == 5_000_000
    assert command(*flags, "run", "--rm", "bb", "sh", "-c", "exit 3", code=3).stdout == b""
    refused = command("ps", code=1)
    assert b"Client sent an HTTP request to an HTTPS server" in refused.stderr


def test_docker_py_works_with_a_certificate(
    keys: Path, cove: Cove, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)  # comes before what it is given
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # no proxy of the caller's is on the way
    pair = (f"{keys}/client.pem", f"{keys}/client-key.pem")
    tls = docker.tls.TLSConfig(client_cert=pair, ca_cert=f"{keys}/ca.pem", verify=True)
    client = docker.DockerClient(f"https://127.0.0.1:{PORT}", tls=tls, timeout=120)
    assert client.containers.run("bb", ["echo", "safe"], remove=True) == b"safe\n"
    client.close()


@pytest.mark.parametrize("name", ["", "stranger", "expired", "server"])
def test_strangers_stay_outside(keys: Path, cove: Cove, name: str) -> None:
    """One certificate is none of this authority's, one is too old, one is none of a client's."""
    with pytest.raises(OSError), connect(keys, name) as sock:
        sock.sendall(PING)  # TLS 1.3: a client hears of it after its own part
        found = rest(sock)
        raise AssertionError(found)


@pytest.mark.parametrize("data", [PING, b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"\1" * 70_000])
def test_what_is_no_tls_is_not_served(keys: Path, cove: Cove, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", PORT), timeout=120) as sock:
        found = b""
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            found = rest(sock)
    assert b"200" not in found and b"OK" not in found
    if data == PING:
        assert found.startswith(b"HTTP/1.0 400 ") and b"HTTPS server" in found
    with connect(keys, "client") as good:
        good.sendall(PING)
        assert rest(good).endswith(b"OK")


def test_who_shows_nothing_holds_nobody_up(keys: Path, cove: Cove, raw: Raw) -> None:
    """Of those that say nothing, or half of something, any go."""
    with contextlib.ExitStack() as stack:
        crowd = []
        for number in range(3 * STRANGERS):
            sock = socket.create_connection(("127.0.0.1", PORT), timeout=120)
            crowd.append(stack.enter_context(sock))
            if number % 2:
                sock.sendall(b"\x16\x03\x01")
        good = stack.enter_context(connect(keys, "client"))
        good.sendall(PING)
        assert rest(good).endswith(b"OK")
        wait_until(lambda: sum(map(ended, crowd)) >= 2 * STRANGERS, "the end of most of them")
    assert raw("GET", "/_ping").body == b"OK"


def ended(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        assert sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_nobody_comes_in_by_what_he_once_showed(keys: Path, cove: Cove) -> None:
    """No tickets; who comes again shows the certificate again, which may have expired since."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = context_of(keys, "client")
        context.maximum_version = version
        session = None
        for _ in range(2):
            with connect_in(context, session) as sock:
                sock.sendall(PING)
                assert rest(sock).endswith(b"OK")
                session = sock.session
                assert session is None or not session.has_ticket
                assert version is ssl.TLSVersion.TLSv1_2 or not sock.session_reused
    until = "Nov 22 12:00:00 2026 GMT"
    check_age({"notAfter": until}, ssl.cert_time_to_seconds(until))
    for certificate in ({"notAfter": until}, {}, None):
        with pytest.raises(OSError, match="expired"):
            check_age(certificate, ssl.cert_time_to_seconds(until) + 1)


def test_where_strangers_come_from() -> None:
    assert home_of("192.0.2.1") == home_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert home_of("2001:db8::1") == home_of("2001:db8::2:3") != home_of("2001:db8:0:1::1")
    assert home_of("fe80::1%eth0") == home_of("fe80::2")


def test_a_page_of_a_browser_is_not_served(keys: Path, cove: Cove, raw: Raw) -> None:
    """Who opened it has a certificate; a program on the unix socket hands headers on."""
    body = b'{"Image": "bb", "Cmd": ["true"]}'
    head = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nConnection: close\r\n%s"
    head += b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    for page in (b"https://example.com", b"null", b""):
        with connect(keys, "client") as sock:
            sock.sendall(head.replace(b"%s", b"Origin: " + page + b"\r\n") + body)
            found = rest(sock)
        assert found.startswith(b"HTTP/1.1 403 ") and b"cannot serve a page" in found
    assert cove("ps", "-aq").out == ""
    with connect(keys, "client") as sock:
        sock.sendall(head.replace(b"%s", b"") + body)
        assert rest(sock).startswith(b"HTTP/1.1 201 ")
    assert raw.send(head.replace(b"%s", b"Origin: https://portal\r\n") + body).status == 201


def test_without_both_certificates_it_is_not_served(keys: Path, cove: Cove) -> None:
    """And a daemon that cannot serve it does not start."""
    cove.stop_daemon()
    for name, text, said in (
        ("COVE_DOCKER_TLS", f"address=127.0.0.1:{PORT}", "no ca and no cert and no key given"),
        ("COVE_DOCKER_TLS", setting(keys).replace("/ca.pem", "/nothing.pem"), "no such file"),
        ("COVE_DOCKER_SOCKET", f"tcp://127.0.0.1:{PORT}", "whoever reached it would be root here"),
    ):
        refused = cove("ps", env={name: text}, code=None)
        assert refused.returncode and said in refused.err, refused.err
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", PORT), timeout=120)
    cove("ps")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", '"" is not one of address=HOST:PORT'),
        ("address=0.0.0.0:2376", "no ca and no cert and no key given"),
        ("address=here,ca=/a,cert=/b,key=/c", '"here" is no address'),
        ("address=h:99999,ca=/a,cert=/b,key=/c", '"h:99999" is no address'),
        ("address=h:1,ca=a,cert=/b,key=/c", '"a" is not an absolute path'),
        ("address=h:1,address=h:2,ca=/a,cert=/b,key=/c", '"address=h:2" is not one of'),
        ("plain=yes", '"plain=yes" is not one of'),
    ],
)
def test_a_setting_that_makes_no_sense_is_told_so(text: str, said: str) -> None:
    with pytest.raises(UsageError) as wrong:
        parse_settings(text)
    assert said in wrong.value.message


def test_keys_that_do_not_fit_are_told(keys: Path, tmp_path: Path) -> None:
    open_key = tmp_path / "open-key.pem"
    open_key.write_bytes((keys / "server-key.pem").read_bytes())
    open_key.chmod(0o644)
    for old, new, said in (
        ("server-key.pem", "client-key.pem", "mismatch"),
        ("/ca.pem", "/extensions", "cannot serve Docker's API over TCP"),
        (f"{keys}/server-key.pem", str(open_key), "everybody may read"),
    ):
        with pytest.raises(UsageError) as wrong:
            make_context(parse_settings(setting(keys).replace(old, new)))
        assert said in wrong.value.message
