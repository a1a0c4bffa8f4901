"""python -m benchmarks: the budgets of the design, measured beside the installed peers."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import peers, works
from benchmarks.measure import Series, table


def main() -> int:
    options = parse()
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    place = Path(tempfile.mkdtemp(prefix="cove-bench-", dir=options.state))
    root = peers.make_root(place)
    cove = works.Cove(place, options.cove)
    results: dict[str, list[Series]] = {}
    if options.kernels:
        from benchmarks import vm

        vm.measure(place, options.cove, Path(options.kernels), max(10, options.rounds))
        if options.work == "vm":
            subprocess.run(["rm", "-rf", str(place)], check=False)
            return 0
    try:
        cove.open()
        contestants = [cove.peer, *peers.floor_peers(place, root)]
        contestants += peers.runtime_peers(place, root) + peers.engine_peers(place)
        if options.only:
            wanted = {"cove", *options.only.split(",")}
            contestants = [p for p in contestants if p.name in wanted]
        missing = {"bwrap", "crun", "runc", "podman", "docker", "ctr"} - {
            p.name for p in contestants
        }
        print(f"contestants: {', '.join(p.name for p in contestants)}")
        if missing and not options.only:
            print(f"not here: {', '.join(sorted(missing))}. To have them:\n{peers.HOW}")
        for name, work in works.WORKS.items():
            if options.work and name not in options.work.split(","):
                continue
            rows = work(cove, contestants, options.rounds)
            results[name] = rows
            print(table(f"{name}: {(work.__doc__ or '').strip()}", rows), flush=True)
    finally:
        cove.close()
        subprocess.run(["rm", "-rf", str(place)], check=False)
    if options.json:
        data = {
            name: {r.name: {"ms": r.times, "failed": r.failed} for r in rows}
            for name, rows in results.items()
        }
        Path(options.json).write_text(json.dumps(data, indent=1) + "\n")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="How to have the peers:\n" + peers.HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", help="names of peers, with commas")
    parser.add_argument("--work", help=f"some of: {', '.join(works.WORKS)}")
    parser.add_argument(
        "--kernels",
        help="measure virtual machines too, with the guest kernels in this directory: "
        "kernels/ of a state directory",
    )
    parser.add_argument("--json", help="write every time to this file as well")
    parser.add_argument("--state", help="directory for all state (default: the temporary one)")
    beside = Path(sys.executable).parent / "cove"
    found = str(beside) if beside.exists() else shutil.which("cove")
    parser.add_argument("--cove", default=found, help="the cove command")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
