"""The golden cases: a folder each, with ``spec.json`` and one ``<facts>.plan`` for each host.

``spec.json`` holds the spec, and as needed parts of the image config and of the place, an exec, and
the names of the hosts (``tests/facts``) to plan for. With ``guest``, the version of a kernel, it is
what happens in a virtual machine; with ``step``, in that of a build's step.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cove.oci.config import ImageConfig
from cove.plan.facts import Facts
from cove.plan.ops import Plan
from cove.plan.text import render
from cove.planner import BindSource, Place, plan_ahead, plan_exec, plan_machine
from cove.planner.cpus import guest_cpu
from cove.planner.virtual.guest import Identity, guest_facts, plan_guest
from cove.planner.virtual.volumes import Volumes
from cove.spec.machine import ExecSpec, MachineSpec

HERE = Path(__file__).resolve().parent
FACTS = HERE.parent / "facts"

KEY, BASE = 7, 1879048192
V1 = ("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids")


@dataclass(frozen=True)
class Case:
    name: str
    host: str

    @property
    def golden(self) -> Path:
        return HERE / self.name / f"{self.host}.plan"

    def text(self) -> str:
        """What the planner says today."""
        return render(self.plan())

    @property
    def is_machine(self) -> bool:
        """A whole machine, on a host where the daemon is root."""
        return not {"exec", "guest"} & set(self._data()) and load_facts(self.host).root

    def ahead(self) -> Plan:
        facts, data = load_facts(self.host), self._data()
        spec = msgspec.convert(data["spec"], MachineSpec)
        return plan_ahead(spec, facts, make_place(facts, data.get("place", {})))

    def plain_ahead(self) -> Plan:
        """The beginning of a machine for which nothing is asked."""
        facts = load_facts(self.host)
        return plan_ahead(MachineSpec(image="plain"), facts, make_place(facts, {}))

    def _data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((HERE / self.name / "spec.json").read_text())
        return data

    def plan(self) -> Plan:
        data = self._data()
        facts = load_facts(self.host)
        spec = msgspec.convert(data["spec"], MachineSpec)
        image = ImageConfig(**_tuples(data.get("image", {})))
        place = make_place(facts, data.get("place", {}))
        if "guest" in data:
            return self._guest(spec, image, facts)
        if "exec" in data:
            return plan_exec(msgspec.convert(data["exec"], ExecSpec), spec, image, facts, place)
        return plan_machine(spec, image, facts, place)

    def _guest(self, spec: MachineSpec, image: ImageConfig, facts: Facts) -> Plan:
        """What happens in a virtual machine, whichever CPU the image wants."""
        major, minor = self._data()["guest"]
        inside = guest_facts(facts, (major, minor), guest_cpu(image, facts))
        who = Identity(bytes(64), 0, "0" * 36, "0" * 32)
        files = dict.fromkeys(("hosts", "hostname", "resolv"), "")
        volumes = msgspec.convert(self._data().get("volumes", {}), Volumes)
        return plan_guest(
            spec, image, inside, who, files,
            hostname="0123456789ab", volumes=volumes, step="step" in self._data(),
        )  # fmt: skip


def cases() -> Iterator[Case]:
    for path in sorted(HERE.glob("*/spec.json")):
        for host in json.loads(path.read_text())["facts"]:
            yield Case(path.parent.name, host)


def load_facts(host: str) -> Facts:
    return msgspec.json.decode((FACTS / f"{host}.json").read_bytes(), type=Facts)


def make_place(facts: Facts, parts: dict[str, Any]) -> Place:
    """A place as the engine would make it on this host, with ``parts`` of it replaced."""
    place = Place(
        key=KEY,
        root="/var/lib/cove",
        base=BASE,
        layers=(1, 2, 3),
        cgroup_files=tuple(f"/sys/fs/cgroup/{name}/cove/m{KEY}/tasks" for name in V1)
        if facts.cgroup == "hybrid"
        else (),
        cgroup_into=facts.root,
        files={"/etc/hosts": "hosts", "/etc/hostname": "hostname", "/etc/resolv.conf": "resolv"}
        if facts.root
        else {},
        hostname="0123456789ab",
        uid=0 if facts.root else 1000,
        gid=0 if facts.root else 1000,
    )
    if "binds" in parts:
        parts = parts | {"binds": tuple(BindSource(**bind) for bind in parts["binds"])}
    if not facts.root:
        parts = parts | {"base": 100000}
    return dataclasses.replace(place, **_tuples(parts))


def _tuples(parts: dict[str, Any]) -> dict[str, Any]:
    def frozen(value: Any) -> Any:
        return tuple(frozen(v) for v in value) if isinstance(value, list) else value

    return {name: frozen(value) for name, value in parts.items()}
