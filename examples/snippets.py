"""Run 100 snippets of code at once, as a service that runs what its users type would.

    python examples/snippets.py [COUNT]

Each snippet gets a machine of its own, without network, that is gone when the snippet ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import cove
import cove.aio

AT_ONCE = 8 * (os.cpu_count() or 1)
"""More would only wait for a CPU."""


def snippet(number: int) -> str:
    """What a user typed. Some of it is bad: every tenth asks for too much, every tenth fails."""
    if number % 10 == 3:
        return "data = bytearray(1 << 30)"
    if number % 10 == 7:
        return "raise SystemExit(7)"
    return f"print({number} ** 2)"


async def run(code: str, turn: asyncio.Semaphore) -> cove.Result:
    async with turn:
        return await cove.aio.run(
            "host",
            ["python3", "-I", "-"],
            stdin=code,
            memory="64m",
            pids=32,
            timeout=30,
            network="none",
        )


async def main(count: int) -> int:
    turn = asyncio.Semaphore(AT_ONCE)
    begun = time.monotonic()
    results = await asyncio.gather(*(run(snippet(number), turn) for number in range(count)))
    took = time.monotonic() - begun
    right = sum(result.stdout == b"%d\n" % number**2 for number, result in enumerate(results))
    hungry = sum(result.reason.kind == "oom" for result in results)
    failed = sum(result.exit_code == 7 for result in results)
    print(f"{count} snippets: {right} printed, {hungry} out of memory, {failed} failed")
    print(f"{took:.1f} s, {count / took:.0f} a second", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)))
