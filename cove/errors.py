"""Every error of cove, with its exit code and HTTP status; the one form in which errors are shown.

Other rooms raise these; only ``cli`` and ``daemon`` show them. Nothing here imports cove.
"""

from __future__ import annotations

NOT_JSON = (ValueError, RecursionError)
"""What msgspec and json raise for what is damaged or hostile: errors of their own, RecursionError
for a thousand brackets, UnicodeDecodeError for bytes that are no text.
"""


class CoveError(Exception):
    """An error that names what the user asked for.

    ``message`` is ``cannot <verb> <object>: <reason>``: lower case, no full stop. ``origin`` is
    what the user typed, ``host`` the fact that decided, ``hint`` one thing to do.
    """

    exit_code = 125
    status = 500
    several = False
    """Whether the message has lines of its own."""

    def __init__(
        self, message: str, *, origin: str = "", host: str = "", hint: str = "", exit_code: int = 0
    ) -> None:
        super().__init__(message)
        self.message, self.origin, self.host, self.hint = message, origin, host, hint
        if exit_code:
            self.exit_code = exit_code

    def render(self) -> str:
        """The error as shown: one line, then ``from:``, ``host:``, ``hint:`` where known."""
        first = printable(self.message) if self.several else one_line(self.message)
        return "\n".join((f"cove: {first}", *self.__notes__)) + "\n"

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        """A traceback of Python's shows them below the message."""
        told = (("from", self.origin), ("host", self.host), ("hint", self.hint))
        return [f"  {label}: {one_line(text)}" for label, text in told if text]


class UsageError(CoveError):
    """What was typed is not a valid command line or spec."""

    exit_code = 125
    status = 400


class NoCommand(UsageError):
    """Nothing says what to run."""


class Problems(UsageError):
    """Several usage errors, one below the other."""

    several = True


class NotFound(CoveError):
    """A machine, image or snapshot that does not exist."""

    exit_code = 1
    status = 404


class NoSuchImage(NotFound):
    """An image that the store does not have; a registry may."""


class NoSuchNetwork(NotFound):
    """A network that is not there."""

    network = ""


class NoSuchSource(NotFound):
    """A file of the host that a bind names."""

    path = ""


class NoSuchDevice(NotFound):
    """A device of the host that a machine is to have."""

    path = ""
    reason = ""


class Conflict(CoveError):
    """A name that is taken, or a state that forbids the verb."""

    exit_code = 1
    status = 409


class NameTaken(Conflict):
    """A name that another machine or network has."""


class PortTaken(Conflict):
    """A port of the host that somebody else has."""


class Unsupported(CoveError):
    """What cove knows by name and does not do, or what this host cannot do."""

    status = 501


class HostError(CoveError):
    """The host refused: permission, no space, a kernel too old."""

    status = 500


class BadArchive(CoveError):
    """An image archive, layer, manifest or digest that is not what it claims to be."""

    exit_code = 1
    status = 400


class OpError(CoveError):
    """An op of a plan failed in the kernel."""


class Failed(CoveError):
    """A program that was to succeed (``check=True``) did not; ``result`` has what it left."""

    exit_code = 1
    result: object = None


class StepFailed(UsageError):
    """A program that a step of a build ran did not succeed."""

    exit_code = 1
    code = 0
    """Its own."""


class Bug(CoveError):
    """cove's own mistake; the message asks for a report."""

    exit_code = 125


def error_to_json(error: CoveError) -> dict[str, object]:
    """As it goes to other processes."""
    return {
        "error": {
            "class": type(error).__name__,
            "message": error.message,
            "origin": error.origin,
            "host": error.host,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
    }


def printable(text: str) -> str:
    """``text`` with control characters escaped, so that no name can drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def one_line(text: str) -> str:
    """``printable``, and no name can pretend to be another line of an error."""
    return printable(text).replace("\n", "\\n")


def _escaped(char: str) -> str:
    """Bytes that were no UTF-8 are shown as bytes."""
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
