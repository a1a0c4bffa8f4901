"""What is said where an image is here, but for another platform alone."""

from __future__ import annotations

from tests.driver import Cove
from tests.images.tars import Tar

OTHER = "linux/s390x"


def test_what_is_here_is_told_and_how_the_other_is_made(cove: Cove) -> None:
    cove("tag", "bb", "debian:bookworm")
    said = cove("run", "--pull", "never", "--platform", OTHER, "debian:bookworm", "true", code=125)
    first, *lines = said.err.splitlines()
    assert first.startswith(f"cove: cannot run debian:bookworm as {OTHER}: it is an image for ")
    here = first.rpartition(" ")[2]
    assert lines == [
        f"  from: --platform {OTHER}",
        f"  host: the image debian:bookworm that is here is for {here}",
        f"  hint: cove image bootstrap --platform {OTHER} debian:bookworm",
    ]
    cove("rmi", "debian:bookworm")


def test_also_where_a_registry_was_asked(cove: Cove) -> None:
    name = "127.0.0.1:1/some:1"
    cove("image", "import", "-q", "--platform", "linux/amd64", "-", name,
         stdin=Tar().file("f", b"").data())  # fmt: skip
    said = cove("run", "--platform", OTHER, name, "true", code=125).err
    assert f"cannot pull {name}: " in said
    assert f"  from: --platform {OTHER}\n" in said
    assert f"  host: the image {name} that is here is for linux/amd64\n" in said
    assert "bootstrap --platform" not in said
    cove("rmi", name)
