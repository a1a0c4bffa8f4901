"""Which files a COPY takes and where they go, without a file."""

from __future__ import annotations

import pytest

from cove.build.files.entries import FILE, FOLDER, LINK, Entry, Files, clean
from cove.build.files.modes import changed
from cove.build.files.select import Owner, Place, digest_of, restyled, select, select_parents
from cove.build.files.wanted import Wanted
from cove.build.ignore import read_ignore
from cove.errors import BadArchive

TREE = Files(
    [
        Entry("a.txt", FILE, digest="a"),
        Entry("b.txt", FILE, digest="b"),
        Entry("src", FOLDER, 0o750),
        Entry("src/app.py", FILE, digest="app"),
        Entry("src/lib", FOLDER, 0o755),
        Entry("src/lib/x.py", FILE, digest="x"),
        Entry("src/link", LINK, link="../a.txt"),
        Entry("current", LINK, link="src"),
        Entry("out", LINK, link="../../etc/passwd"),
        Entry("round", LINK, link="round"),
        Entry("abs", LINK, link="/src/lib"),
        Entry("deep/er/f", FILE, digest="f"),
    ]
)
NEW = Place("app", folder=False, exists=False)
INTO = Place("app", folder=True, exists=True)


def taken(path: str, place: Place, *exclude: str) -> dict[str, str]:
    ignore = read_ignore("\n".join(exclude).encode()) if exclude else None
    return {one.target: one.entry.path for one in select(TREE, path, place, ignore)}


@pytest.mark.parametrize(
    ("path", "place", "found"),
    [
        ("a.txt", NEW, {"app": "a.txt"}),
        ("a.txt", INTO, {"app/a.txt": "a.txt"}),
        ("*.txt", INTO, {"app/a.txt": "a.txt", "app/b.txt": "b.txt"}),
        ("src/lib", INTO, {"app/x.py": "src/lib/x.py"}),
        ("src/lib", NEW, {"app": "", "app/x.py": "src/lib/x.py"}),
        ("abs", INTO, {"app/x.py": "src/lib/x.py"}),
        ("current/app.py", INTO, {"app/app.py": "src/app.py"}),
        ("src/link", INTO, {"app/link": "a.txt"}),
        ("out", INTO, {}),
        ("round", INTO, {}),
        ("none", INTO, {}),
        ("a.txt/x", INTO, {}),
        ("deep", INTO, {"app/er": "deep/er", "app/er/f": "deep/er/f"}),
        ("s*", INTO, {"app/app.py": "src/app.py", "app/lib": "src/lib",
                      "app/lib/x.py": "src/lib/x.py", "app/link": "src/link"}),
        ("*/*.py", INTO, {"app/app.py": "src/app.py"}),
        ("**/*.py", INTO, {"app/app.py": "src/app.py", "app/x.py": "src/lib/x.py"}),
    ],
)  # fmt: skip
def test_what_a_source_means(path: str, place: Place, found: dict[str, str]) -> None:
    assert taken(path, place) == found


def test_what_is_excluded_stays() -> None:
    assert taken("src", INTO, "lib", "*.py") == {"app/link": "src/link"}
    assert taken("src", INTO, "**/*.py", "!app.py") == {
        "app/app.py": "src/app.py", "app/lib": "src/lib", "app/link": "src/link",
    }  # fmt: skip


def test_parents_come_along() -> None:
    found = select_parents(TREE, "", "src/lib/*.py", INTO, None)
    assert [one.target for one in found] == ["app/src", "app/src/lib", "app/src/lib/x.py"]
    assert found[0].entry.mode == 0o750
    found = select_parents(TREE, "src", "lib/x.py", INTO, None)
    assert [one.target for one in found] == ["app/lib", "app/lib/x.py"]


@pytest.mark.parametrize(
    ("mode", "text", "folder", "result"),
    [
        (0o644, "755", False, 0o755),
        (0o644, "0600", False, 0o600),
        (0o644, "+x", False, 0o755),
        (0o600, "u=rwX,go=rX", False, 0o644),
        (0o700, "u=rwX,go=rX", True, 0o755),
        (0o755, "go-w,o=", False, 0o750),
        (0o640, "o=g", False, 0o644),
        (0o755, "u+s", False, 0o4755),
        (0o777, "a-x+X", True, 0o777),
        (0o755, "+t", True, 0o1755),
    ],
)
def test_modes_are_changed_as_chmod_does(mode: int, text: str, folder: bool, result: int) -> None:
    assert oct(changed(mode, text, folder=folder)) == oct(result)


def test_times_are_not_what_the_cache_looks_at() -> None:
    one = select(Files([Entry("f", FILE, mtime_ns=1, digest="x")]), "f", INTO, None)
    two = select(Files([Entry("f", FILE, mtime_ns=2, digest="x")]), "f", INTO, None)
    three = select(Files([Entry("f", FILE, mtime_ns=1, digest="y")]), "f", INTO, None)
    assert digest_of(one) == digest_of(two) != digest_of(three)
    assert digest_of(restyled(one, Owner(1, 1), "")) != digest_of(one)
    assert digest_of(restyled(one, None, "700")) != digest_of(one)


def test_names_lead_nowhere_but_into_the_tree() -> None:
    assert clean("./a//b/.", "it") == "a/b"
    assert clean("/etc/passwd", "it") == "etc/passwd"
    for bad in ("../x", "a/../../x", "a\0b", "a/" * 3000):
        with pytest.raises(BadArchive):
            clean(bad, "it")


def test_what_an_archive_puts_below_a_file_or_a_link_is_not_there() -> None:
    tree = Files([Entry("x", LINK, link="/etc"), Entry("x/passwd", FILE), Entry("f", FILE),
                  Entry("f/g", FILE)])  # fmt: skip
    assert [one.path for one in tree.below("")] == ["f", "x"]
    assert tree.resolve("f/g") is None


@pytest.mark.parametrize(
    ("patterns", "takes", "enters"),
    [
        (("/src",), ["src"], []),
        (("/src/*.py",), ["src/a.py"], ["src"]),
        (("/a/b/c",), ["a/b/c"], ["a", "a/b"]),
        (("/**/x",), ["x", "a/b/x"], ["a", "a/b"]),
        (("/a*/b",), ["a/b", "ax/b"], ["a", "ax"]),
    ],
)
def test_what_is_read_of_a_context(
    patterns: tuple[str, ...], takes: list[str], enters: list[str]
) -> None:
    wanted = Wanted(patterns, None)
    every = {"src", "src/a.py", "src/a.c", "a", "a/b", "a/b/c", "x", "a/b/x", "ax", "ax/b", "z"}
    assert sorted(p for p in every if wanted.takes(p, inside=False)) == sorted(takes)
    for path in enters:
        assert wanted.enters(path)
    assert not wanted.enters("z") or "**" in patterns[0]


def test_all_of_a_context() -> None:
    wanted = Wanted(("/",), read_ignore(b"node_modules\n*.log\n!keep.log\n"))
    assert wanted.takes("any/thing", inside=False)
    assert wanted.kept("keep.log") and not wanted.kept("x.log")
    assert wanted.looks_into("node_modules")  # because of !
