"""A caller's login, as registries take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cove.engine.calls import Login

if TYPE_CHECKING:
    from cove.oci.auth import Credentials


def credentials_of(login: Login | None) -> Credentials | None:
    from cove.oci.auth import Credentials

    return Credentials(login.username, login.password, login.identity) if login else None
