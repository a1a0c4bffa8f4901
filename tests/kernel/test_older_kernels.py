"""What only some kernels have: it works, or the message says what else to do."""

from __future__ import annotations

import os
from pathlib import Path

from cove.linux.probe import probe_facts
from tests.driver import Cove
from tests.shared import container_only

SOMAXCONN = ("--sysctl", "net.core.somaxconn=77", "bb", "cat", "/proc/sys/net/core/somaxconn")


def test_a_sysctl_of_the_network_core(cove: Cove) -> None:
    done = cove("run", "--rm", *SOMAXCONN, code=None)
    if done.returncode == 0:
        assert done.out == "77\n"
        return
    assert done.returncode == 125
    assert done.err == (
        "cove: cannot set sysctl net.core.somaxconn: no such sysctl in this kernel\n"
        "  from: --sysctl net.core.somaxconn=77\n"
        f"  host: {done.err.partition('host: ')[2].partition(chr(10))[0]}\n"
        "  hint: older kernels have net.core only with --userns=host, which gives a wall away\n"
    )


@container_only("a virtual machine has another CPU itself: tests/vm/test_other_cpus.py")
def test_programs_of_another_cpu(cove: Cove, bb_tar: Path) -> None:
    """Before Linux 6.7 what is registered for them is the whole host's."""
    other = "arm64" if os.uname().machine == "x86_64" else "amd64"
    cove("image", "import", "--platform", f"linux/{other}", str(bb_tar), "foreign")
    done = cove("run", "--rm", "foreign", "true", code=None)
    if not probe_facts("/").binfmt:
        assert done.returncode == 125
        assert "programs of other CPUs need Linux 6.7 with binfmt_misc" in done.err
        assert cove("create", "foreign", "true", code=125).err == done.err
    cove("image", "rm", "foreign")


def test_it_is_there_in_the_hosts_user_namespace(cove: Cove) -> None:
    assert cove("run", "--rm", "--userns=host", *SOMAXCONN).out == "77\n"
