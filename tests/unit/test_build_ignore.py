"""``.dockerignore``: patterns, exceptions, folders above, and that it stays fast."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cove.build.ignore import ignore_names, read_ignore
from cove.errors import CoveError, UsageError


def kept(patterns: str, path: str) -> bool:
    return read_ignore(patterns.encode()).kept(path)


@pytest.mark.parametrize(
    ("patterns", "ignored", "stays"),
    [
        ("*.log", "a.log", "b/a.log"),
        ("**/*.log", "b/c/a.log", "b/c/a.lo"),
        ("**/*.log", "a.log", "a.logs"),
        ("/a", "a/b/c", "x/a"),
        ("a/", "a", "ab"),
        ("./a/../b", "b", "a"),
        ("  a  ", "a", "b"),
        ("#a\n# b\n c", "c", "#a"),
        ("a?c", "abc", "a/c"),
        ("[a-c]x", "bx", "dx"),
        ("[^a-c]x", "dx", "bx"),
        (r"\*", "*", "x"),
        (r"\[x", "[x", "x"),
        ("a*b*c", "axbxc", "ab/c"),
        ("**", "a/b", ""),
        ("**/", "a", ""),
        ("a/**", "a/b/c", "a"),
        ("a/**/b", "a/b", "a/xb"),
        ("a/**/b", "a/x/y/b", "a/x/y/bb"),
        ("**/node_modules", "x/node_modules/y", "node_module"),
        ("**/a/**/b*/c", "x/a/y/bz/c", "x/a/y/z/c"),
        ("**a", "x/ya", "x/ab"),
        ("a**/b", "a/x/b", "ax"),
        ("*\n!*.md", "a.txt", "a.md"),
        ("docs\n!docs/a.md", "docs/b.md", "docs/a.md"),
        ("docs/*\n!docs/a.md", "docs/b.md", "docs/a.md"),
        ("**\n!src/keep", "src/x", "src/keep/a"),
        ("!a\na", "a", "b"),
        ("*.md\n!R*.md\nR-secret.md", "R-secret.md", "README.md"),
        ("a.b", "a.b", "axb"),
        ("a+(b)|c$", "a+(b)|c$", "c$"),
        ("é*", "éa", "ea"),
    ],
)
def test_patterns(patterns: str, ignored: str, stays: str) -> None:
    assert not kept(patterns, ignored)
    assert stays == "" or kept(patterns, stays)


def test_what_decides_below_a_folder_that_is_kept() -> None:
    """As BuildKit walks: ``!a`` says nothing where ``a`` was not ignored."""
    assert not kept("a/b\n!a", "a/b")
    assert kept("a\na/b\n!a", "a/b")


def test_the_order_of_questions_does_not_matter() -> None:
    rules = read_ignore(b"a/*\n!a/b\n**/c\n")
    paths = ["a/b/x", "a", "a/b", "a/b/c", "a/c/d", "a/b/c/d"]
    forth = [rules.kept(path) for path in paths]
    again = read_ignore(b"a/*\n!a/b\n**/c\n")
    assert forth == [again.kept(path) for path in reversed(paths)][::-1]
    assert forth == [True, True, True, False, False, False]


def test_folders_are_entered_where_something_may_be_kept() -> None:
    assert not read_ignore(b"a\n").enters("a")
    assert read_ignore(b"a\n!a/b\n").enters("a")


def test_the_line_that_decided_is_known() -> None:
    found = read_ignore(b"# rules\n*.o\nsrc/*\n!src/a\n").why("src/b/c")
    assert found is not None and (found.line, found.text) == (3, "src/*")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("!", "! stands alone"),
        ("[a", "a [ is not closed"),
        ("a\\", "a backslash at its end"),
        ("[]a]", "] stands alone in [ ]"),
        ("[-a]", "- stands alone in [ ]"),
        ("[b-a]", "the range b-a runs backwards"),
        ("a**b*c*", "** inside a word beside other wildcards"),
        ("a**b**c", "** inside a word beside other wildcards"),
        ("*a**b", "** inside a word beside other wildcards"),
    ],
)
def test_what_is_refused(line: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_ignore(f"ok\n{line}\n".encode())
    assert why in caught.value.message
    assert caught.value.origin == f".dockerignore:2  {line}"


def test_a_dockerfile_may_have_rules_of_its_own() -> None:
    assert ignore_names("sub/web.Dockerfile") == (
        "sub/web.Dockerfile.dockerignore",
        ".dockerignore",
    )


def test_no_pattern_takes_long() -> None:
    for pattern in ("*a" * 40 + "b", "**/*a*a*a*a*b", "**/a/" * 40 + "b", "a**b", "a**a*b"):
        assert kept(pattern, "/".join(["a" * 100] * 30))


def test_what_no_file_can_be_called_is_left_to_who_makes_it() -> None:
    rules = read_ignore(b"**\n")
    assert not rules.kept("x/" + "a" * 255) and rules.why("x/" + "a" * 255)
    assert rules.kept("x/" + "a" * 256) and rules.why("x/" + "a" * 256) is None


def test_fifty_thousand_paths() -> None:
    patterns = [f"**/dir{i}/*.o" for i in range(50)] + ["node_modules", "**/*.pyc", "!keep/**"]
    rules = read_ignore("\n".join(patterns).encode())
    paths = [f"src/p{i % 50}/q{i % 500}/f{i}.{'pyc' if i % 2 else 'py'}" for i in range(50_000)]
    assert sum(map(rules.kept, paths)) == 25_000


@settings(suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.text(alphabet="ab*?[]^-!\\/.# \n", max_size=40), st.text(alphabet="ab/*-.", min_size=1))
def test_any_pattern_is_taken_or_refused(text: str, path: str) -> None:
    try:
        read_ignore(text.encode()).kept(path)
    except CoveError as error:
        assert error.origin
