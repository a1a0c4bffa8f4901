"""The one table of verbs: HTTP routes, the direct calls inside the daemon and the Python API all
come from it.

A verb is a method of the engine, ``method(params, call)``. It says nothing of how a verb is carried
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cove.engine import calls

PROTOCOL = 1
"""Raised when a verb or its data changes in a way that older clients cannot read."""

PREFIX = f"/cove/v{PROTOCOL}/"
"""``POST <prefix><verb>`` with the parameters as JSON; see ``transport`` for streams, bodies and
sessions."""


@dataclass(frozen=True, slots=True)
class Verb:
    name: str
    """In HTTP: ``machine.create``."""
    method: str
    """Of the engine."""
    params: type[Any]
    result: type[Any]
    """Of each item, when ``stream``."""
    stream: bool = False
    """The method gives an iterator; HTTP: one JSON document a line."""
    session: bool = False
    """Takes ``Call.session``; the method gives None once the session is handed to a monitor."""
    body: bool = False
    """Takes ``Call.body``."""


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("machine.create", "create", calls.Create, calls.Created),
        Verb("machine.run", "run", calls.Run, calls.Created, session=True),
        Verb("machine.start", "start", calls.Start, calls.Started, session=True),
        Verb("machine.attach", "attach", calls.Attach, calls.Named, session=True),
        Verb("machine.exec", "exec", calls.Exec, calls.Started, session=True),
        Verb("machine.stop", "stop", calls.Stop, calls.Named),
        Verb("machine.kill", "kill", calls.Kill, calls.Named),
        Verb("machine.wait", "wait", calls.Wait, calls.Waited),
        Verb("machine.remove", "remove", calls.Remove, calls.Named),
        Verb("machine.list", "list", calls.List, calls.Listed),
        Verb("machine.inspect", "inspect", calls.Inspect, calls.Inspected),
        Verb("machine.logs", "logs", calls.Logs, calls.LogEntry, stream=True),
        Verb("machine.plan", "plan", calls.PlanRequest, calls.Planned),
        Verb("image.list", "image_list", calls.ImageList, calls.Images),
        Verb("image.inspect", "image_inspect", calls.ImageInspect, calls.Image),
        Verb("image.remove", "image_remove", calls.ImageRemove, calls.ImageRemoved),
        Verb("image.load", "image_load", calls.ImageLoad, calls.Progress, stream=True, body=True),
        Verb(
            "image.import",
            "image_import",
            calls.ImageImport,
            calls.Progress,
            stream=True,
            body=True,
        ),
        Verb("image.pull", "image_pull", calls.ImagePull, calls.Progress, stream=True),
        Verb(
            "image.bootstrap", "image_bootstrap", calls.ImageBootstrap, calls.Progress, stream=True
        ),
        Verb("system.info", "info", calls.Nothing, calls.Info),
        Verb("system.version", "version", calls.Nothing, calls.Version),
        Verb("system.shutdown", "shutdown", calls.Nothing, calls.Nothing),
    )
}
