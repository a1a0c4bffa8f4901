"""What mmdebstrap, debootstrap and apt say on stderr, as steps for people and, when it failed, as
one error.
"""

from __future__ import annotations

import re
from collections import deque

from cove.errors import CoveError, HostError, NotFound, UsageError
from cove.image.distributions import Wish
from cove.image.layers import Step

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
SIZE = r"([\d.,]+) ([kMG]?B)"
KEPT = 2000
"""Lines of which the cause of a failure is found."""

PHASES = {
    "running apt-get update": "reading package lists",
    "extracting archives": "unpacking packages",
    "installing essential packages": "installing packages",
    "creating tarball": "making the image",
}
OF_DEBOOTSTRAP = {
    "Retrieving": "downloading packages",
    "Validating": "downloading packages",
    "Extracting": "unpacking packages",
    "Unpacking": "unpacking packages",
    "Configuring": "setting up packages",
}
UNREACHABLE = re.compile(
    r"Temporary failure resolving|Could not resolve|Could not connect|Unable to connect"
    r"|Network is unreachable|Connection (refused|timed out|failed)|Cannot initiate the connection"
)
NO_PACKAGE = re.compile(
    r"E: Unable to locate package (\S+)|E: Package '(\S+)' has no installation candidate"
    r"|E: Couldn't find any package by \w+ '(\S+)'|E: Version '\S+' for '(\S+)' was not found"
    r"|E: Release '\S+' for '(\S+)' was not found|E: Couldn't find these debs: (\S+)"
)


class Listener:
    """Fed line by line."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: deque[str] = deque(maxlen=KEPT)
        self._bytes = self._wanted = 0
        self._unpacked = self._done = self._packages = 0

    def hear(self, line: str) -> Step | None:
        """The step that begins or goes on with this line, if any."""
        self.lines.append(line)
        if line.startswith("I: "):
            phase = PHASES.get(line[3:].rstrip(".")) or OF_DEBOOTSTRAP.get(line.split()[1])
            return Step(phase, self.name) if phase else None
        if match := re.search(r"(\d+) newly installed", line):
            self._packages += int(match[1])
        elif match := re.match(rf"Need to get (?:{SIZE}/)?{SIZE} of archives", line):
            self._bytes, self._wanted = 0, _size(match[1] or match[3], match[2] or match[4])
        elif match := re.match(rf"Get:\d+ .*\[{SIZE}\]", line):
            return self._got(_size(match[1], match[2]))
        elif line.startswith("Unpacking "):
            self._unpacked += 1
            return self._counted("unpacking packages", self._unpacked)
        elif line.startswith("Setting up "):
            self._done += 1
            return self._counted("setting up packages", self._done)
        return None

    def _got(self, size: int) -> Step | None:
        if not self._wanted:
            return None
        self._bytes = min(self._bytes + size, self._wanted)
        return Step("downloading packages", self.name, self._bytes, self._wanted)

    def _counted(self, stage: str, number: int) -> Step:
        total = max(self._packages, number)
        return Step(stage, self.name, number, total, "packages")


def _size(number: str, unit: str) -> int:
    return int(float(number.replace(",", "")) * UNITS[unit])


def failure(
    wish: Wish, lines: deque[str], exit_code: int, cause: str, tool: str = "mmdebstrap"
) -> CoveError:
    """Why it did not become an image. ``cause``: why the machine was ended, if it was."""
    begin = f"cannot bootstrap {wish}"
    text = "\n".join(lines)
    complaints = [line for line in lines if line.startswith(("E:", "Err:"))]
    line = complaints[0] if complaints else lines[-1] if lines else ""
    if match := NO_PACKAGE.search(text):
        name = next(filter(None, match.groups()))
        return UsageError(f"{begin}: it has no package {name}", origin=f"--include {name}")
    if "No space left on device" in text:
        return HostError(f"{begin}: no space left on device", host="in the machine that makes it")
    if re.search(r"does not have a Release file|404 +Not Found|Failed getting release file", text):
        return NotFound(
            f"{begin}: the package sources have no suite {wish.suite}",
            origin=f"--mirror {wish.mirror}" if wish.mirror else "",
            host=line,
            exit_code=125,
        )
    if match := UNREACHABLE.search(text):
        told = next((one for one in lines if match[0] in one), line)
        return HostError(
            f"{begin}: its package sources cannot be reached",
            origin=f"--mirror {wish.mirror}" if wish.mirror else "",
            host=told.strip(),
            hint="`host` is built in and needs no network: cove run --rm -it host bash",
        )
    if "NO_PUBKEY" in text or "is not signed" in text:
        return HostError(
            f"{begin}: the package sources are signed by a key that is not known here",
            host=line,
            hint=f"apt-get install {wish.distribution.keys_from}",
        )
    return HostError(f"{begin}: {cause or f'{tool} ended with {exit_code}'}", host=line)
