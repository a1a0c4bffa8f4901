"""cove.aio: the same names, words and ends, as coroutines."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from typing import Any

import pytest

import cove as package
import cove.aio
from cove.client import aio, sync
from tests.driver import ROOT, Cove, wait_until


def test_the_twin_is_fresh() -> None:
    program = (
        "import sys; sys.path.insert(0, 'tools'); import aio; "
        "sys.stdout.write(''.join(map(aio.text, aio.FILES)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    written = (ROOT / f"cove/client/{name}.py" for name in ("aio", "aio_networks", "aio_volumes"))
    assert "".join(path.read_text() for path in written) == done.stdout, "stale: run make docs"


@pytest.mark.parametrize("name", ["Client", "Images", "Machine", "Networks", "Process", "Volumes"])
def test_both_have_the_same_methods(name: str) -> None:
    one, other = getattr(sync, name), getattr(aio, name)

    def methods(kind: type) -> dict[str, Any]:
        return {
            key: inspect.signature(value).parameters
            for key, value in vars(kind).items()
            if not key.startswith("_") and inspect.isfunction(value)
        }

    assert methods(one) == methods(other)
    assert set(package.OF_DEFAULT) <= set(dir(package.aio)) | set(cove.aio.__all__)


def test_everything_works_as_coroutines(cove: Cove) -> None:
    client = aio.connect(str(cove.root))

    async def main() -> None:
        done = await client.run("bb", ["cat"], stdin=b"x" * 1_000_000)
        assert done.stdout == b"x" * 1_000_000
        done = await client.run("bb", ["sleep", "60"], timeout=0.2)
        assert done.reason.kind == "timeout"
        with pytest.raises(package.NotFound):
            await client.run("bb", ["nope"])
        async with client.machine("bb", ["sleep", "1000"]) as machine:
            assert (await machine.exec(["echo", "in"])).text == "in\n"
            async with await machine.popen(["cat"], stdin=True) as process:
                await process.write("a\n")
                async for chunk in process:
                    assert chunk.data == b"a\n"
                    break
                await process.close_stdin()
                assert (await process.wait()).ok
            assert [c.data async for c in machine.exec_stream(["echo", "s"])] == [b"s\n"]
            await machine.put(b"data", "/tmp/f")
            assert await machine.get("/tmp/f") == b"data"
            while (await machine.stats()).pids != 1:  # what has ended is put away a moment later
                pass
            assert [m.id for m in await client.machines()] == [machine.id]
        assert await client.machines(all=True) == []
        assert "bb:latest" in {t for i in await client.images.list() for t in i.tags}

    asyncio.run(main())


def test_two_hundred_at_once(cove: Cove) -> None:
    client = aio.connect(str(cove.root))

    async def main() -> list[package.Result]:
        return await asyncio.gather(
            *(client.run("bb", ["echo", str(number)]) for number in range(200))
        )

    before = threading.active_count()
    results = asyncio.run(main())
    assert [result.text for result in results] == [f"{number}\n" for number in range(200)]
    assert threading.active_count() <= before + 1


def test_a_cancelled_task_ends_its_machine(cove: Cove) -> None:
    client = aio.connect(str(cove.root))

    async def main() -> None:
        task = asyncio.create_task(client.run("bb", ["sleep", "1000"], name="cancelled"))
        while not await client.machines():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), client.machine("bb", ["sleep", "1000"]):
                await asyncio.sleep(60)

    asyncio.run(main())
    wait_until(lambda: sync.connect(str(cove.root)).machines(all=True) == [], "the end")


def test_input_of_every_kind(cove: Cove) -> None:
    client = aio.connect(str(cove.root))

    async def main() -> None:
        with open("/dev/null", "rb") as null:
            assert (await client.run("bb", ["cat"], stdin=null)).stdout == b""
        with open("/proc/self/status", "rb") as file:
            assert (await client.run("bb", ["cat"], stdin=file)).stdout.startswith(b"Name:")

    asyncio.run(main())
