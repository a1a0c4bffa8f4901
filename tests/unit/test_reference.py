"""References mean what Docker says they mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.errors import UsageError
from cove.oci.reference import familiar, parse_reference

SHA = "sha256:" + "a" * 64

# typed, full, familiar: the cases of distribution/reference's normalize_test.go and its manual
CASES = [
    ("debian", "docker.io/library/debian:latest", "debian:latest"),
    ("debian:12", "docker.io/library/debian:12", "debian:12"),
    ("library/debian", "docker.io/library/debian:latest", "debian:latest"),
    ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
    ("docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
    ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
    ("index.docker.io/a/b:1", "docker.io/a/b:1", "a/b:1"),
    ("team/web", "docker.io/team/web:latest", "team/web:latest"),
    ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
    ("localhost/web", "localhost/web:latest", "localhost/web:latest"),
    ("localhost:5000/web", "localhost:5000/web:latest", "localhost:5000/web:latest"),
    ("quay.io/a/b/c:d", "quay.io/a/b/c:d", "quay.io/a/b/c:d"),
    ("127.0.0.1:5000/web", "127.0.0.1:5000/web:latest", "127.0.0.1:5000/web:latest"),
    ("[2001:db8::1]:5000/web", "[2001:db8::1]:5000/web:latest", "[2001:db8::1]:5000/web:latest"),
    ("Registry/web", "Registry/web:latest", "Registry/web:latest"),
    ("web@" + SHA, "docker.io/library/web@" + SHA, "web@" + SHA),
    ("web:1@" + SHA, "docker.io/library/web:1@" + SHA, "web:1@" + SHA),
    ("a_b/c__d/e-f/g---h", "docker.io/a_b/c__d/e-f/g---h:latest", "a_b/c__d/e-f/g---h:latest"),
    ("web:V1.0_x-y", "docker.io/library/web:V1.0_x-y", "web:V1.0_x-y"),
]


@pytest.mark.parametrize(("text", "full", "short"), CASES)
def test_a_name_is_normalized(text: str, full: str, short: str) -> None:
    reference = parse_reference(text)
    assert (str(reference), reference.familiar()) == (full, short)
    assert familiar(full) == short
    assert parse_reference(short) == reference


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is not"),
        ("Debian", "must be lowercase"),
        ("team/Web", "must be lowercase"),
        ("a" * 64, "are an image id, not a name"),
        ("web:", "it is not"),
        ("web:" + "x" * 129, "it is not"),
        ("web:-x", "it is not"),
        ("web@sha256:abc", "it is not"),
        ("web@md5:" + "a" * 32, "is not one of sha256"),
        ("web@sha256:" + "a" * 63, "has 64 digits, not 63"),
        ("web@sha256:" + "A" * 64, "lower case"),
        ("a//b", "it is not"),
        ("a..b", "it is not"),
        ("-a", "it is not"),
        ("a___b", "it is not"),
        ("/a", "it is not"),
        ("a/", "it is not"),
        ("web ", "it is not"),
        ("web\n", "it is not"),
        ("https://web", "it is not"),
        ("a/" * 127 + "a" * 20, "longer than 255"),
    ],
)
def test_what_is_no_reference_is_named_as_typed(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse_reference(text)
    assert caught.value.message.startswith(f'cannot use image reference "{text}": ')


def test_a_name_without_tag_may_stay_without() -> None:
    assert str(parse_reference("web", default_tag=False)) == "docker.io/library/web"


@given(st.text(max_size=80))
def test_whatever_is_typed_parses_or_is_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar()) == reference
