"""Building the static program: the compiler is found by a trial, and its absence is said."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tools import build_init


def test_the_program_stands_alone(init_binary: Path) -> None:
    assert not build_init._has_interpreter(init_binary)


def test_as_whichever_libc_makes_it_the_archiver_reads_large_directories(tmp_path: Path) -> None:
    """glibc's qsort asks how much memory there is, which its walls must know."""
    program, tree = tmp_path / "cove-init", tmp_path / "tree"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", "gcc")
        build_init.build(program)
    tree.mkdir()
    names = {f"tree/{number}" for number in range(1000)}
    for name in names:
        (tmp_path / name).touch()
    ran = subprocess.run([program, "archive", "out", tree, "tree", "0"], stdout=subprocess.PIPE)
    assert ran.returncode == 0
    with tarfile.open(fileobj=io.BytesIO(ran.stdout)) as tar:
        assert set(tar.getnames()) == names | {"tree"}


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(build_init.BuildError, match="no C compiler that works; install musl-gcc"):
        build_init.build(tmp_path / "out")
    with pytest.raises(build_init.BuildError, match="apt-get install gcc"):
        build_init.build(tmp_path / "out", sanitize=True)
    assert list(tmp_path.iterdir()) == []


def test_sources_that_do_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.c").write_text("int main(void) { return nothing; }\n")
    monkeypatch.setattr(build_init, "SOURCES", tmp_path)
    with pytest.raises(build_init.BuildError, match="nothing"):
        build_init.build(tmp_path / "out/cove-init")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert build_init.main([str(tmp_path / "out")]) == 1
    assert "apt-get install musl-tools" in capsys.readouterr().err
