"""What git is told: addresses and logins, protocols, settings."""

from __future__ import annotations

import pytest

from cove.build.source import Place, fault, misfit
from cove.git.settings import environment, read_address, settings, ssh_command
from cove.oci.logins import redacted


def test_an_address_is_read_without_its_login() -> None:
    found = read_address("HTTPS://me:a%40b%3A@h.example:8443/x.git")
    assert found is not None and found.login == ("me", "a@b:")
    assert found.url == "https://h.example:8443/x.git"
    assert (found.host, found.port, found.place) == ("h.example", 8443, "h.example:8443")
    for text, login in (
        ("https://token@h/x.git", ("token", "")),
        ("https://:p@h/x.git", ("", "p")),
        ("https://h/x@y.git", None),
        ("git://me@[::1]/x", None),
    ):
        other = read_address(text)
        assert other is not None and other.login == login, text
    told = environment(found, "/h", "/t")
    words = " ".join(f"{name}={value}" for name, value in settings(found, 1, 2).items())
    assert "a@b" not in words and "a@b:" in told.values()
    assert "credential.https://h.example:8443.helper=" in words


@pytest.mark.parametrize(
    "text",
    [
        "git://h:99999/x", "git://h:x/y", "git://h", "git://h/", "git:///x", "git://[h/x",
        "https://u:p@h.helper=!touch/x.git", "https://*/x.git", "https://h /x.git",
        "https://u%0apath=x:p@h/x.git", "https://u:p%00@h/x.git", "ftp://h/x", "h/x", "",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    assert read_address(text) is None


def test_https_leads_to_https_alone() -> None:
    for remote, allowed in (
        ("https://h/x.git", "https"),
        ("http://h/x.git", "http:https:git"),
        ("git://h/x.git", "git:http:https"),
    ):
        address = read_address(remote)
        assert address is not None
        assert environment(address, "", "")["GIT_ALLOW_PROTOCOL"] == allowed


def test_gits_own_protocol_goes_by_its_door() -> None:
    address = read_address("git://h:1234/x.git")
    assert address is not None and address.url == "git://h:1234/x.git"
    assert settings(address, 1, 2)["url.git://127.0.0.1:2/.insteadOf"] == "git://h:1234/"
    assert environment(address, "", "")["GIT_OVERRIDE_VIRTUAL_HOST"] == "h:1234"


def test_logins_are_hidden() -> None:
    for text, shown in (
        ("ADD https://u:p@h/x.git#a:b /x/", "ADD https://xxxxx:xxxxx@h/x.git#a:b /x/"),
        ("ADD https://t@h/x https://h/a@b /x", "ADD https://xxxxx@h/x https://h/a@b /x"),
        ('ADD ["https://h","a@b"]', 'ADD ["https://h","a@b"]'),
        ("ADD https://u:p@q@h/x /", "ADD https://xxxxx:xxxxx@h/x /"),
        ("ADD git@h:x /", "ADD git@h:x /"),
    ):
        assert redacted(text) == shown


@pytest.mark.parametrize("lead", ["", "a" * 100], ids=["short", "cut in the login"])
def test_an_error_of_a_dockerfile_shows_no_login(lead: str) -> None:
    word = f"https://me:hush-hush@h/{lead}x"
    place = Place("Dockerfile", 2, 2, f"ADD {lead} {word} /x")
    for say in (fault, misfit):
        error = say(place, f"{word} is answered with 404", hint=f"look at {word}")
        assert "xxxxx:xxxxx@h" in error.message and "xxxxx" in error.hint
        assert "ADD " in error.origin
        assert "hush" not in error.message + error.origin + error.hint


def test_addresses_over_ssh() -> None:
    for text, host, port, front, behind in (
        (
            "ssh://git@h.example/a/b",
            "h.example",
            22,
            "ssh://git@h.example/",
            "ssh://git@127.0.0.1/",
        ),
        ("ssh://H:2222/~/b", "h", 2222, "ssh://H:2222/", "ssh://127.0.0.1/"),
        ("git@H.example:a/b.git", "h.example", 22, "git@H.example:", "git@127.0.0.1:"),
    ):
        found = read_address(text)
        assert found is not None and (found.host, found.port) == (host, port), text
        assert (found.front, found.behind, found.url, found.login) == (front, behind, text, None)
        assert settings(found, 1, 2)[f"url.{behind}.insteadOf"] == front
        assert environment(found, "", "")["GIT_ALLOW_PROTOCOL"] == "ssh:https"
        said = ssh_command(found, 7, "/p")
        assert "StrictHostKeyChecking=yes" in said and "UserKnownHostsFile=/p/known_hosts" in said
        assert f"HostKeyAlias={host}" in said or f"'HostKeyAlias=[{host}]:{port}'" in said


@pytest.mark.parametrize(
    "text",
    [
        "ssh://a:b@h/x", "ssh://-oProxyCommand=x/y", "ssh://-l@h/x", "ssh://a b@h/x", "ssh://h",
        "git@-oProxyCommand=x:y", "-l@h:x", "git@h:-x", "git@h:", "git@h:x\n", "git@[::1]:x",
    ],
)  # fmt: skip
def test_what_is_no_address_over_ssh(text: str) -> None:
    assert read_address(text) is None
