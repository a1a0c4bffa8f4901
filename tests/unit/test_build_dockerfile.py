"""Reading Dockerfiles: sizes, bytes, and that nothing but an error of cove comes out."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cove.build.dockerfile.file import INSTRUCTIONS, read_dockerfile
from cove.build.dockerfile.lines import FILE_MAX, LINE_MAX
from cove.errors import CoveError, UsageError


def refused(data: bytes) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_dockerfile(data, "Dockerfile")
    return caught.value


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"FROM a\nRUN " + b"x" * 10_000_000, "a line of 10000004 characters"),
        (b"FROM a\nRUN <<A\n" + b"x" * 10_000_000 + b"\nA\n", "a line of 10000000 characters"),
        (b"RUN a\n" * 1_000_000, "it has 1000001 lines"),
        (b"#" * (FILE_MAX + 1), "more than 16 MiB"),
        (b"FROM a\nRUN " + (b"x" * 1000 + b"\\\n") * 2000, "an instruction of more than"),
        (b"FROM a\nRUN a\0b\n", "a NUL character"),
        (b"FROM a\nRUN \xff\n", "it is not UTF-8"),
        (b"FROM a\nCOPY <<A /x\n\xff\nA\n", "it is not UTF-8"),
    ],
)
def test_sizes_and_bytes(data: bytes, why: str) -> None:
    error = refused(data)
    assert why in error.message
    assert len(error.render()) < 1000


def test_a_comment_may_have_any_bytes() -> None:
    assert read_dockerfile(b"# \xff\xfe\nFROM a\n", "D").stages


def test_a_byte_order_mark_and_line_ends_of_windows() -> None:
    file = read_dockerfile(b"\xef\xbb\xbfFROM a\r\nRUN <<E\r\nx\r\nE\r\nRUN a \\\r\n  b\r\n", "D")
    run, other = file.stages[0].instructions
    assert run.heredocs[0].content == "x\r\n"  # type: ignore[attr-defined]
    assert other.command.words == ("a   b",)  # type: ignore[attr-defined]


def test_hostile_but_short_of_the_limits() -> None:
    """Each takes a moment; a search that goes back and forth would take hours."""
    read_dockerfile(b"FROM a\nRUN " + b"\\ " * (LINE_MAX // 2 - 10), "D")
    read_dockerfile(b"FROM a\nENV a=" + b"'" * (LINE_MAX - 20), "D")
    read_dockerfile(b"FROM a\nRUN " + b"[" * (LINE_MAX - 20), "D")
    read_dockerfile(b"FROM a\n" + b"#\n" * 190_000, "D")
    read_dockerfile(b"FROM a\nRUN x" + b"\\\n" * 190_000, "D")


def test_places() -> None:
    file = read_dockerfile(b"\n\nFROM a\nRUN a \\\n# c\n b\n\nUSER x\n", "sub/Dockerfile")
    run, user = file.stages[0].instructions
    assert (run.place.line, run.place.end, str(user.place)) == (4, 6, "sub/Dockerfile:8")
    assert run.place.excerpt == "sub/Dockerfile:4  RUN a \\…"


_LINES = st.lists(
    st.builds(
        lambda word, rest, end: f"{word} {rest}{end}",
        st.sampled_from([*INSTRUCTIONS, "#", "from", "# escape=`", "EOF", ""]),
        st.text(alphabet="ab=$ \"'\\[],<-{}:/`EOF\t\x00é", max_size=25),
        st.sampled_from(["", "\\", "`", " \\ ", "<<EOF", " --from=a --x", "\r"]),
    ),
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(_LINES)
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    try:
        read_dockerfile("\n".join(["FROM a", *lines]).encode(), "Dockerfile")
    except CoveError as error:
        assert error.origin.startswith("Dockerfile:")


@settings(suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read_dockerfile(data, "Dockerfile")
    except CoveError as error:
        assert error.message
