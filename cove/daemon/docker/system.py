"""``/_ping``, ``/version``, ``/info``: who answers here."""

from __future__ import annotations

import os
import time
from typing import Any

from cove.daemon.docker.ask import Answer, Ask
from cove.daemon.docker.routes import NEWEST, OLDEST, version_text
from cove.daemon.docker.spec import DEFAULT_LOG
from cove.engine import calls
from cove.engine.system.info import system_version
from cove.oci.manifest import host_platform_of
from cove.shown import units
from cove.shown.info import info_document

CALL = calls.Call()
OFFICIAL = {"Name": "docker.io", "Mirrors": [], "Secure": True, "Official": True}
COMMITS = ("ContainerdCommit", "RuncCommit", "InitCommit")
NO_COMMIT = {"ID": "N/A"}
"""Of programs that cove does not have: what Docker says where it cannot tell."""


def ping(ask: Ask) -> Answer:
    headers = {
        "Builder-Version": "1",  # the classic builder: cove speaks no BuildKit sessions
        "Swarm": "inactive",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
    }
    return Answer(b"OK", headers=headers, type="text/plain; charset=utf-8")


ping_at_once = ping


def options(ask: Ask) -> Answer:
    """As Docker's daemon has it for every path, there or not."""
    return Answer()


options_at_once = options


def version(ask: Ask) -> Answer:
    seen = ask.engine.version(calls.Nothing(), CALL)
    arch = host_platform_of(seen.arch).architecture
    about: dict[str, Any] = {
        "Version": seen.version,
        "ApiVersion": version_text(NEWEST),
        "MinAPIVersion": version_text(OLDEST),
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": seen.kernel,
        "GitCommit": "",
        "GoVersion": f"python {seen.python}",
        "BuildTime": seen.built,
    }
    details = {
        "ApiVersion": about["ApiVersion"],
        "MinAPIVersion": about["MinAPIVersion"],
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": seen.kernel,
        "GoVersion": about["GoVersion"],
        "Experimental": "false",
        "GitCommit": "",
        "BuildTime": seen.built,
    }
    engine = {"Name": "Engine", "Version": seen.version, "Details": details}
    return Answer({"Platform": {"Name": "cove"}, "Components": [engine], **about})


def info(ask: Ask) -> Answer:
    seen = ask.engine.info(calls.Nothing(), CALL)
    limits = seen.facts.controllers
    document: dict[str, Any] = dict(info_document(seen))
    document |= {
        "SystemTime": units.stamp(time.time()),
        "KernelVersion": os.uname().release,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8"],
            "IndexConfigs": {"docker.io": OFFICIAL},
            "Mirrors": [],
        },
        "OSVersion": system_version(),
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": None,
            "Log": ["json-file", "local", "none"],
        },
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LoggingDriver": DEFAULT_LOG,
        "Runtimes": {"cove": {"path": "cove"}},
        "Isolation": "",
        "InitBinary": "cove-init",
        "MemoryLimit": "memory" in limits,
        "SwapLimit": seen.facts.swap,
        "CpuCfsPeriod": "cpu" in limits,
        "CpuCfsQuota": "cpu" in limits,
        "CPUShares": "cpu" in limits,
        "CPUSet": "cpuset" in limits,
        "PidsLimit": "pids" in limits,
        "OomKillDisable": False,
        "IPv4Forwarding": True,
        "Debug": False,
        "ExperimentalBuild": False,
        "LiveRestoreEnabled": True,
        "NFd": len(os.listdir("/proc/self/fd")),
        "DriverStatus": [["Backing Filesystem", "overlay"]],
        "Labels": [],
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Warnings": list(seen.warnings) or None,
    }
    commit = NO_COMMIT if ask.version >= (1, 49) else NO_COMMIT | {"Expected": "N/A"}
    return Answer(document | dict.fromkeys(COMMITS, commit))
