"""``login`` and ``logout``."""

from __future__ import annotations

import os
import select
import termios

from cove.cli.ask import ELSEWHERE, must_go_elsewhere
from cove.cli.command import Command, Typed
from cove.cli.terminal import Gone, Terminal
from cove.client.api import Client
from cove.client.logins import keeper_of
from cove.engine import calls
from cove.engine.calls.ship import RegistryLogin
from cove.errors import UsageError
from cove.oci.auth import Credentials
from cove.oci.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN, parse_reference
from cove.spec.flags import Flag

SECRET_MAX = 64 << 10


def domain_of(server: str) -> str:
    """The registry that ``server`` means: a host, or the URL that older Docker took."""
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    if not server or host in (DEFAULT_DOMAIN, LEGACY_DOMAIN, "registry-1.docker.io"):
        return DEFAULT_DOMAIN
    try:
        if parse_reference(f"{host}/x").domain == host:
            return host
    except UsageError:
        pass
    raise UsageError(f'cannot log in to "{server}": it is no registry\'s host',
                     origin=server, hint="write HOST or HOST:PORT")  # fmt: skip


def login(typed: Typed, terminal: Terminal, client: Client) -> int:
    domain = domain_of(typed.words[0] if typed.words else "")
    user, secret, piped = typed.text("user"), typed.text("password"), typed.on("stdin")
    if piped and secret:
        raise UsageError("cannot log in: --password and --password-stdin are both there",
                         exit_code=1)  # fmt: skip
    if piped and not user:
        raise UsageError("cannot log in: --password-stdin needs --username", exit_code=1)
    if not (user and (secret or piped)) or (piped and terminal.is_terminal(0)):
        if must_go_elsewhere(terminal):
            return ELSEWHERE
        if not terminal.is_terminal(0):
            raise UsageError(
                "cannot log in: nobody is there to be asked for user name and password",
                hint="give both: cove login -u NAME --password-stdin HOST < FILE",
                exit_code=1,
            )
    if secret:
        terminal.error(
            "cove: a password on the command line is seen by everybody on this host: "
            "use --password-stdin\n"
        )
    keeper = keeper_of(terminal.env, terminal.cwd)
    if piped:
        secret = _read(terminal, whole=True)
    user = user or _ask(terminal, "Username: ", hidden=False)
    secret = secret or _ask(terminal, "Password: ", hidden=True)
    if not user or not secret:
        raise UsageError("cannot log in: user name and password are needed", exit_code=1)
    client.registry_login(RegistryLogin(domain, calls.Login(user, secret)), terminal.cancelled)
    if not keeper.keep(domain, Credentials(user, secret)):
        terminal.error(
            f"cove: the password is kept unencrypted in {keeper.path}; a credential helper "
            "(credsStore) keeps it elsewhere\n"
        )
    terminal.write("Login Succeeded\n")
    return 0


def logout(typed: Typed, terminal: Terminal, client: Client) -> int:
    domain = domain_of(typed.words[0] if typed.words else "")
    if keeper_of(terminal.env, terminal.cwd).forget(domain):
        terminal.write(f"Removing login credentials for {domain}\n")
    else:
        terminal.write(f"Not logged in to {domain}\n")
    return 0


def _ask(terminal: Terminal, question: str, *, hidden: bool) -> str:
    """A line of the caller's terminal, which is this process's own."""
    terminal.write(question)
    if not hidden:
        return _read(terminal, whole=False)
    fd = terminal.fds[0]
    before = termios.tcgetattr(fd)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSAFLUSH, quiet)
    try:
        return _read(terminal, whole=False)
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)
        terminal.write("\n")


def _read(terminal: Terminal, *, whole: bool) -> str:
    """One line of standard input, or all of it without its last line's end, as Docker takes it."""
    fd, data = terminal.fds[0], bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while whole or not data.endswith(b"\n"):
        if terminal.cancelled.is_set():
            raise Gone(130)
        if not poll.poll(250):
            continue
        try:
            piece = os.read(fd, 4096 if whole else 1)
        except BlockingIOError:
            continue
        if not piece:
            break
        data += piece
        if len(data) > SECRET_MAX:
            raise UsageError("cannot log in: that is too long for a password", exit_code=1)
    return data.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")


LOGIN = Command(
    "login",
    login,
    help="Log in to a registry",
    flags=(
        Flag("password", "password", "Seen by everybody on this host: see the next", "p", "TEXT"),
        Flag("password-stdin", "stdin", "Take the password from standard input"),
        Flag("username", "user", "User name", "u", "NAME"),
    ),
    words="[HOST[:PORT]]",
    group="Images",
    about="Without a host it is Docker's registry. The login is tried, and kept where `docker "
    "login` keeps it: in a credential helper, or in ~/.docker/config.json, which only its owner "
    "may read. pull, push and run use it.",
)
LOGOUT = Command(
    "logout",
    logout,
    help="Forget the login for a registry",
    words="[HOST[:PORT]]",
    group="Images",
)
COMMANDS = {"login": LOGIN, "logout": LOGOUT}
