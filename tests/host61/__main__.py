"""The core of the suite on another host: Debian 12 with its own Linux 6.1 and pure cgroup v2, in a
virtual machine without a network, as root.

    python -m tests.host61                        # what ``make test-host61`` runs
    python -m tests.host61 --all                  # not only the core: hours on a busy host
    python -m tests.host61 --begin tests/kernel/test_logs.py # the core from that file on
    python -m tests.host61 -k memory tests/kernel # words for pytest instead
    python -m tests.host61 --exec COMMAND…        # any command, in the checkout
    python -m tests.host61 --facts                # tests/facts/debian12-v2.json, recorded there

The first run makes the guest's disk (a minute); later ones take it from ``.cache/host61``. QEMU
interprets (TCG): whether KVM could be trusted is not asked.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time

from tests.driver import ROOT
from tests.host61.checkout import checkout_disk
from tests.host61.guest_disk import guest_disk
from tests.host61.qemu import GuestDied, run_in_guest

CORE = (
    *(f"tests/native/{name}" for name in ("test_container.py", "test_start.py")),
    *(
        f"tests/native/test_ops_{name}.py"
        for name in ("files", "join", "mounts", "namespaces", "process")
    ),
    *(
        f"tests/kernel/test_{name}.py"
        for name in (
            *("run", "plan_runs", "cgroup", "life", "slots", "roots", "causes", "recovery"),
            *("snapshots", "changes", "volumes", "copy", "logs", "audit", "faults_kills"),
            *("older_kernels", "host", "doors", "watching", "remounting", "devices_limits"),
            "device_list",
        )
    ),
    *(f"tests/attack/test_{name}.py" for name in ("containers", "escapes")),
    *(f"tests/networks/test_{name}.py" for name in ("networks", "attacks", "ports")),
    "tests/images/test_unpack.py",
)
"""What hangs on the kernel and its control groups: every wall, limit, mount, network. What starts
a daemon over and over (walks, races, the name server) takes longer than that, and is in ``ALL``.
"""
ALL = (
    "tests/kernel",
    "tests/attack",
    "tests/cli",
    "tests/images",
    "tests/native",
    "tests/networks",
)
MUST_RUN = "attack,cli,images,kernel,native,networks"
LEFT_OUT = (
    "--ignore=tests/kernel/test_foreign.py",  # wants Linux 6.7; see test_older_kernels
    "--ignore=tests/images/test_bootstrap.py",  # wants package sources; the guest has no network
    *("--ignore=tests/networks/test_virtual.py", "--ignore=tests/networks/test_virtual_crash.py"),
    # Counts to a million in the unpacker, for minutes, and shows nothing of a kernel.
    "--deselect=tests/kernel/test_faults_images.py::test_a_million_and_one_entries",
)
TIMEOUT = 600
"""Of one test, in seconds: a guest on a busy host has a twentieth of its speed."""
FACTS = ROOT / "tests/facts/debian12-v2.json"
RECORD = (
    "import sys, msgspec; from cove.linux.probe import probe_facts; "
    "sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(probe_facts('/tmp'))))"
)


OTHERWISE = ("devices", "kvm", "memory", "qemu", "tsc_khz")
"""Facts in which a guest of QEMU differs from the hosts it stands for: they stay as they were."""


PLUGINS = ("no:cacheprovider", "tests.host61.aloud", "tests.host61.containers")
OF_PYTEST = f"-o timeout={TIMEOUT} -ra --durations=15 -p {' -p '.join(PLUGINS)}"
SUMMARY = re.compile(rb"^=* ?((?:\d+ \w+,? ?)+) in [\d.]+s", re.MULTILINE)
KERNEL = re.compile(rb"^\d+ tests on (.+)$", re.MULTILINE)


def suite_words(given: list[str], tests: tuple[str, ...], begin: str) -> list[str]:
    if any(word.startswith("tests") for word in given):
        return given
    if begin and begin not in tests:
        sys.exit(f"host61: {begin} is none of {' '.join(tests)}")
    return [*given, *tests[tests.index(begin) if begin else 0 :], *LEFT_OUT]


def result(code: int, output: bytes, seconds: float) -> str:
    """The run in one line."""
    told = SUMMARY.search(output)  # later ones are of tests that were tried again
    kernel = KERNEL.search(output)
    words = ["passed" if code == 0 else f"FAILED with exit code {code}"]
    words += [told[1].decode()] if told else ["no test has run"]
    words += [f"{output.count(b'UNSTEADY: ')} of them unsteady"] if b"UNSTEADY: " in output else []
    words += [kernel[1].decode()] if kernel else []
    return f"host61: {'; '.join(words)}; {seconds / 60:.1f} min"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.host61", add_help=True)
    parser.add_argument("--exec", action="store_true", help="run a command instead of pytest")
    parser.add_argument("--all", action="store_true", help="more than the core")
    parser.add_argument("--begin", default="", metavar="FILE", help="of the core: this one first")
    parser.add_argument("--facts", action="store_true", help="record the facts of the guest")
    parser.add_argument("--minutes", type=float, default=120, help="until the guest is given up")
    parser.add_argument("--memory", default="4G", help="of the guest")
    options, words = parser.parse_known_args()
    tests = ALL if options.all else CORE
    python = f"{ROOT}/.venv/bin/python"
    if options.facts:
        argv = [python, "-c", RECORD]
    elif options.exec:
        argv = words
    else:
        argv = [python, "-u", "tools/suite.py", *suite_words(words, tests, options.begin)]
    environment = {"COVE_WALK": "9", "COVE_TEST_KINDS": "container", "PYTEST_ADDOPTS": OF_PYTEST}
    environment["PYTHONUNBUFFERED"] = "1"  # what hangs has said what it does
    if not (options.exec or words):
        environment["COVE_MUST_RUN"] = MUST_RUN
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the disks are put away all the same
    began = time.monotonic()
    try:
        guest = guest_disk()
        with checkout_disk() as checkout:
            ready = time.monotonic()
            print(f"host61: disks ready in {ready - began:.0f} s", file=sys.stderr)
            code, output = run_in_guest(
                guest,
                checkout,
                argv=argv,
                environment=environment,
                memory=options.memory,
                seconds=options.minutes * 60,
                show=not options.facts,
            )
    except GuestDied as error:
        print(f"host61: {error}", file=sys.stderr)
        return 125
    if options.facts and code == 0:
        before, now = json.loads(FACTS.read_bytes()), json.loads(output)
        kept = {name: before[name] for name in OTHERWISE if name in before}
        FACTS.write_text(json.dumps(now | kept, indent=2) + "\n")
        print(f"wrote {os.path.relpath(FACTS)}; read the diff, then: make golden")
    took = time.monotonic() - ready
    if options.exec or options.facts:
        print(f"host61: exit code {code} after {took:.0f} s", file=sys.stderr)
    else:
        print(result(code, output, took))
    return code


if __name__ == "__main__":
    sys.exit(main())
