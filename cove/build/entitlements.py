"""What of a Dockerfile is only done for who allows it by name: BuildKit's entitlements. Pure."""

from __future__ import annotations

from collections.abc import Collection

from cove.build.graph.data import Build, RunStep
from cove.build.source import misfit
from cove.spec.grants import HOST_NETWORK, INSECURE


def check_allowed(build: Build, allowed: Collection[str], network: str) -> None:
    """Before anything is done. ``network`` is that of all steps: who gives them the host's allows
    it to each.
    """
    for step in (step for stage in build.stages for step in stage.steps):
        if not isinstance(step, RunStep):
            continue
        if step.security == "insecure" and INSECURE not in allowed:
            raise misfit(
                step.place,
                "RUN --security=insecure is not allowed: root in it is root on the host",
                hint=f"allow it to this build: --allow {INSECURE}",
            )
        if step.network == "host" and network != "host" and HOST_NETWORK not in allowed:
            raise misfit(
                step.place,
                "RUN --network=host is not allowed: it reaches whatever listens on the host",
                hint=f"allow it to this build: --allow {HOST_NETWORK}",
            )
