"""What schemathesis loads in its own interpreter: most names that it makes up become those of what
is there, or nearly all it asks for would be answered with 404. Imports nothing of cove.
"""

from __future__ import annotations

import io
import os
import random
import tarfile
from typing import Any

import schemathesis

NAMES = {
    "containers": ("busy", "idle", "over"),
    "exec": tuple(os.environ["SWAGGER_EXECS"].split(",")),
    "images": ("bb", "bb:latest", "spare"),
    "distribution": ("bb",),
    "networks": ("wire", "none", "bridge"),
    "volumes": ("store",),
}
FILE = "FROM bb\nCOPY . /x\n"
IMAGES = ("bb", "spare", "bb:latest")
chance = random.Random(1)


def known(path: str) -> tuple[str, ...]:
    return NAMES.get(path.strip("/").split("/")[0], ())


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    names = known(case.operation.path)
    for name in case.path_parameters or {}:
        if names and chance.random() < 0.7:
            case.path_parameters[name] = chance.choice(names)
    body = case.body
    if isinstance(body, dict):
        if "Image" in body and chance.random() < 0.8:
            body["Image"] = chance.choice(IMAGES)
        if "Container" in body and chance.random() < 0.8:
            body["Container"] = chance.choice(NAMES["containers"])
        thin(body)
    query = case.query
    if isinstance(query, dict):
        for name, among in (("container", "containers"), ("fromImage", "images")):
            if name in query and chance.random() < 0.8:
                query[name] = chance.choice(NAMES[among])
    return case


def thin(body: dict[str, Any]) -> None:
    """The first field that is refused hides all others: often only a few of them are sent."""
    keep = chance.choice((1, 2, 4, 1000))
    for part in (body, body.get("HostConfig")):
        if isinstance(part, dict):
            needed = [name for name in part if name in ("Image", "HostConfig", "Container", "Cmd")]
            others = [name for name in part if name not in needed]
            chance.shuffle(others)
            for name in others[keep:]:
                del part[name]


@schemathesis.serializer("application/x-tar", "application/octet-stream")
def archive(context: Any, value: Any) -> Any:
    """What is made up is never an archive: half of them are one, cut off somewhere or whole."""
    if isinstance(value, bytes) and chance.random() < 0.5:
        return value
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, text in (("Dockerfile", FILE), ("manifest.json", "[{}]"), ("../up", "x")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    data = made.getvalue()
    return data if chance.random() < 0.5 else data[: chance.randrange(len(data))]


@schemathesis.check
def no_fault_of_ours(context: Any, response: Any, case: Any) -> None:
    """Docker, too, answers 503 outside of a swarm, and 500 where a registry does not answer."""
    status, said = response.status_code, response.content
    if status < 400 or case.method == "HEAD":
        return
    message = response.json().get("message")
    if not isinstance(message, str) or not message:
        raise AssertionError(f"an error without Docker's body: {said[:400]!r}")
    if status == 501 or (status == 503 and "swarm" in message):
        return
    if status >= 500 and "docker.io cannot be reached" not in message:
        raise AssertionError(f"{status}: {message[:400]!r}")
