"""Expansion of variables: every modifier, quotes and escapes, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cove.build.expand.lexer import (
    WORD_MAX,
    BadExpansion,
    expand,
    expand_text,
    expand_words,
)

ENV = {"home": "/home/me", "empty": "", "name": "cove", "two": "a  b", "glob": "*/", "é": "accent"}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("plain", "plain"),
        ("$name", "cove"),
        ("x${name}y", "xcovey"),
        ("$none", ""),
        ("$named", ""),
        ("$é.", "accent."),
        ("a$.b", "a$.b"),
        ("a$", "a$"),
        ("$$x", "x"),
        ("$1name", "name"),
        ("$12", ""),
        (r"\$name", "$name"),
        (r"\\$name", r"\cove"),
        ("'$name'", "$name"),
        (r"'\'", "\\"),
        ('"$name"', "cove"),
        (r'"\$name \x \""', r'$name \x "'),
        ('"it\'s"', "it's"),
        ("a'b c'd", "ab cd"),
        ("end\\", "end"),
        ("${none:-w}", "w"),
        ("${empty:-w}", "w"),
        ("${name:-w}", "cove"),
        ("${none-w}", "w"),
        ("${empty-w}", ""),
        ("${none:-}", ""),
        ("${none:-$name}", "cove"),
        ("${none:-${other:-x}y}z", "xyz"),
        ("${none:-'a}b'}", "a}b"),
        (r"${none:-a\}b}", "a}b"),
        ("${none-a}}", "a}"),
        ("${none:+w}", ""),
        ("${empty:+w}", ""),
        ("${empty+w}", "w"),
        ("${name:+w}", "w"),
        ("${none+w}", ""),
        ("${name:?w}", "cove"),
        ("${empty?w}", ""),
        ("${1:-x}", "x"),
        ("${@:-x}", "x"),
        ("${-}", ""),
        ("${home#*/}", "home/me"),
        ("${home##*/}", "me"),
        ("${home%/*}", "/home"),
        ("${home%%/*}", ""),
        ("${home#x}", "/home/me"),
        ("${home#}", "/home/me"),
        ("${home#/h?me}", "/me"),
        (r"${home%\/me}", "/home"),
        ("${none%x}", ""),
        ("${home/me/you}", "/hoyou/me"),
        ("${home//m?/X}", "/hoX/X"),
        ("${home/*m/X}", "Xe"),
        ("${home//e}", "error"),
        ("${home///-}", "-/-h-o-m-e-/-m-e-"),
        ("${name/o*/}", "c"),
        ("${name//*/x}", "x"),
        (r"${glob/\*/x}", "x/"),
        ("${home/$name/x}", "/home/me"),
    ],
)
def test_what_comes_out(text: str, want: str) -> None:
    try:
        assert expand(text, ENV).text == want
    except BadExpansion:
        assert want == "error"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("'a", "a ' is not closed"),
        ('"a', 'a " is not closed'),
        ('"a\\"', 'a " is not closed'),
        ("${", "${ is not followed by a name"),
        ("${}", "${ is not followed by a name"),
        ("${:-x}", "${ is not followed by a name"),
        ("${{x}", "${ is not followed by a name"),
        ("${.}", "has no known modifier"),
        ("${name", "has no known modifier"),
        ("${name=x}", "has no known modifier"),
        ("${name:=x}", "has no known modifier"),
        ("${name:#x}", "has no known modifier"),
        ("${name^^}", "has no known modifier"),
        ("${name:-x", '"}" is missing'),
        ("${name/x}", '"/" is missing'),
        ("${none?}", "none is not set"),
        ("${none:?give it}", "give it"),
        ("${empty:?}", "empty is empty"),
        ("${none:-${other?}}", "other is not set"),
        (r"${name#\c}", r"nothing is escaped by \c"),
        ("${name#" + "x" * 2000 + "}", "a pattern of more than 1024"),
        ("${a:-" * 100, "more than 64 deep"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadExpansion, match=r".*") as caught:
        expand(text, ENV)
    assert why in str(caught.value)


def test_a_required_variable_is_suggested() -> None:
    with pytest.raises(BadExpansion) as caught:
        expand("${nmae?}", ENV)
    assert caught.value.hint == "did you mean name?"


def test_which_variables_were_used_and_which_missed() -> None:
    found = expand("$name ${none:-$other} ${home:+x}", ENV)
    assert (found.used, found.missing) == ({"name", "home"}, {"none", "other"})


def test_the_escape_character_is_the_files() -> None:
    assert expand("`$name \\$name", ENV, escape="`").text == "$name \\cove"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("80 443", ("80", "443")),
        ("$two", ("a", "b")),
        ('"$two"', ("a  b",)),
        ("x$two", ("xa", "b")),
        ("x${none:-c} d", ("xc", "d")),
        (r"a\ b", ("a b",)),
        ("", ()),
        ("$empty '' x", ("x",)),
    ],
)
def test_words(text: str, want: tuple[str, ...]) -> None:
    assert expand_words(text, ENV) == want


def test_a_document_keeps_its_quotes() -> None:
    assert expand_text("'$name' \"\\$name\" it's\n", ENV).text == "'cove' \"$name\" it's\n"


def test_a_value_is_never_expanded_again() -> None:
    assert expand("$a", {"a": "$a$a"}).text == "$a$a"


def test_growth_ends() -> None:
    env = {"a": "x" * 10}
    with pytest.raises(BadExpansion, match="longer than 128 KiB"):
        for _ in range(100):
            env["a"] = expand("$a$a", env).text
    assert len(env["a"]) <= WORD_MAX


def test_patterns_do_not_explode() -> None:
    env = {"a": "a" * 50_000}
    for pattern in ("#" + "*a" * 30 + "b", "%%b" + "a*" * 30, "//" + "a*" * 30 + "b/x"):
        assert expand(f"${{a{pattern}}}", env).text == env["a"]


@settings(suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.text(alphabet="ab$\\{}:-+?#%/*'\"` <", max_size=60))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    for escape in "\\`":
        for function in (expand, expand_words):
            try:
                function(text, {"a": "xaby", "b": "*?"}, escape=escape)
            except BadExpansion as error:
                assert str(error)
