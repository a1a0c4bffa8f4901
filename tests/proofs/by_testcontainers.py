"""What users of testcontainers do, run by its own Python: see ``of_testcontainers.py``."""

from __future__ import annotations

import socket
import tempfile
import urllib.request
from pathlib import Path

from testcontainers.community.nginx import NginxContainer
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


def page(container: DockerContainer, port: int = 80) -> str:
    where = f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"
    with urllib.request.urlopen(f"http://{where}/", timeout=120) as answer:
        return str(answer.read().decode())


def postgres() -> None:
    with PostgresContainer("postgres:made", driver=None) as db:
        ask = ["psql", "-qAt", "--csv", "-U", "test", "-h", "/tmp", "test", "-c"]
        ask = ["env", "PGPASSWORD=test", *ask]
        made = db.exec([*ask, "create table t as select generate_series(1, 1000) x"])
        assert made.exit_code == 0, made
        assert db.exec([*ask, "select count(*) from t"]).output == b"1000\n"
        assert db.exec(["psql", "-h", "127.0.0.1", "-w", "test"]).exit_code != 0
        place = (db.get_container_host_ip(), db.get_exposed_port(5432))
        assert db.get_connection_url() == f"postgresql://test:test@{place[0]}:{place[1]}/test"
        with socket.create_connection(place, 120) as sock:
            sock.sendall(SSL_REQUEST)
            assert sock.recv(1) in (b"N", b"S")


def nginx() -> None:
    with NginxContainer("nginx:made") as web:
        assert "nginx" in page(web)
    with tempfile.TemporaryDirectory() as html:
        Path(html).chmod(0o755)
        Path(html, "index.html").write_text("of the host")
        with NginxContainer("nginx:made").with_volume_mapping(html, "/var/www/html", "ro") as web:
            assert page(web) == "of the host"
            assert web.exec(["touch", "/var/www/html/x"]).exit_code != 0


def network() -> None:
    ask = ["sh", "-c", "until curl -s http://web/; do :; done; exec sleep 1000"]
    with (
        Network() as net,
        NginxContainer("nginx:made").with_network(net).with_network_aliases("web"),
        DockerContainer("nginx:made").with_network(net).with_command(ask) as asker,
    ):
        wait_for_logs(asker, "nginx", timeout=120)


def image() -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place, "Dockerfile").write_text('FROM nginx:made\nCMD ["echo", "made just now"]\n')
        with (
            DockerImage(path=place, tag="just:now") as made,
            DockerContainer(str(made)) as container,
        ):
            wait_for_logs(container, "made just now", timeout=120)


def virtual() -> None:
    wanted = {"isolation": "vm", "mem_limit": "512m"}
    with DockerContainer("nginx:made").with_exposed_ports(80).with_kwargs(**wanted) as web:
        code, out = web.exec(["sh", "-c", "until curl -s http://127.0.0.1/; do sleep 0.1; done"])
        assert code == 0 and b"nginx" in out
        assert "nginx" in page(web)
        assert web.get_wrapped_container().attrs["HostConfig"]["Isolation"] == "vm"


for proof in (postgres, nginx, network, image, virtual):
    proof()
    print(f"ok  {proof.__name__}", flush=True)
