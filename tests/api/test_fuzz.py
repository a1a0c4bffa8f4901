"""Every route with names, parameters and bodies that nobody means: each is answered, none by a
fault of the daemon's. The same ones every time; `make test-swagger` makes up more.
"""

from __future__ import annotations

import json
import os
import urllib.parse
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cove.daemon.docker import bodies, networks, volumes
from cove.daemon.docker.routes import ROUTES, Route
from tests.api.conftest import docker_host
from tests.driver import Cove
from tests.wire import connected, read_head

EXAMPLES = int(os.environ.get("COVE_FUZZ", 0))
"""To be made up anew; none: the same few every time."""
ELSEWHERE = ("/distribution", "/push", "/auth", "/images/search")
"""Routes that would ask a registry."""
BODIES: dict[str, Any] = {
    "/containers/create": bodies.CONTAINER.type,
    "/containers/{name}/update": bodies.UPDATE.type,
    "/containers/{name}/exec": bodies.EXEC.type,
    "/networks/create": networks.CREATE.type,
    "/networks/{name}/connect": networks.CONNECT.type,
    "/networks/{name}/disconnect": networks.DISCONNECT.type,
    "/volumes/create": volumes.CREATE.type,
}
PARAMETERS = (
    "all", "limit", "size", "filters", "signal", "w", "h", "name", "platform", "condition", "force",
    "v", "link", "follow", "stdout", "stderr", "since", "until", "tail", "timestamps", "stream",
    "stdin", "logs", "detachKeys", "path", "ps_args", "one-shot", "repo", "tag", "message",
    "changes", "names", "container", "pause", "noprune", "type", "verbose", "dockerfile", "t",
    "buildargs", "labels", "cachefrom", "ulimits", "networkmode", "shmsize", "memory", "extrahosts",
    "checkpoint", "digests",
)  # fmt: skip
TEXTS = (
    "", "0", "1", "-1", "1.5", "true", "null", "[]", "{}", '{"a":["b"]}',
    '{"until":["1h"],"label":["a="]}', '{"status":[1]}', '{"dangling":{"x":true}}', '["\\u0000"]',
    "nan", "inf", "1e400", "9" * 40, "-" + "9" * 400, "\u0663", "\u00b2", "\x00", "\n", "\x7f",
    "a" * 600, "../../etc", "/", "//", ".", "..", "%", "%00", "%ff", "caf\xe9", "\u202e",
    "\U0001f600", "host", "none", "container:", "container:busy", "bb", "bb:latest", "bb@sha256:",
    "a:b:c:d:e", "/a:/b:ro", "8080:80/sctp", "1-99999/tcp", "KILL", "SIG", "65", "linux/amd64/v9/x",
    "2026-13-45T99:99:99Z", "-1h", "ctrl-", "ctrl-p,ctrl-q", "pid,comm", "-o", "--help", "$(x)",
    "a=b", "=",
)  # fmt: skip
NAMES = ("busy", "over", "idle", "bb", "store", "none")
THINGS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 1.5, 1e308, [], {}, [[]], [None],
    [1], {"": None}, {"": ""}, {"a": 1}, {"a": {"b": []}}, {"80/tcp": [{"HostPort": "x"}]},
    {"80/tcp": [{}]}, {"/x": {}}, {"none": {}}, {"bridge": {"IPAMConfig": {"IPv4Address": "::"}}},
    {"Name": "always", "MaximumRetryCount": -5}, {"Type": "json-file", "Config": {"max-size": "x"}},
    {"Test": ["NONE"]}, {"Test": ["CMD"], "Interval": -1}, [{"Target": "/m"}],
    [{"Type": "tmpfs", "Target": "m"}], [{"Type": "volume", "Target": "/m", "Source": "/"}],
    [{"Name": "nofile", "Soft": -2, "Hard": 1}], [{"PathOnHost": "/dev/nothing"}],
    [{"Path": "/dev/null"}],
)  # fmt: skip
texts = st.sampled_from(TEXTS)
anything = st.one_of(texts, st.sampled_from(THINGS), st.lists(texts, min_size=1, max_size=2))


def fields(kind: Any) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def objects(kind: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(fields(kind)), anything, max_size=3)


@st.composite
def body_of(draw: st.DrawFn, route: Route) -> bytes:
    kind = BODIES.get(route.path)
    if kind is None or draw(st.integers(0, 9)) == 0:
        torn = draw(
            st.sampled_from([b"", b"{", b"[]", b"\xff", b'"x"', b"0", b"null", b"[" * 9999])
        )
        return torn if kind else draw(st.sampled_from([torn, b"{}"]))
    found = draw(objects(kind))
    if route.path == "/containers/create":
        found = {"Image": "bb", "Cmd": ["true"]} | found
        if draw(st.booleans()):
            found["HostConfig"] = draw(objects(bodies.HostConfig))
    if route.path == "/networks/create":
        found["Driver"] = "nonesuch"  # bridges would be the host's
    if route.path.endswith("/exec"):
        found = {"Cmd": ["true"]} | found
    if "Container" in found:
        found["Container"] = draw(st.sampled_from(NAMES))
    return json.dumps(found).encode()


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    route = draw(st.sampled_from([r for r in ROUTES if not r.path.endswith(ELSEWHERE)
                                  and not r.path.startswith(ELSEWHERE)]))  # fmt: skip
    names = st.one_of(st.sampled_from(NAMES), texts)
    path = route.path
    while "{" in path:
        before, _, rest = path.partition("{")
        name = draw(names) if "/stats" not in path else "over"  # of one that runs it takes a while
        path = before + urllib.parse.quote(name, safe="") + rest.partition("}")[2]
    query = draw(st.dictionaries(st.sampled_from(PARAMETERS), texts, max_size=3))
    if route.path == "/images/create":
        query["fromSrc"] = "-"
    if route.path.endswith(("/stop", "/restart")):
        query["t"] = draw(
            st.sampled_from(["0", "x", "", "1.5"])
        )  # it waits for as long as it is told
    version = draw(st.sampled_from(["", "", "/v1.24", "/v1.41", "/v1.51", "/v9.9"]))
    data = draw(body_of(route))
    target = f"{version}{path}?{urllib.parse.urlencode(query)}"
    head = f"{route.method} {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def test_whatever_is_asked_is_answered(fresh_cove: Cove) -> None:
    cove, path = fresh_cove, docker_host(fresh_cove).removeprefix("unix://")
    cove("run", "-d", "--name", "busy", "--stop-timeout", "0", "bb", "sleep", "1000000")
    cove("run", "--name", "over", "bb", "true")
    cove("create", "--name", "idle", "bb", "true")
    cove("volume", "create", "store")

    @settings(
        max_examples=EXAMPLES or 250,
        derandomize=not EXAMPLES,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def each(data: bytes) -> None:
        with connected(path) as sock:
            sock.sendall(data)
            status, said = read_head(sock)
        if status < 400 or data.startswith(b"HEAD"):
            return
        assert status < 500 or status == 501 or (status == 503 and b"swarm" in said), (data, said)
        assert json.loads(said)["message"], (data, said)

    each()
    log = (cove.root / "run/daemon.log").read_text()
    assert "bug:" not in log and "Traceback" not in log, log
