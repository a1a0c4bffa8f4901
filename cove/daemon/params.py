"""The parameters of a verb, from a client that is another process."""

from __future__ import annotations

from typing import Any

import msgspec

from cove.client.verbs import VERBS, Verb
from cove.errors import NOT_JSON, UsageError
from cove.spec.check import check_exec, check_machine
from cove.spec.machine import ExecSpec, MachineSpec

# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
DECODERS = {verb.name: msgspec.json.Decoder(verb.params).decode for verb in VERBS.values()}


def parse_params(verb: Verb, data: bytes) -> Any:
    """What the command line would have checked is checked here for everybody else."""
    try:
        params = DECODERS[verb.name](data or b"{}")
    except NOT_JSON as error:
        raise UsageError(f"cannot read the parameters of {verb.name}: {error}") from error
    spec = getattr(params, "spec", None)
    if isinstance(spec, MachineSpec):
        check_machine(spec)
    elif isinstance(spec, ExecSpec):
        check_exec(spec)
    return params
