"""Attaching by a websocket, as pages and docker-py do."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import aiohttp
import docker
import pytest

from tests.api.conftest import Raw, docker_host
from tests.driver import Cove, wait_until

Client = docker.DockerClient
PATH = "http://d/v1.51/containers/{}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1{}"
PATIENCE = 120


def talk(
    cove: Cove, machine: str, words: list[str | bytes], *, more: str = "", until: int
) -> bytes:
    """What a machine says to these words, up to so many bytes; 0: to its end."""

    async def session() -> bytes:
        path = docker_host(cove).removeprefix("unix://")
        async with (
            asyncio.timeout(PATIENCE),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as http,
            http.ws_connect(PATH.format(machine, more)) as socket,
        ):
            for word in words:
                send: Any = socket.send_str if isinstance(word, str) else socket.send_bytes
                await send(word)
            heard = b""
            while not until or len(heard) < until:
                message = await socket.receive()
                if message.type != aiohttp.WSMsgType.BINARY:
                    assert message.type == aiohttp.WSMsgType.CLOSE, message
                    assert message.data == 1000, message
                    break
                heard += message.data
            return heard

    return asyncio.run(session())


def test_a_websocket_carries_both_directions(cove: Cove, client: Client) -> None:
    box = client.containers.run(
        "bb", ["sh", "-c", "echo old; while read -r x; do echo $x; done"],
        stdin_open=True, detach=True,
    )  # fmt: skip
    wait_until(lambda: box.logs() == b"old\n", "the first word")
    for _ in range(2):  # who closes it ends nothing
        assert talk(cove, box.id, ["text\n", b"bytes\n"], until=11) == b"text\nbytes\n"
    said = talk(cove, box.id, ["x" * 100_000 + "\n"], more="&logs=1", until=100_027)
    assert said == b"old\n" + b"text\nbytes\n" * 2 + b"x" * 100_000 + b"\n"
    box.remove(force=True)


def test_a_websocket_hears_the_end(cove: Cove, client: Client) -> None:
    box = client.containers.run(
        "bb", ["sh", "-c", "head -n 1; echo wrong >&2"], stdin_open=True, detach=True
    )
    assert talk(cove, box.id, ["last\n"], until=0) == b"last\nwrong\n"
    box.wait()
    assert talk(cove, box.id, [], more="&stream=0&logs=1", until=11) == b"last\nwrong\n"
    box.remove()


def visit(cove: Cove, machine: str, word: bytes) -> bool:
    """Come, say that, and leave before the machine has started; False: there are too many."""

    async def session() -> bool:
        path = docker_host(cove).removeprefix("unix://")
        async with (
            asyncio.timeout(PATIENCE),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as http,
        ):
            try:
                socket = await http.ws_connect(PATH.format(machine, ""), autoping=False)
            except aiohttp.WSServerHandshakeError as refused:
                assert refused.status == 409
                return False
            await socket.ping(b"there?")
            message = await socket.receive()
            assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PONG, b"there?")
            if not word:
                await socket.close()
                return True
            await socket.send_bytes(word)
        return True  # without a good-bye

    return asyncio.run(session())


def test_who_leaves_before_the_start_waits_no_more(cove: Cove, client: Client) -> None:
    """More than may wait, one after the other; what they said is nobody's."""
    box = client.containers.create("bb", ["head", "-n", "1"], stdin_open=True)
    for number in range(36):
        word = b"x" if number % 2 else b""
        wait_until(partial(visit, cove, box.id, word), "a place to wait for its start")
    box.remove()


def test_what_is_no_handshake_is_an_answer(cove: Cove, client: Client, raw: Raw) -> None:
    assert raw("GET", "/containers/nobody/attach/ws?stream=1").status == 400
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        talk(cove, "nobody", [], until=0)
    assert refused.value.status == 404
