"""The verbs for callers that block, over ``talk``: what ``client.api.Client`` needs to serve the
Python API as it serves the command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from cove.client.steps import each, finish
from cove.client.talk import Daemon
from cove.client.transport import Caller
from cove.client.verbs import Verb
from cove.engine.calls import Call
from cove.errors import Unsupported


class Front:
    local = True

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def call(self, verb: Verb, params: msgspec.Struct, call: Call) -> Any:
        return finish(self._daemon.call(verb.name, params, call.body))

    def stream(self, verb: Verb, params: msgspec.Struct, call: Call) -> Iterator[Any]:
        return each(self._daemon.stream(verb.name, params, call.body))

    def raw(self, verb: Verb, params: msgspec.Struct, call: Call) -> Any:
        return finish(self._daemon.call(verb.name, params, call.sink))

    def session(self, verb: Verb, params: msgspec.Struct, caller: Caller) -> int | None:
        raise Unsupported(f"cannot relay {verb.name}: programs hold a Link")
