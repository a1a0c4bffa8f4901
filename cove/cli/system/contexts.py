"""``context``: where Docker's own command finds this cove."""

from __future__ import annotations

from cove.cli.command import Command, Typed
from cove.cli.each import each
from cove.cli.machines import inspect
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.client.contexts import DEFAULT, Contexts, new_context, parse_context_name
from cove.client.logins import keeper_of
from cove.errors import Unsupported, UsageError
from cove.shown import table
from cove.shown.template import Record
from cove.spec.flags import Flag

HEADINGS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "DockerEndpoint": "DOCKER ENDPOINT",
    "Error": "ERROR",
}
LISTING = table.Listing(
    HEADINGS | {"Current": ""},
    "{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
    "Name",
)
OWN = "cove"
DESCRIBED = "Machines of cove"
OF_DEFAULT = "Current DOCKER_HOST based configuration"


def contexts_of(terminal: Terminal) -> Contexts:
    return Contexts(keeper_of(terminal.env, terminal.cwd))


def parse_endpoint(text: str) -> str:
    """``host=…`` of what Docker takes; keys and certificates are for its own command to copy."""
    host = ""
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if name in ("ca", "cert", "key", "skip-tls-verify", "from"):
            raise Unsupported(
                f'cannot put "{name}" into a context: cove copies no keys',
                hint="docker context create does, and its contexts are listed here as well",
            )
        if name != "host" or not equals:
            raise UsageError(f'cannot read "{part}": an endpoint is host=URL')
        host = value
    if not host.startswith(("unix:///", "tcp://", "ssh://", "http://", "https://")):
        raise UsageError(f'cannot use "{host}" as an address: not unix:///PATH, tcp://… or ssh://…')
    return host


def create(typed: Typed, terminal: Terminal, client: Client) -> int:
    name = parse_context_name(typed.words[0] if typed.words else OWN, "create")
    contexts = contexts_of(terminal)
    host = typed.text("docker") or f"unix://{client.info().docker_socket}"
    contexts.write(new_context(name, host, typed.text("description", DESCRIBED)), anew=False)
    terminal.write(f"{name}\n")
    terminal.error(f'Successfully created context "{name}"\n')
    return 0


def update(typed: Typed, terminal: Terminal, client: Client) -> int:
    name, contexts = parse_context_name(typed.words[0], "update"), contexts_of(terminal)
    found = contexts.find(name)
    host = typed.text("docker", found.host)
    contexts.write(found.changed(host, typed.text("description", found.description)), anew=True)
    terminal.write(f"{name}\n")
    terminal.error(f'Successfully updated context "{name}"\n')
    return 0


def use(typed: Typed, terminal: Terminal, client: Client) -> int:
    (name,) = typed.words
    contexts_of(terminal).choose(name)
    terminal.write(f"{name}\n")
    if terminal.env.get("DOCKER_HOST") and name != DEFAULT:
        terminal.error(
            "Warning: DOCKER_HOST environment variable overrides the active context. "
            f'To use "{name}", either set the global --context flag, or unset DOCKER_HOST '
            "environment variable.\n"
        )
    terminal.error(f'Current context is now "{name}"\n')
    return 0


def show(typed: Typed, terminal: Terminal, client: Client) -> int:
    terminal.write(f"{_current(terminal, contexts_of(terminal))}\n")
    return 0


def _current(terminal: Terminal, contexts: Contexts) -> str:
    """As Docker's command chooses."""
    if terminal.env.get("DOCKER_HOST"):
        return DEFAULT
    return terminal.env.get("DOCKER_CONTEXT") or contexts.current


def ls(typed: Typed, terminal: Terminal, client: Client) -> int:
    contexts = contexts_of(terminal)
    current = _current(terminal, contexts)
    rows = [
        Record(
            Name=context.name,
            Description=OF_DEFAULT if context.name == DEFAULT else context.description,
            DockerEndpoint=context.host,
            Current=context.name == current,
            Error="",
        )
        for context in contexts.every()
    ]
    terminal.write(table.render(rows, LISTING, typed.text("format"), quiet=typed.on("quiet")))
    return 0


def inspect_(typed: Typed, terminal: Terminal, client: Client) -> int:
    contexts = contexts_of(terminal)

    def document(name: str) -> Record:
        tls = contexts.place(name, "tls")
        place = {"MetadataPath": contexts.place(name), "TLSPath": tls}
        if name == DEFAULT:
            place = {"MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>"}
        keys = {"TLSMaterial": contexts.keys(name), "Storage": Record(place)}
        return Record(contexts.find(name).document | keys)

    words = typed.words or (_current(terminal, contexts),)
    return inspect.each(Typed(typed.values, words, typed.flags), terminal, document)


def remove(typed: Typed, terminal: Terminal, client: Client) -> int:
    contexts = contexts_of(terminal)

    def one(name: str) -> str:
        contexts.remove(parse_context_name(name, "remove"), force=typed.on("force"))
        return name

    return each(typed.words, terminal, one, lenient=False)


# ---- the commands ----

GROUP = "cove"
DESCRIPTION = Flag("description", "description", "What it is", "", "TEXT")
ENDPOINT = Flag("docker", "docker", "Where the daemon is: host=URL", "", "host=URL", parse_endpoint)

CREATE = Command(
    "create",
    create,
    help="Make a context that leads here",
    flags=(DESCRIPTION, ENDPOINT),
    words="[CONTEXT]",
    refused={
        "default-stack-orchestrator": ("cove has no swarm", True),
        "from": ("cove copies no contexts: docker context create does", True),
        "kubernetes": ("cove has no Kubernetes", True),
    },
    about=f'Without a name it is "{OWN}"; without --docker it leads to the socket that cove system '
    "docker-socket names.",
)
UPDATE = Command(
    "update", update, help="Change where a context leads", flags=(DESCRIPTION, ENDPOINT),
    words="CONTEXT",
)  # fmt: skip
USE = Command(
    "use",
    use,
    help="Have Docker's own command use a context",
    words="CONTEXT",
    about=f'"{DEFAULT}" is what Docker does without any.',
)
SHOW = Command("show", show, help="Which context Docker's own command uses")
LS = Command(
    "ls",
    ls,
    help="List contexts",
    flags=(
        Flag("format", "format", "table, json, or a template: {{.Name}}", "", "FORMAT"),
        Flag("quiet", "quiet", "Only names", "q"),
    ),
)
INSPECT = Command(
    "inspect", inspect_, help="All about contexts", flags=(inspect.FORMAT,), words="[CONTEXT...]",
)  # fmt: skip
RM = Command(
    "rm",
    remove,
    help="Remove contexts",
    flags=(Flag("force", "force", "Also the one in use", "f"),),
    words="CONTEXT [CONTEXT...]",
)
GROUPED = {
    "create": CREATE, "update": UPDATE, "use": USE, "show": SHOW, "ls": LS, "list": LS,
    "inspect": INSPECT, "rm": RM, "remove": RM,
}  # fmt: skip
