"""The planner's lines for a template and for its clone: what one has in memory the other goes on
with, from sealed memory that nobody can write.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from cove.plan.facts import Facts
from tests.vm.conftest import Stored
from tests.vm.guests import Running

pytestmark = pytest.mark.usefixtures("no_leaks")

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
SHARED = {"capability": "x-ignore-shared", "state": True}


class Control:
    """QMP over a socket that is there already."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._rest = sock, b""
        self._line()
        self("qmp_capabilities")
        self("migrate-set-capabilities", capabilities=[SHARED])

    def __call__(self, command: str, *, fd: int = -1, **arguments: Any) -> Any:
        data = json.dumps({"execute": command, "arguments": arguments}).encode()
        more = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))] if fd >= 0 else []
        self._sock.sendmsg([data], more)
        while "return" not in (answer := self._line()):
            assert "error" not in answer, answer
        return answer["return"]

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            assert select.select([self._sock], [], [], 180)[0], "QEMU does not answer"
            self._rest += self._sock.recv(1 << 16)
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def test_a_clone_goes_on_where_its_template_stood(
    stored: Stored, guest_init: bytes, root_disk: Path, emulating: Facts
) -> None:
    memory = os.memfd_create("template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    state = os.memfd_create("state", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, 256 << 20)
        what = {"memory_fd": memory, "nic": True}
        with Running(stored, guest_init, emulating, root_disk, shared=True, **what) as template:
            template.wait_ready()
            control = Control(template.qmp)
            control("getfd", fd=state, fdname="state")
            control("migrate", uri="fd:state")
            while control("query-migrate")["status"] not in ("completed", "failed"):
                pass
            assert control("query-migrate")["status"] == "completed"
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
        for _ in range(2):
            # QEMU closes the descriptor it reads from, and moves the offset all copies share.
            again = os.open(f"/proc/self/fd/{state}", os.O_RDONLY)
            with Running(stored, guest_init, emulating, root_disk, clone=True, **what) as clone:
                control = Control(clone.qmp)
                control("getfd", fd=again, fdname="state")
                os.close(again)
                control("migrate-incoming", uri="fd:state")
                control("cont")
                clone.agent.sendall(b"end\n")
                assert clone.wait_end() == 1
    finally:
        os.close(memory)
        os.close(state)
