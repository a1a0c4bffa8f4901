"""``cove-python``: what runs when the C front could not hand the command to a daemon.

With no daemon it starts one and becomes the front again; otherwise it runs the command line in this
process, over HTTP. It must import nothing heavy before the daemon is on its way: the first command
has 400 ms.
"""

from __future__ import annotations

import os
import sys

from cove.client.spawn import DEFAULT_ROOT, CannotStart, cannot_start, own_uid, start_daemon

ATTEMPTS, ATTEMPT_SECONDS = 3, 5.0


def main() -> int:
    """The entry point; its answer is the exit code."""
    why = os.environ.pop("COVE_WHY", "")
    front = os.environ.pop("COVE_FRONT", "")
    guarded = os.environ.pop("COVE_NO_START", "")
    root = os.path.abspath(os.environ.get("COVE_ROOT") or DEFAULT_ROOT)
    if why in ("host", "refused") or os.environ.get("COVE_HOST") or _is_local(sys.argv):
        return _run_here(root)
    try:
        if why == "version":
            _count_attempts()
        if why == "denied":
            raise _denied(root)
        if guarded and why != "version":
            raise cannot_start(
                "cannot reach the daemon: it was started and is gone again",
                hint=f"its last words are in {root}/run/daemon.log",
            )
        start_daemon(root)
    except CannotStart as error:
        sys.stderr.write(str(error))
        return 125
    except KeyboardInterrupt:
        return 130
    if front:
        os.execve(front, ["cove", *sys.argv[1:]], os.environ | {"COVE_NO_START": "1"})
    return _run_here(root)


def _count_attempts() -> None:
    """A daemon sends a front away once or twice when it is replaced; for ever, when they cannot
    understand each other.
    """
    import time

    count, _, last = os.environ.get("COVE_ATTEMPTS", "0:0").partition(":")
    now = time.time()
    number = int(count) + 1 if now - float(last or 0) < ATTEMPT_SECONDS else 1
    if number > ATTEMPTS:
        raise cannot_start(
            "cannot hand the command to the daemon: it is of another version of cove",
            hint="cove daemon stop: machines go on, and the next command starts the new one",
        )
    os.environ["COVE_ATTEMPTS"] = f"{number}:{now}"


def _denied(root: str) -> CannotStart:
    return cannot_start(
        f"cannot reach the daemon: permission denied for {root}/run/front.sock",
        host=own_uid(),
        hint="run it with sudo" if os.geteuid() else "check who owns the state directory",
    )


def _is_local(argv: list[str]) -> bool:
    """Words that start no daemon: help, and questions about the daemon itself."""
    words = iter(argv[1:])
    for word in words:
        if word in ("--root", "--host", "-H"):
            next(words, "")
        elif word in ("--help", "-h"):
            return True
        elif word in ("completion", "__complete"):
            return True  # a key pressed in a shell starts nothing
        elif word == "daemon":
            return next(words, "") != "start"
        elif not word.startswith("-"):
            return word == "help"
    return True


def _run_here(root: str) -> int:
    from cove.cli.local import main as run

    return run(sys.argv[1:], root)


if __name__ == "__main__":
    sys.exit(main())
