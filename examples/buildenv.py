"""A throw-away build environment: sources go in, the artefact comes out, and nothing else stays.

    python examples/buildenv.py [SOURCES [ARTEFACT]]

It builds with this host's own compiler, in the image `host`: what the build writes, whatever its
makefile does, is gone with the machine. There is no network in it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cove


def build(sources: Path, artefact: str, target: Path) -> None:
    with cove.machine("host", network="none", memory="512m", storage="256m") as machine:
        machine.put(sources, "/build")
        for chunk in machine.exec_stream(["make", artefact], workdir="/build"):
            print(chunk.data.decode(errors="replace"), end="", flush=True)
        machine.exec(["test", "-s", artefact], workdir="/build", check=True)
        machine.get(f"/build/{artefact}", target)


def main(sources: Path, artefact: str) -> int:
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / artefact
        build(sources, artefact, target)
        print(f"{artefact}: {'made' if target.stat().st_size else 'empty'}")
        # What came out is as little trusted as what went in: it runs in a machine too.
        volumes = {str(target): f"/{artefact}:ro"}
        result = cove.run(
            "host", [f"/{artefact}"], volumes=volumes, network="none", timeout=10, check=True
        )
        print(result.text, end="")
    return 0


if __name__ == "__main__":
    here = Path(__file__).resolve().parent / "hello"
    words = sys.argv[1:]
    sys.exit(main(Path(words[0]).resolve() if words else here, words[1] if words[1:] else "hello"))
