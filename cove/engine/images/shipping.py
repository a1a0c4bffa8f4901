"""What goes to registries, and who may: ``login``, ``push``."""

from __future__ import annotations

import threading

from cove.engine.calls import Call, Nothing
from cove.engine.calls.ship import RegistryLogin
from cove.engine.home import Home


def registry_login(home: Home, params: RegistryLogin, call: Call) -> Nothing:
    from cove.image.registries import open_for
    from cove.oci.auth import Credentials

    credentials = Credentials(params.login.username, params.login.password)
    stopped = call.cancelled or threading.Event()
    with open_for(
        home.store, f"{params.domain}/login", credentials, lambda step: None, stopped,
        verb="log in to",
    ) as (_, registry):  # fmt: skip
        registry.try_login()
    return Nothing()
