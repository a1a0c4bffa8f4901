"""How this host speaks with registries: what is configured, and a connection that can be ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import msgspec

from cove.errors import NOT_JSON, HostError, UsageError
from cove.image.importing import RESERVED
from cove.image.layers import Progress, Step
from cove.oci.auth import Credentials
from cove.oci.endpoint import endpoint_of
from cove.oci.reference import Reference, parse_reference
from cove.oci.registry import Registry, Unreachable, open_registry
from cove.oci.web import Patience, Web
from cove.store.db import Store

CERTIFICATES = ("/etc/docker/certs.d", "/etc/containers/certs.d", "/etc/cove/certs.d")
"""Below them a directory for each HOST[:PORT]; the state directory has such a one, too."""

WITHOUT_REGISTRY = (
    "without a registry there is `host`, built in; make others: cove image bootstrap "
    "debian:bookworm, cove image import, cove load"
)


@contextmanager
def open_for(
    store: Store,
    text: str,
    credentials: Credentials | None,
    tell: Progress,
    stopped: threading.Event | None,
    patience: Patience | None = None,
    verb: str = "pull",
    kind: type[Registry] = Registry,
    mirror: str = "",
) -> Iterator[tuple[Reference, Registry]]:
    """What ``text`` names, and who serves it, or its ``mirror``; ``stopped`` ends what goes on
    inside.
    """
    reference = parse_reference(text)
    if reference.familiar_name == RESERVED:
        raise UsageError(f'cannot {verb} "{text}": "{RESERVED}" is built in', origin=text)
    served = at_mirror(reference, mirror) if mirror else reference
    endpoint = endpoint_of(served, insecure_registries(store))
    places = (*CERTIFICATES, f"{store.layout.root}/certs.d")
    endpoint = replace(endpoint, certificates=tuple(f"{place}/{endpoint.host}" for place in places))

    def notice(why: str, seconds: float) -> None:
        tell(Step(f"{why}, trying again in {seconds:.0f} s"))

    web = Web(endpoint, patience or Patience(), notice=notice)
    with ExitStack() as stack:
        registry = stack.enter_context(
            open_registry(served, endpoint, web, credentials, verb=verb, kind=kind)
        )
        stack.enter_context(_ended_by(stopped, registry))
        try:
            yield reference, registry
        except Unreachable as error:
            if verb == "pull":
                error.hint = WITHOUT_REGISTRY
            raise


def insecure_registries(store: Store) -> tuple[str, ...]:
    """Hosts and networks that may be spoken to over http."""
    return _settings(store).insecure


def mirrors_of(store: Store, reference: Reference) -> tuple[str, ...]:
    """``HOST[:PORT][/PATH]`` of those that are asked before the registry itself, in turn."""
    return _settings(store).mirrors.get(reference.domain, ())


def at_mirror(reference: Reference, mirror: str) -> Reference:
    place = mirror.removeprefix("https://").rstrip("/")
    try:
        found = parse_reference(f"{place}/{reference.path}", default_tag=False)
    except UsageError:
        found = None
    if found is None or found.domain != place.partition("/")[0] or found.tag or found.digest:
        raise UsageError(
            f'cannot use mirror "{mirror}" of {reference.domain}: it is not HOST[:PORT][/PATH]',
            hint='one that speaks http is named in "insecure", too',
            exit_code=1,
        )
    return replace(found, tag=reference.tag, digest=reference.digest)


def _settings(store: Store) -> _Registries:
    """From ``registries.json``."""
    path = store.layout.registries
    try:
        with open(path, "rb") as file:
            return _decode_registries(file.read(1 << 20))
    except FileNotFoundError:
        return _Registries()
    except OSError as error:
        raise HostError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except NOT_JSON as error:
        raise UsageError(
            f"cannot read {path}: {error}",
            hint='write {"insecure": ["registry.example:5000", "10.0.0.0/8"]}',
        ) from None


class _Registries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    insecure: tuple[str, ...] = ()
    mirrors: dict[str, tuple[str, ...]] = {}


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode_registries = msgspec.json.Decoder(_Registries).decode


@contextmanager
def _ended_by(stopped: threading.Event | None, registry: Registry) -> Iterator[None]:
    """Inside: ``stopped`` ends the registry's requests, also those that wait for an answer."""
    if stopped is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if stopped.is_set():
                registry.stop()
                return

    watcher = threading.Thread(target=watch, name="registry-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
