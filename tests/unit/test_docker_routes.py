"""Docker's API on paper: the table of endpoints, what is served for it, and how a request becomes
cove's spec. No daemon.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cove.daemon.docker import bodies, spec
from cove.daemon.docker.routes import NEWEST, OLDEST, ROUTES, find, split_version
from cove.daemon.docker.server import check_version, handlers
from cove.errors import CoveError, Unsupported, UsageError
from cove.spec.health import Health
from cove.spec.machine import MachineSpec, Ulimit
from cove.spec.network import Connection
from cove.spec.ports import Publish

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_endpoints_is_fresh() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        module = importlib.util.spec_from_file_location("api_doc", ROOT / "tools/api_doc.py")
        assert module and module.loader
        api_doc = importlib.util.module_from_spec(module)
        module.loader.exec_module(api_doc)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    assert api_doc.TARGET.read_text() == api_doc.text(), "stale: run make docs"


def test_every_endpoint_has_a_handler_and_no_two_rows_are_one() -> None:
    assert set(handlers()) == {route.handler for route in ROUTES}
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_what_is_not_there_whole_says_why() -> None:
    for route in ROUTES:
        assert bool(route.why) == (route.support != "yes"), route


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
def test_every_row_is_found_by_its_own_path(route: Any) -> None:
    path = route.path.replace("{name*}", "a%2Fb/c").replace("{name}", "web").replace("{id}", "1")
    found = find(route.method, path)
    assert found is not None and found[0] is route
    assert find("TRACE", path) is None


def test_names_in_paths_are_decoded_and_never_cross_a_slash() -> None:
    found = find("GET", "/containers/%2Fweb/json")
    assert found and found[1] == {"name": "/web"}
    assert find("GET", "/containers/a/b/json") is None
    bytes_of_no_text = find("GET", "/containers/%ff/json")
    assert bytes_of_no_text and bytes_of_no_text[1] == {"name": "\udcff"}


@pytest.mark.parametrize(
    ("path", "version", "rest"),
    [
        ("/v1.41/info", (1, 41), "/info"),
        ("/info", None, "/info"),
        ("/v1.41", None, "/v1.41"),
        ("/v1/info", None, "/v1/info"),
        ("/v1.99999/info", None, "/v1.99999/info"),
    ],
)
def test_the_version_of_a_path(path: str, version: Any, rest: str) -> None:
    assert split_version(path) == (version, rest)


def test_versions_too_old_and_too_new_are_refused_in_dockers_words() -> None:
    check_version(OLDEST)
    check_version(NEWEST)
    with pytest.raises(UsageError, match=r"client version 1\.23 is too old\. Minimum supported"):
        check_version((1, 23))
    with pytest.raises(UsageError, match=r"client version 9\.0 is too new\. Maximum supported"):
        check_version((9, 0))


# ---- a request as a spec ----


def made(body: dict[str, Any], name: str = "", platform: str = "") -> MachineSpec:
    asked = bodies.CONTAINER.decode(msgspec.json.encode({"Image": "bb"} | body))
    return spec.machine_from_docker(asked, name, platform)


def host(**fields: Any) -> MachineSpec:
    return made({"HostConfig": fields})


def test_a_bare_request_asks_for_what_a_bare_command_does() -> None:
    bare = made({})
    nothing = {"attached": (), "stdin_once": False, "log_driver": "json-file"}
    assert bare == MachineSpec(image="bb", network="default", **nothing)
    assert made({"HostConfig": None, "Cmd": None, "Labels": None, "Volumes": None}) == bare


def test_a_process_is_what_was_asked_for() -> None:
    asked = made(
        {
            "Cmd": ["sh", "-c", "true"],
            "Entrypoint": ["/bin/tini", "--"],
            "Env": ["A=b", "C"],
            "User": "ada",
            "WorkingDir": "/srv",
            "Hostname": "web",
            "Labels": {"a": "b=c"},
            "Tty": True,
            "OpenStdin": True,
            "StdinOnce": True,
            "AttachStdin": True,
            "AttachStderr": True,
            "StopSignal": "SIGINT",
            "StopTimeout": 3,
            "ExposedPorts": {"80/tcp": {}},
        },
        name="web",
    )
    assert asked.command == ("sh", "-c", "true") and asked.entrypoint == ("/bin/tini", "--")
    assert asked.env == ("A=b", "C") and asked.user == "ada" and asked.workdir == "/srv"
    assert asked.labels == {"a": "b=c"} and asked.tty and asked.stdin_open
    assert asked.attached == ("stdin", "stderr") and asked.stdin_once
    assert asked.stop_signal == "SIGINT" and asked.stop_timeout == 3
    assert asked.expose == ("80/tcp",) and asked.name == "web"


@pytest.mark.parametrize(
    ("entrypoint", "meant"), [(None, None), ([], None), ([""], ()), (["a"], ("a",)), ("a", ("a",))]
)
def test_an_entrypoint_that_is_empty_is_the_images(entrypoint: Any, meant: Any) -> None:
    assert made({"Entrypoint": entrypoint}).entrypoint == meant


def test_limits_are_what_was_asked_for() -> None:
    limits = host(
        Memory=64 << 20,
        MemorySwap=-1,
        NanoCpus=1_500_000_000,
        CpuShares=512,
        CpusetCpus="0",
        PidsLimit=20,
        ShmSize=1 << 20,
        Ulimits=[{"Name": "nofile", "Soft": 10, "Hard": 20}],
        OomScoreAdj=100,
        StorageOpt={"size": "1g"},
    ).limits
    assert (limits.memory, limits.memory_swap, limits.cpus) == (64 << 20, -1, 1.5)
    assert (limits.cpu_shares, limits.cpuset_cpus, limits.pids) == (512, "0", 20)
    assert (limits.shm, limits.oom_score_adj, limits.storage) == (1 << 20, 100, 1 << 30)
    assert limits.ulimits == (Ulimit("nofile", 10, 20),)
    assert host(CpuPeriod=50_000, CpuQuota=25_000).limits.cpus == 0.5


@pytest.mark.parametrize(
    "name",
    ["BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps"],
)
def test_rates_of_devices_are_those_of_the_beginning(name: str) -> None:
    rates = {name: [{"Path": "/dev/sda", "Rate": 1 << 20}]}
    assert len(host(**rates).limits.rates) == 1
    asked = bodies.UPDATE.decode(msgspec.json.encode({"Memory": 1 << 26} | rates))
    with pytest.raises(Unsupported, match=f"cannot use {name}: rates of block devices"):
        spec.refuse_to_change(asked)
    spec.refuse_to_change(bodies.UPDATE.decode(b'{"Memory": 67108864}'))


def test_checks_and_policies_are_what_was_asked_for() -> None:
    asked = made(
        {
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 2_500_000_000, "Retries": 2},
            "HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}},
        }
    )
    assert asked.health == Health(("CMD", "true"), 2.5, retries=2)
    assert (asked.restart.policy, asked.restart.retries) == ("on-failure", 3)
    assert made({"Healthcheck": {"Test": ["NONE"]}}).health.test == ("NONE",)
    with pytest.raises(UsageError, match="health check"):
        made({"Healthcheck": {"Test": ["RUN", "true"]}})


def test_security_is_what_was_asked_for() -> None:
    security = host(CapAdd=["CAP_NET_ADMIN"], CapDrop=["all"], ReadonlyRootfs=True).security
    assert security.cap_add == ("NET_ADMIN",) and security.cap_drop == ("ALL",)
    assert security.read_only
    assert not host(MaskedPaths=[], ReadonlyPaths=[]).security.masked
    profile = '{"defaultAction": "SCMP_ACT_ALLOW"}'
    assert host(SecurityOpt=[f"seccomp={profile}"]).security.seccomp == profile


def test_a_profile_is_text_and_never_a_file_of_this_host() -> None:
    with pytest.raises(UsageError, match="cannot read the seccomp profile"):
        host(SecurityOpt=["seccomp=/etc/passwd"])


def test_files_are_what_was_asked_for() -> None:
    asked = host(
        Binds=["/srv:/srv:ro", "data:/data"],
        Tmpfs={"/run": "size=64k"},
        Mounts=[
            {"Type": "bind", "Source": "/a,b", "Target": "/c", "ReadOnly": True},
            {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {"NoCopy": True}},
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 448}},
        ],
    )
    found = {m.target: m for m in asked.mounts}
    twice = made({"Volumes": {"/data": {}, "/own": {}}, "HostConfig": {"Binds": ["data:/data/"]}})
    assert {m.target: m.source for m in twice.mounts} == {"/data": "data", "/own": ""}
    assert found["/srv"].read_only and found["/data"].source == "data"
    assert found["/run"].size == 64 << 10
    assert found["/c"].source == "/a,b" and found["/c"].read_only
    assert not found["/v"].copy and found["/t"].mode == 0o700


def test_ports_and_networks_are_what_was_asked_for() -> None:
    asked = made(
        {
            "HostConfig": {
                "NetworkMode": "web",
                "PortBindings": {
                    "80/tcp": [{"HostIp": "::1", "HostPort": "8080"}],
                    "53/udp": [{"HostPort": ""}],
                },
            },
            "NetworkingConfig": {
                "EndpointsConfig": {
                    "web": {"Aliases": ["www"], "IPAMConfig": {"IPv4Address": "10.1.2.3"}},
                    "back": None,
                }
            },
        }
    )
    assert asked.network == "web" and asked.aliases == ("www",) and asked.ip == "10.1.2.3"
    assert asked.connections == (Connection("back"),)
    assert asked.ports == (Publish(80, "tcp", "::1", 8080, 8080), Publish(53, "udp"))
    opened = {"EndpointsConfig": {"a": None, "b": {"DriverOpts": {"forwarding": "true"}}}}
    assert made({"NetworkingConfig": opened}).connections == (Connection("b", forwards=True),)
    opened["EndpointsConfig"]["b"] = {"DriverOpts": {"com.docker.network.endpoint.ifname": "x"}}
    with pytest.raises(Unsupported, match=r"driver option com\.docker\.network\.endpoint\.ifname"):
        made({"NetworkingConfig": opened})
    assert host(NetworkMode="default").network == "default"
    assert made({"NetworkDisabled": True}).network == "none"


def test_the_kind_of_machine_is_chosen_by_isolation() -> None:
    assert host(Isolation="vm").isolation == "vm"
    for word in ("", "default", "process"):
        assert host(Isolation=word).isolation == "container"
    with pytest.raises(UsageError, match="it is container or vm"):
        host(Isolation="hyperv")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"DeviceRequests": [{"Count": -1}]}, "DeviceRequests"),
        ({"BlkioWeightDevice": [{}]}, "BlkioWeightDevice"),
        ({"KernelMemory": 1 << 20}, "KernelMemory"),
        ({"OomKillDisable": True}, "OomKillDisable"),
        ({"CgroupParent": "/a"}, "CgroupParent"),
        ({"Runtime": "kata"}, "kata"),
        ({"CpuRealtimePeriod": 10}, "CpuRealtimePeriod"),
        ({"CpuCount": 2}, "CpuCount"),
        ({"MaskedPaths": ["/proc/x"]}, "MaskedPaths"),
        ({"PidMode": "host"}, "pid"),
    ],
)
def test_what_cove_has_not_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(Unsupported) as refused:
        host(**fields)
    assert name in f"{refused.value.message} {refused.value.origin}"


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(CoveError, match="2 problems"):
        host(CapAdd=["NOPE"], ShmSize=-1)


def test_a_second_process_is_what_was_asked_for() -> None:
    asked = bodies.EXEC.decode(b'{"Cmd": ["id"], "User": "ada", "Tty": true, "AttachStdin": true}')
    found = spec.exec_from_docker(asked)
    assert found.command == ("id",) and found.user == "ada" and found.tty and found.stdin_open
    with pytest.raises(UsageError, match="No exec command specified"):
        spec.exec_from_docker(bodies.EXEC.decode(b'{"Cmd": []}'))
