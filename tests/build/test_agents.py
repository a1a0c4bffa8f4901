"""The door to a caller's agent, without a daemon."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from cove.engine.builds.agents import VISITOR, served
from tests.driver import wait_until


def visitors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == VISITOR]


def test_an_agent_that_takes_nobody_holds_no_build(tmp_path: Path) -> None:
    """It is stopped, and others wait for it already."""
    waiting: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen(0)
        try:
            for _ in range(8):
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                if waiting[-1].connect_ex(str(tmp_path / "agent")):
                    break
            else:
                raise AssertionError("there is room for everybody")
            fd = os.open(tmp_path / "agent", os.O_PATH)
            door = served(fd, str(tmp_path / "door"), 0o600, os.getuid(), os.getgid())
            with socket.socket(socket.AF_UNIX) as asking:
                path = door.__enter__()
                asking.connect(path)
                wait_until(visitors, "the visitor")
                ending = threading.Thread(target=door.__exit__, args=(None, None, None))
                ending.daemon = True
                ending.start()
                ending.join(120)
                assert not ending.is_alive() and not visitors()
            os.close(fd)
        finally:
            for sock in waiting:
                sock.close()
