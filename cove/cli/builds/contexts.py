"""``build --build-context``: what its names mean, found before the daemon is asked."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cove.cli.command import Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls.ship import ImageCopy
from cove.errors import NotFound, UsageError

if TYPE_CHECKING:  # only builds pay for it
    from cove.build.contexts import Named
    from cove.build.graph.data import Build, Origin
    from cove.client.building import Context, Writer


def parse_context(text: str) -> Named:
    from cove.build.contexts import parse_context

    return parse_context(text)


@dataclass(slots=True)
class Contexts:
    """Those of the command line, by name."""

    terminal: Terminal
    client: Client
    all: dict[str, Named]
    files: dict[str, Context] = field(default_factory=dict)
    _layouts: dict[str, str] = field(default_factory=dict)

    def image(self, origin: Origin, platform: str = "") -> str:
        """The reference or id of an origin that is an image; empty: it is files. ``platform``:
        which of those in a directory, if not the one for this host.
        """
        from cove.build.contexts import IMAGE, LAYOUT
        from cove.build.graph.data import NAMED

        if origin.kind != NAMED:
            return origin.name
        named = self.all[origin.name]
        if named.kind == IMAGE:
            return named.value
        return self._layout(named, platform) if named.kind == LAYOUT else ""

    def kinds(self, build: Build) -> dict[str, str]:
        """As the daemon is told, of those that are needed."""
        kinds = {name: "files" if name in self.files else "image" for name in build.named}
        return dict(sorted(kinds.items()))

    def writers(
        self, build: Build, kinds: dict[str, str], cancelled: threading.Event
    ) -> list[Writer | None]:
        from cove.build.graph.data import NAMED, Origin

        return [
            self.files[name].writer(build.paths_of(Origin(NAMED, name)), cancelled)
            for name, kind in kinds.items()
            if kind == "files"
        ]

    @property
    def sockets(self) -> tuple[str, ...]:
        return tuple(name for one in self.files.values() for name in one.sockets)

    def _layout(self, named: Named, platform: str) -> str:
        """The id of the image in a directory, which is loaded without a name."""
        from cove.build.contexts import layout_of

        key = f"{named.name} {platform}"
        if key not in self._layouts:
            path, which = layout_of(named.value)
            source = f"oci:{path}" + (f":{which}" if which else "")
            try:
                with self.terminal.open_input(path) as fd, tempfile.TemporaryFile() as archive:
                    call = calls.Call(
                        body=fd, sink=archive.fileno(), cancelled=self.terminal.cancelled
                    )
                    self.client.image_copy_out(ImageCopy(source, "oci-archive:-", platform), call)
                    archive.seek(0)
                    call = calls.Call(body=archive.fileno(), cancelled=self.terminal.cancelled)
                    for step in self.client.image_load(calls.ImageLoad(origin=named.typed), call):
                        if step.image:
                            self._layouts[key] = step.image
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise UsageError(
                    f"cannot build with {path}: {reason}", origin=named.typed, exit_code=1
                ) from error
        if key not in self._layouts:
            raise NotFound(f"cannot build with {named.value}: it holds no image",
                           origin=named.typed, exit_code=1)  # fmt: skip
        return self._layouts[key]


@contextlib.contextmanager
def contexts_of(typed: Typed, terminal: Terminal, client: Client) -> Iterator[Contexts]:
    """Opened with the rights of who calls; of one name the last one counts."""
    found = Contexts(terminal, client, {one.name: one for one in typed.values.get("contexts", ())})
    if not found.all:
        yield found
        return
    from cove.build.contexts import FOLDER, GIT, WEB
    from cove.client import building
    from cove.client.remote import named_remote

    with contextlib.ExitStack() as stack:
        for named in found.all.values():
            if named.kind == FOLDER:
                path = terminal.path(named.value)
                found.files[named.name] = building.named_directory(path, named.typed)
            elif named.kind in (GIT, WEB):
                remote = named_remote(
                    named.value, named.kind, named.typed, terminal.cancelled, terminal.env
                )
                found.files[named.name] = stack.enter_context(remote)
        yield found
