"""Runs the whole suite, as ``make test`` does.

    python tools/suite.py [WORDS FOR PYTEST…]

Without words the files run in **lanes**, several at a time: most tests wait for something, and
each file that uses a cove has a state directory and a daemon of its own. A lane takes the next
**share**, some files of one folder in a pytest of their own; what takes longest comes first, so
that no lane is alone with it at the end. ``COVE_TEST_LANES=1``: one after the other. With words it
is one pytest.

Eight thousand tests kill processes at moments that a busy host chooses. Where at most ``FEW`` fail,
each is run once more, alone: one that passes then is told by name as *unsteady*, with what it said,
and does not fail the run; one that fails twice does. More than ``FEW``, an error outside of a test
or an interrupt are never tried again.

One daemon serves the tests of a file: what harms it once is told by each test after, hence a dozen.

The files that took longest are listed: that is where time is to be won.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

FEW = 12
PASSED, FAILED, NOTHING = 0, 1, 5
"""Exit codes of pytest's. FAILED: tests failed, and nothing else did; NOTHING: there are none."""

MOST_LANES = 4
LANES = int(os.environ.get("COVE_TEST_LANES", 0)) or min(1 + (os.cpu_count() or 1), MOST_LANES)

LONG = (
    ("kernel/test_causes", "kernel/test_idmap", "kernel/test_run"),
    ("networks/test_virtual", "networks/test_virtual_crash", "networks/test_routing"),
    ("networks/test_crash",),
    ("vm/test_causes",),
    ("registry/test_round_trip",),
    ("images/test_bootstrap",),
    ("kernel/test_snapshots_crash",),
    ("vm/test_templates",),
    ("kernel/test_changes_crash",),
)
"""Shares of their own, longest first. Files that set up the same guest are one share."""

SLOW = ("vm", "networks", "kernel", "build", "registry", "api", "native", "images", "attack")
"""Folders in the order in which they are begun; the others come after them."""

WHOLE = ("unit", "golden")
"""Folders whose tests take no time of their own: one share."""

SHARE = 8
"""Files of a folder that one pytest runs."""


def shares(tests: Path) -> list[tuple[str, ...]]:
    """Every test file, once, in the order in which shares are begun."""
    long = [tuple(f"{tests.name}/{name}.py" for name in share) for share in LONG]
    taken = {file for share in long for file in share}
    rest: list[tuple[str, ...]] = []
    for folder in sorted(filter(Path.is_dir, tests.iterdir()), key=_turn):
        named = [f"{tests.name}/{folder.name}/{path.name}" for path in folder.glob("test_*.py")]
        files = sorted(set(named) - taken)
        size = len(files) if folder.name in WHOLE else SHARE
        count = -(-len(files) // size) if files else 0  # even shares: no lone file is left over
        rest += [tuple(files[n::count]) for n in range(count)]
    return [*long, *rest]


def _turn(folder: Path) -> tuple[int, str]:
    name = folder.name
    return SLOW.index(name) if name in SLOW else len(SLOW) + (name not in WHOLE), name


class Lanes:
    """Shares that run at the same time, each with a report of its own in ``scratch``."""

    def __init__(self, todo: Iterable[tuple[str, ...]], scratch: Path, lanes: int = LANES) -> None:
        self._left: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
        for share in todo:
            self._left.put(share)
        self._scratch, self._lanes = scratch, lanes
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False
        self.codes: list[int] = []

    def run(self) -> int:
        """pytest's exit code for all of them: what is worse than a failure comes first."""
        threads = [threading.Thread(target=self._lane) for _ in range(self._lanes)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            self._end()
            for thread in threads:
                thread.join()
            raise
        codes = {PASSED if code == NOTHING else code for code in self.codes}
        return next(iter(codes - {PASSED, FAILED}), max(codes, default=NOTHING))

    def _lane(self) -> None:
        while True:
            try:
                share = self._left.get_nowait()
            except queue.Empty:
                return
            name = share[0].removesuffix(".py").replace("/", ".")
            report, said = (self._scratch / f"{name}{end}" for end in (".xml", ".txt"))
            began = time.monotonic()
            with said.open("wb") as out, self._lock:
                if self._ended:
                    return
                process = subprocess.Popen(
                    [*pytest_words(report), "-p", "no:cacheprovider", *share],
                    env={**os.environ, "COVE_TEST_SHARED": str(self._scratch)},  # tests/shared.py
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # an interrupt of the terminal's comes once, by _end
                )
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.remove(process)
                self.codes.append(code)
                self._tell(share, code, said.read_text(errors="replace"), time.monotonic() - began)

    def _tell(self, share: tuple[str, ...], code: int, said: str, seconds: float) -> None:
        last = said.rstrip().rpartition("\n")[2]
        if code not in (PASSED, NOTHING):
            print(said, end="")
            last = f"exit code {code}"
        more = f" and {len(share) - 1} more" if len(share) > 1 else ""
        print(f"{seconds:5.0f} s  {share[0]}{more}: {last}", flush=True)

    def _end(self) -> None:
        """An interrupt: what runs tidies up, nothing more begins."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.send_signal(signal.SIGINT)


def pytest_words(report: Path) -> list[str]:
    return [sys.executable, "-m", "pytest", f"--junitxml={report}", "-o", "junit_family=xunit1"]


def run(words: list[str], report: Path) -> int:
    return subprocess.run([*pytest_words(report), *words], check=False).returncode


def cases(scratch: Path) -> Iterator[ET.Element]:
    """Of every report in there."""
    for report in sorted(scratch.glob("*.xml")):
        yield from ET.parse(report).iter("testcase")


def failed_in(scratch: Path) -> list[str]:
    """Their node ids, each once: a test and its tear-down may both have failed."""
    found: dict[str, None] = {}
    for case in cases(scratch):
        if case.find("failure") is not None or case.find("error") is not None:
            inner = case.get("classname", "").removeprefix(_module(case)).lstrip(".")
            name = "::".join([*filter(None, inner.split(".")), case.get("name", "")])
            found[f"{case.get('file')}::{name}"] = None
    return list(found)


def _module(case: ET.Element) -> str:
    return case.get("file", "").removesuffix(".py").replace("/", ".")


def longest(scratch: Path, count: int = 20) -> list[tuple[float, str]]:
    """The files that took most, in seconds."""
    spent: defaultdict[str, float] = defaultdict(float)
    for case in cases(scratch):
        spent[case.get("file", "")] += float(case.get("time", 0))
    return sorted(((seconds, name) for name, seconds in spent.items()), reverse=True)[:count]


def main() -> int:
    words = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what runs tidies up
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        if words:
            code = run(words, scratch / "report.xml")
        else:
            code = Lanes(shares(Path("tests")), scratch).run()
        for seconds, name in longest(scratch):
            print(f"{seconds:7.1f} s  {name}")
        print(f"{sum(1 for _ in cases(scratch))} tests", flush=True)
        failed = failed_in(scratch) if code == FAILED else []
        if not 0 < len(failed) <= FEW:
            return code
        again = {test: run([test], scratch / "again.xml") for test in failed}
    for test, code in again.items():
        print(f"{'UNSTEADY: failed once, passed alone' if code == 0 else 'FAILED TWICE'}: {test}")
    return max(again.values())


if __name__ == "__main__":
    sys.exit(main())
