"""The decoder: a plan is refused whole, by the word at fault, before its first op has run."""

from __future__ import annotations

import errno
import os
import random
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.driver import ROOT
from tests.native.plans import BUSYBOX, NEWUSER, Launcher, Op, encode, execve
from tests.native.start import host_part, machine_part

CLONE: Op = ("clone3", 0, "-")
TRUE = execve(BUSYBOX, "true")
Part = list[Op] | bytes


@pytest.fixture
def decoder(init_binary: Path, tmp_path: Path) -> Launcher:
    """Only decodes: needs no root."""
    return Launcher(init_binary, tmp_path)


def decode(decoder: Launcher, host: Part, machine: Part) -> str:
    command = [str(decoder.binary), "decode", *decoder.write(host, machine)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == (0 if done.stderr == "ok\n" else 1), done
    return done.stderr.rstrip("\n")


def refused(side: str, index: int, error: int, detail: str = "") -> str:
    """The report, but for the op's name."""
    return f"{side} {index} {error} {detail}"


def report(decoder: Launcher, host: Part, machine: Part) -> str:
    side, index, _name, error, detail = decode(decoder, host, machine).split(" ", 4)
    return f"{side} {index} {error} {detail}"


def test_good_plans(decoder: Launcher) -> None:
    assert decode(decoder, [], []) != "ok"
    assert decode(decoder, [("unshare", 0)], []) == "ok"
    assert decode(decoder, encode([]), b"") == "ok"
    assert decode(decoder, [CLONE], [TRUE]) == "ok"
    assert decode(decoder, host_part(Path("/x")), machine_part(("fork",), TRUE)) == "ok"


BYTES = {
    "nothing": (b"", errno.EBADMSG),
    "another magic": (b"cove-plan 2\0", errno.EPROTO),
    "no magic": (b"unshare\0001\0000\0", errno.EPROTO),
    "no NUL at the end": (b"cove-plan 1\0unshare\0001\0000", errno.EBADMSG),
    "no count": (b"cove-plan 1\0unshare\0", errno.EBADMSG),
    "fewer words than counted": (b"cove-plan 1\0unshare\0002\0000\0", errno.EBADMSG),
    "a huge count": (b"cove-plan 1\0unshare\00065535\0000\0", errno.EBADMSG),
    "a count too large": (b"cove-plan 1\0unshare\00065536\0000\0", errno.EINVAL),
    "a negative count": (b"cove-plan 1\0unshare\0-1\0000\0", errno.EINVAL),
    "an empty count": (b"cove-plan 1\0unshare\0\0000\0", errno.EINVAL),
    "an empty name": (b"cove-plan 1\0\0000\0", errno.ENOSYS),
    "too long": (b"cove-plan 1\0" + b"setsid\0" * 600_000, errno.E2BIG),
    "too many ops": (b"cove-plan 1\0" + b"unshare\0001\0000\0" * 4097, errno.E2BIG),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_plan(decoder: Launcher, name: str) -> None:
    data, error = BYTES[name]
    assert f" {error} " in report(decoder, data, b"") + " "
    if data:
        assert report(decoder, [CLONE], data).startswith("machine")


WORDS: dict[str, tuple[Op, int, str]] = {
    "unknown op": (("reboot", 1), errno.ENOSYS, "reboot"),
    "machine's op": (("setsid",), errno.EOPNOTSUPP, "setsid"),
    "too few": (("setfsuid", 1), errno.EINVAL, "setfsuid"),
    "too many": (("setfsuid", 1, 2, 3), errno.EINVAL, "setfsuid"),
    "no number": (("unshare", "0x10"), errno.EINVAL, "0x10"),
    "negative": (("unshare", "-1"), errno.EINVAL, "-1"),
    "empty number": (("unshare", ""), errno.EINVAL, ""),
    "space": (("unshare", " 1"), errno.EINVAL, " 1"),
    "33 bits": (("setfsuid", 1 << 32, 0), errno.EINVAL, str(1 << 32)),
    "65 bits": (("clone3", 1 << 64, "-"), errno.EINVAL, str(1 << 64)),
    "no octal": (("umask", "8"), errno.EINVAL, "8"),
    "octal too large": (("umask", "200000"), errno.EINVAL, "200000"),
    "no register": (("fchdir", "store"), errno.EBADF, "store"),
    "register must be": (("fchdir", "-"), errno.EBADF, "-"),
    "register's name": (("open_tree", "A b", "-", "/", 0), errno.EINVAL, "A b"),
    "long register": (("open_tree", "r" * 24, "-", "/", 0), errno.EINVAL, "r" * 24),
    "none filled": (("open_tree", "-", "-", "/", 0), errno.EINVAL, "-"),
    "before clone3": (("id_map", "", ""), errno.ECHILD, "id_map"),
    "send before": (("send",), errno.ECHILD, "send"),
}


@pytest.mark.parametrize("name", WORDS)
def test_words_of_the_host_part(decoder: Launcher, name: str) -> None:
    op, error, detail = WORDS[name]
    fine: Op = ("unshare", 0)
    assert report(decoder, [fine, op], []) == refused("host", 1, error, detail)


MACHINE_WORDS: dict[str, tuple[Op, int, str]] = {
    "host's op": (("setfsuid", 0, 0), errno.EOPNOTSUPP, "setfsuid"),
    "no hex": (("capset", "0xff"), errno.EINVAL, "0xff"),
    "upper case": (("capset", "FF"), errno.EINVAL, "FF"),
    "empty mask": (("capset", ""), errno.EINVAL, ""),
    "mask too wide": (("capbset", "1" * 17), errno.EINVAL, "1" * 17),
    "half an instruction": (("seccomp", 0, "06000000"), errno.EINVAL, "06000000"),
    "program too long": (("seccomp", 0, "0" * 16 * 4097), errno.EINVAL, "0" * 107),
    "limit": (("setrlimit", 7, "infinity", "1"), errno.EINVAL, "infinity"),
    "nothing to execute": (execve(), errno.EINVAL, "0"),
    "more arguments than words": (("execve", 3, "a", "b"), errno.EINVAL, "3"),
    "execve in the middle": (execve("sh"), errno.EINVAL, "execve"),
    "register of the host's later ops": (("fchdir", "late"), errno.EBADF, "late"),
}


@pytest.mark.parametrize("name", MACHINE_WORDS)
def test_words_of_the_machine_part(decoder: Launcher, name: str) -> None:
    op, error, detail = MACHINE_WORDS[name]
    host: list[Op] = [CLONE, ("open_tree", "late", "-", "/", 0)]
    assert report(decoder, host, [("setsid",), op, TRUE]) == refused("machine", 1, error, detail)


def test_registers(decoder: Launcher) -> None:
    early: Op = ("open_tree", "early", "-", "/", 0)
    use: Op = ("fchdir", "early")
    assert decode(decoder, [early, CLONE], [use, TRUE]) == "ok"
    assert decode(decoder, [CLONE, early, ("send", "early")], [("recv", "x"), TRUE]) == "ok"
    assert report(decoder, [CLONE, early], [use, TRUE]) == refused(
        "machine", 0, errno.EBADF, "early"
    )
    # Filled by id_map, and only then.
    attributes: Op = ("mount_setattr", "early", "", 0, 0, 0, 0, "userns")
    mapped: list[Op] = [early, ("clone3", NEWUSER, "-"), ("id_map", "", ""), attributes]
    assert decode(decoder, mapped, [TRUE]) == "ok"
    assert report(decoder, [early, attributes], []) == refused("host", 1, errno.EBADF, "userns")
    many: list[Op] = [("open_tree", f"r{i}", "-", "/", 0) for i in range(200)]
    assert f" {errno.E2BIG} " in report(decoder, many, [])


def test_the_parts_fit_each_other(decoder: Launcher) -> None:
    invalid = errno.EINVAL
    assert report(decoder, [CLONE, CLONE], [TRUE]) == refused("host", 1, invalid, "clone3")
    assert report(decoder, [CLONE], []).startswith("host 0 22")
    assert report(decoder, [], [TRUE]).startswith("host")
    assert report(decoder, encode([]), [TRUE]) == refused("host", 0, invalid, "clone3")
    assert report(decoder, [CLONE], [("setsid",)]).endswith(f"{invalid} execve")
    wrong = errno.EPROTO
    send: Op = ("send",)
    recv: Op = ("recv",)
    assert report(decoder, [CLONE], [recv, TRUE]) == refused("machine", 0, wrong, "recv")
    assert report(decoder, [CLONE, send, send], [recv, TRUE]) == refused("host", 2, wrong, "send")
    assert report(decoder, [CLONE, recv], [TRUE]) == refused("host", 1, wrong, "recv")
    host: list[Op] = [("open_tree", "a", "-", "/", 0), CLONE, ("send", "a")]
    assert report(decoder, host, [recv, TRUE]) == refused("host", 2, wrong, "send")


def test_nothing_runs_of_a_plan_with_one_bad_word(launcher: Launcher, tmp_path: Path) -> None:
    marker = tmp_path / "made"
    make: Op = ("mkdirat", "-", marker, "755", 0, 0)
    done = launcher.run([make, CLONE], [("setsid",), ("umask", "9"), TRUE])
    assert done.report == ("machine", 1, "-", errno.EINVAL, "9")
    assert not marker.exists()


# ---- fuzz ----

SEED = 20261122
SECONDS = 4.0
BATCH = 100


WRONG = (b"", b"-", b"0", b"1", b"65535", b"4294967296", b"f" * 200, b"\xff")


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One of the ways in which a plan comes out wrong."""
    if not data:
        return data
    words = data.split(b"\0")
    at = rng.randrange(len(words))
    kind = rng.randrange(8)
    if kind == 0:
        return data[: rng.randrange(len(data) + 1)]
    if kind == 1:
        cut = rng.randrange(len(data))
        return data[:cut] + bytes([rng.randrange(256)]) + data[cut + 1 :]
    if kind == 2:
        del words[at]
    elif kind == 3:
        words.insert(at, words[rng.randrange(len(words))])
    elif kind == 4:
        words[at] = rng.choice(
            (b"", b"-", b"0", b"1", b"65535", b"4294967296", b"f" * 200, b"\xff")
        )
    elif kind == 5:
        words[at] = rng.choice(ROWS)
    elif kind == 6:
        other = rng.randrange(len(words))
        words[at], words[other] = words[other], words[at]
    else:
        words = words[:at] + words[at:] * rng.randrange(1, 4)
    return b"\0".join(words)


ROWS = [
    match.encode() for match in re.findall(r"^X\((\w+),", (ROOT / "init/ops.def").read_text(), re.M)
]


def test_fuzz(sanitized_binary: Path, tmp_path: Path) -> None:
    """Mutants of a whole plan, under ASan and UBSan: every one is answered with a line."""
    rng = random.Random(SEED)
    good = encode(host_part(Path("/x"))), encode(machine_part(("fork",), TRUE))
    corpus = [good]
    environment = {"PATH": os.environ["PATH"], "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1"}
    deadline = time.monotonic() + SECONDS
    rounds = 0
    while time.monotonic() < deadline or rounds < 2:
        paths, cases = [], []
        for i in range(BATCH):
            host, machine = rng.choice(corpus)
            for _ in range(rng.randrange(1, 4)):
                if rng.random() < 0.5:
                    host = mutate(rng, host)
                else:
                    machine = mutate(rng, machine)
            cases.append((host, machine))
            for name, part in (("h", host), ("m", machine)):
                paths.append(tmp_path / f"{i}{name}")
                paths[-1].write_bytes(part)
        done = subprocess.run(
            [sanitized_binary, "decode", *paths],
            capture_output=True,
            env=environment,
            timeout=180,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr.decode(errors="replace")[-4000:]
        lines = done.stderr.split(b"\n")
        assert len(lines) >= BATCH
        # What is still a plan is worth another mutation.
        if len(lines) == BATCH + 1:
            corpus += [case for case, line in zip(cases, lines, strict=False) if line == b"ok"]
        corpus = [good, *corpus[-50:]]
        rounds += 1
