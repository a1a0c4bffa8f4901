"""What a step's result depends on, as text, and the cache key made of it. Pure.

Instructions that only change the config are in no key: a new LABEL builds nothing anew. What the
files of a COPY or a mount are is not known here: their digests are passed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict

from cove.build.graph.data import CopyStep, RunStep, Step, StepMount, WorkdirStep


def inputs_of(step: Step) -> tuple[str, ...]:
    """All that the step's own words say; nothing for one without a layer."""
    match step:
        case RunStep():
            return (
                "RUN",
                json.dumps(step.argv),
                json.dumps(sorted(step.env)),
                step.workdir,
                step.user,
                json.dumps([_mount(mount) for mount in step.mounts]),
                json.dumps([[file.path, file.content, file.mode] for file in step.files]),
                step.network,
                step.security,
            )
        case CopyStep():
            sources = [[s.path, s.pattern, s.unpack, s.checksum] for s in step.sources]
            words = (step.target, step.chown, step.chmod, str(step.link), *step.exclude)
            return ("COPY", json.dumps(sources), json.dumps(words))
        case WorkdirStep():
            return ("WORKDIR", step.path, step.user)
        case _:
            return ()


def key_of(parent: str, step: Step, contents: Iterable[str] = ()) -> str:
    """The cache key of a step on top of ``parent``, with the digests of the files it takes."""
    own = inputs_of(step)
    if not own:
        return parent
    above = "" if isinstance(step, CopyStep) and step.link else parent
    text = json.dumps([above, own, list(contents)])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _mount(mount: StepMount) -> dict[str, object]:
    """Not what is in a cache or a secret: neither decides what a step makes."""
    found = asdict(mount.mount)
    return {**found, "target": mount.target, "origin": str(mount.origin or "")}
