"""The files of control groups: small texts that are read and written whole."""

from __future__ import annotations

import contextlib
import os
import select

from cove.errors import HostError, Unsupported, UsageError


def set_limit(path: str, value: str, *, what: str, flag: str) -> None:
    """Write a limit; what the kernel refuses is told by the flag it came from."""
    try:
        write(path, value)
    except FileNotFoundError as error:
        raise Unsupported(
            f"cannot {what}: this kernel has no {os.path.basename(path)}", origin=flag
        ) from error
    except OSError as error:
        reason = {22: "not a value the kernel takes", 34: "out of range", 16: "in use"}.get(
            error.errno or 0, (error.strerror or "").lower()
        )
        raise UsageError(
            f"cannot {what}: {reason}", origin=flag, host=f"{value} to {path}"
        ) from error


def write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def read_limit(path: str) -> str:
    """What a limit's file says, empty when there is none."""
    return "".join(read_lines(path)).strip()


def put_back(before: dict[str, str]) -> None:
    """Write limits as they were. Some depend on each other: what is refused is tried again last."""
    for _ in range(2):
        for path, text in before.items():
            with contextlib.suppress(OSError):
                write(path, text or "\n")


def read_text(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = bytearray()
        while part := os.read(fd, 65536):  # the kernel gives a page or so at a time
            data += part
        return data.decode("ascii", "replace")
    finally:
        os.close(fd)


def read_number(path: str, missing: int = 0) -> int:
    """A file of one number; -1 for ``max`` and for v1's way to say it."""
    try:
        text = read_text(path).strip()
    except OSError:
        return missing
    if text == "max":
        return -1
    value = int(text) if text.lstrip("-").isdigit() else missing
    return -1 if value >= 1 << 62 else value


def read_table(path: str) -> dict[str, int]:
    """A file of ``name number`` lines; empty when there is none."""
    try:
        lines = read_text(path).splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def read_lines(path: str) -> list[str]:
    try:
        return read_text(path).splitlines()
    except OSError:
        return []


def make_directory(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)


def remove_directory(path: str) -> bool:
    """With the groups a machine may have made inside its own."""
    try:
        os.rmdir(path)
        return True
    except FileNotFoundError:
        return True
    except OSError:
        pass
    for directory, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return not os.path.exists(path)


def wait_frozen(path: str) -> None:
    """cgroup.events wakes pollers when a group has come to a stop (POLLPRI)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while b"frozen 1" not in os.pread(fd, 4096, 0):
            if not poll.poll(5000):
                raise HostError("cannot pause the machine: it does not come to a stop", host=path)
    finally:
        os.close(fd)
