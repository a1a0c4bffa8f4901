"""The fast kernel's configuration, and what a build refuses before it begins."""

from __future__ import annotations

import os
import re

import pytest

from cove.errors import Unsupported
from cove.vm import compile as kernel_build
from cove.vm.compile import build_key, configuration, lost_lines, missing_packages
from cove.vm.debian import Package, Stopped, run
from cove.vm.kernels import OPTION
from cove.vm.modules import DRIVERS

FRAGMENT = configuration("x86_64")
LINE = re.compile(r"CONFIG_\w+=(y|[0-9]+|\"\w+\")|# CONFIG_\w+ is not set|# (\^|--)? ?.*|#|")


def test_each_line_of_the_configuration_is_one_and_is_said_once() -> None:
    lines = FRAGMENT.splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    names = re.findall(r"^(?:# )?CONFIG_(\w+)", FRAGMENT, re.MULTILINE)
    assert len(names) == len(set(names))
    assert "=m" not in FRAGMENT, "the kernel loads no modules"


def test_every_driver_of_a_machine_is_built_in() -> None:
    options = dict(OPTION.findall(FRAGMENT))
    assert {driver.option for driver in DRIVERS} <= {n for n, v in options.items() if v == "y"}


def test_what_the_source_does_not_keep_is_found() -> None:
    wanted = "CONFIG_A=y\nCONFIG_B=64\n# CONFIG_C is not set\n# ^ why\n"
    assert lost_lines(wanted, "CONFIG_A=y\nCONFIG_B=64\n# CONFIG_C is not set\n") == ()
    assert lost_lines(wanted, "CONFIG_B=32\nCONFIG_C=y\n") == (
        "CONFIG_A=y",
        "CONFIG_B=64",
        "CONFIG_C=n",
    )


def test_a_build_is_kept_under_its_source_and_its_lines() -> None:
    package = Package("linux-source-6.1", "6.1.1-1", "")
    newer = Package("linux-source-6.1", "6.1.2-1", "")
    keys = {build_key(package, "a"), build_key(package, "b"), build_key(newer, "a")}
    assert len(keys) == 3 and build_key(package, "a") in keys


def test_what_is_missing_is_named_as_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_build, "PATH", "/nonexistent")
    monkeypatch.setattr(kernel_build, "HEADERS", {"no-such-header.h": "libelf-dev"})
    missing = missing_packages()
    assert {"bison", "flex", "gcc", "libelf-dev", "make"} <= set(missing)


def test_another_cpu_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="for riscv64: cove has no configuration for it"):
        configuration("riscv64")


def test_a_tool_is_ended_with_all_it_started_when_nobody_waits() -> None:
    said: list[str] = []
    ours, theirs = os.pipe()
    with pytest.raises(Stopped):
        run(
            ["sh", "-c", "sleep 1000 & echo begun; wait"],
            cwd="/",
            hear=said.append,
            gone=lambda: "begun" in said,
            pass_fds=(theirs,),
        )
    os.close(theirs)
    assert os.read(ours, 1) == b"", "nobody holds the other end any more"
    os.close(ours)


def test_a_tool_says_its_last_words() -> None:
    code, said = run(["sh", "-c", "echo one; echo two >&2; exit 3"], cwd="/", gone=lambda: False)
    assert (code, said) == (3, "one\ntwo\n")
    with pytest.raises(Unsupported, match="cannot run no-such-tool: no such file"):
        run(["no-such-tool"], cwd="/", gone=lambda: False)
