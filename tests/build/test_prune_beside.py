"""What prune takes while a build runs: nothing that the build has made or stands on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.driver import Cove, wait_until

TEXT = """\
FROM base AS one
RUN --mount=type=cache,target=/cache echo kept >/cache/f && echo one >/one
FROM base
RUN echo two >/two
COPY file /file
COPY --from=one /one /one
RUN --mount=type=cache,target=/cache echo begun && until test -e /go; do sleep 0.02; done; \\
    cat /one /two /file /cache/f >/all
COPY --from=one /one /again
"""


@pytest.mark.usefixtures("tidied")
def test_prune_beside_a_build(fresh_cove: Cove, tmp_path: Path) -> None:
    """Steps are done that no image has yet, and a stage; its base and its cache are in use."""
    cove = fresh_cove
    (tmp_path / "Dockerfile").write_text("FROM bb\nRUN echo base >/base\n")
    cove("build", "-q", "-t", "base", str(tmp_path))
    (tmp_path / "Dockerfile").write_text(TEXT)
    (tmp_path / "file").write_text("file\n")
    caller = cove.spawn("build", "--progress=plain", "-t", "built", str(tmp_path))
    assert caller.stderr is not None
    while not (line := caller.stderr.readline()).rstrip().endswith(b" begun") or b"RUN" in line:
        assert line
    assert "runs it" in cove("rmi", "base", code=1).err
    for words in (
        ("builder", "prune", "-af"),
        ("image", "prune", "-af"),
        ("system", "prune", "-f"),
    ):
        cove(*words)
    wait_until(lambda: cove("ps", "-q").out, "the machine of the step")
    cove("exec", cove("ps", "-q").out.strip(), "touch", "/go")
    _, said = caller.communicate(timeout=180)
    assert caller.returncode == 0, said.decode()
    script = "cat /base /all /again; test -e /go"
    assert (
        cove("run", "--rm", "built", "sh", "-c", script).out == "base\none\ntwo\nfile\nkept\none\n"
    )
