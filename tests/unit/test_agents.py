"""The agent for guests of another CPU: built of our own sources where a compiler is there."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from cove.errors import Unsupported
from cove.linux.interpreters import find_interpreter
from cove.linux.program import build_stamp, init_program, stamp_of
from cove.vm import agents
from tests.driver import ROOT
from tools import build_init

HOST = platform.machine()
OTHER = "aarch64" if HOST == "x86_64" else "x86_64"


def agent(arch: str, directory: Path) -> str:
    return agents.agent_program(arch, directory=str(directory), gone=lambda: False)


def need_cross_compiler() -> None:
    if not (shutil.which(f"{OTHER}-linux-gnu-gcc") or importlib.util.find_spec("ziglang")):
        pytest.skip(f"needs {build_init.CROSS_PACKAGES[OTHER]}, or ziglang")


def test_for_this_cpu_it_is_this_very_program(tmp_path: Path) -> None:
    assert agent(HOST, tmp_path) == init_program()


def test_for_another_cpu_it_is_built_once(tmp_path: Path) -> None:
    """Every C file compiles for it without a warning, and what comes out runs, stands alone and
    says which build it is.
    """
    need_cross_compiler()
    path = Path(agent(OTHER, tmp_path / "agents"))
    assert path.parent == tmp_path / "agents"
    assert build_init._machine(path) == build_init.MACHINES[OTHER]
    assert not build_init._has_interpreter(path)
    assert stamp_of(str(path)) == build_stamp() != ""
    made = path.stat().st_ino
    assert agent(OTHER, tmp_path / "agents") == str(path)
    assert path.stat().st_ino == made
    path.write_bytes(path.read_bytes().replace(b"cove-stamp:", b"cove-stamp:0"))
    agent(OTHER, tmp_path / "agents")
    assert path.stat().st_ino != made, "of another build: made anew"
    qemu = find_interpreter(OTHER)
    if qemu:
        ran = subprocess.run([qemu, path, "version"], stdout=subprocess.PIPE, check=True)
        assert ran.stdout == b"1\n"


def test_without_a_compiler_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    packages = build_init.CROSS_PACKAGES[OTHER]
    with pytest.raises(build_init.BuildError) as error:
        build_init.build(tmp_path / "out", arch=OTHER)
    assert str(error.value) == (
        f"cannot build cove-init for {OTHER}: no C compiler for that CPU; install one "
        f"(apt-get install {packages}), or the Python package ziglang (pip install ziglang)"
    )
    said = str(error.value)
    monkeypatch.setattr(agents, "run", lambda *words, **more: (1, said + "\n"))
    with pytest.raises(Unsupported) as refused:
        agent(OTHER, tmp_path / "agents")
    assert refused.value.message == f"cannot make guests for {OTHER}: no C compiler for that CPU"
    assert refused.value.hint == (
        f"install one (apt-get install {packages}), or the Python package ziglang "
        "(pip install ziglang)"
    )


def test_an_installation_without_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "SOURCES", (str(tmp_path),))
    with pytest.raises(Unsupported, match="this installation has not the sources of their agent"):
        agent(OTHER, tmp_path)


def test_a_copy_of_the_sources_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a wheel has them: without the package beside them."""
    need_cross_compiler()
    source = tmp_path / "source"
    shutil.copytree(ROOT / "init", source / "init")
    (source / "tools").mkdir()
    shutil.copy(ROOT / agents.TOOL, source / "tools")
    monkeypatch.setattr(agents, "SOURCES", (str(source),))
    assert stamp_of(agent(OTHER, tmp_path / "agents")) == build_stamp()
