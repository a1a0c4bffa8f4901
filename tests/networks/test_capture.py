"""``cove network capture``: what passes a network or a machine's links, in a file for others."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import need
from tests.driver import Cove, wait_until
from tests.networks.conftest import Host, machine, network, run

HEADER = struct.Struct("=IHHiIII")
RECORD = struct.Struct("=IIII")
ECHO = 8

Packet = tuple[int, int, bytes]


def packets(file: Path | bytes) -> list[Packet]:
    """Nanoseconds, length on the wire, what is kept; whole to the last byte."""
    data = file if isinstance(file, bytes) else file.read_bytes()
    magic, major, minor, zone, _, snaplen, kind = HEADER.unpack_from(data)
    assert (magic, major, minor, zone, kind) == (0xA1B23C4D, 2, 4, 0, 1)
    found, at = [], HEADER.size
    while at < len(data):
        seconds, nanoseconds, kept, size = RECORD.unpack_from(data, at)
        at += RECORD.size
        assert nanoseconds < 10**9 and kept == min(size, snaplen) and at + kept <= len(data)
        found.append((seconds * 10**9 + nanoseconds, size, data[at : at + kept]))
        at += kept
    return found


def echoes(found: list[Packet], source: str, target: str) -> int:
    """Echo requests from one to the other."""
    pair = socket.inet_aton(source) + socket.inet_aton(target)
    return sum(
        data[12:14] == b"\x08\x00" and data[26:34] == pair and data[34] == ECHO
        for _, _, data in found
    )


@contextlib.contextmanager
def capturing(
    cove: Cove, target: str, file: Path, *flags: str
) -> Iterator[subprocess.Popen[bytes]]:
    """It listens from here on; ended by Ctrl-C, unless it has ended."""
    process = cove.spawn("network", "capture", target, "-w", str(file), *flags)
    wait_until(lambda: file.exists() and file.stat().st_size >= HEADER.size, "its header")
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)


def told(process: subprocess.Popen[bytes]) -> str:
    said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, said
    return said.splitlines()[-1]


def test_a_network_and_a_machine(cove: Cove, clean: None, tmp_path: Path) -> None:
    """Everything between two machines, once on the bridge and once on each link; in order, in a
    file of the caller's alone.
    """
    need("tshark")
    with (
        network(cove, "web"),
        machine(cove, "one", "web") as one,
        machine(cove, "two", "web") as two,
    ):
        files = [tmp_path / name for name in ("web", "one")]
        with capturing(cove, "web", files[0]) as first, capturing(cove, "one", files[1]) as second:
            assert cove("exec", "one", "ping", "-c3", "-W60", two).out
            for file in files:  # what is under way is written before the end is asked for
                wait_until(lambda file=file: len(replies(file, two, one)) >= 3, "three answers")
        lines = [told(process) for process in (first, second)]
        for file, line in zip(files, lines, strict=True):
            found = packets(file)
            assert echoes(found, one, two) == 3
            assert [when for when, _, _ in found] == sorted(when for when, _, _ in found)
            assert line == f"cove: captured {len(found)} packets, missed 0"
            assert file.stat().st_mode & 0o777 == 0o600
        shown = run("tshark", "-r", str(files[0]), "-Y", "icmp.type == 8")
        assert len(shown.splitlines()) == 3


def replies(file: Path, source: str, target: str) -> list[bytes]:
    """Of a file that is being written."""
    pair = socket.inet_aton(source) + socket.inet_aton(target)
    return file.read_bytes().split(pair)[1:]


def test_a_machine_that_routes_between_two_networks(
    cove: Cove, clean: None, tmp_path: Path
) -> None:
    """Both of its links are in one file: what it routes comes and goes."""
    with (
        network(cove, "web", "--internal", "--subnet", "10.61.0.0/24"),
        network(cove, "db", "--internal", "--subnet", "10.62.0.0/24"),
        machine(cove, "router", "web", "--network", "db", "--sysctl", "net.ipv4.ip_forward=1"),
        machine(cove, "one", "web", "--cap-add", "NET_ADMIN") as one,
        machine(cove, "two", "db", "--cap-add", "NET_ADMIN") as two,
    ):
        file = tmp_path / "router"
        with capturing(cove, "router", file) as process:
            via = cove.inspect("router")["NetworkSettings"]["Networks"]
            for name, net, target in (
                ("one", "web", "10.62.0.0/24"),
                ("two", "db", "10.61.0.0/24"),
            ):
                cove("exec", name, "ip", "route", "add", target, "via", via[net]["IPAddress"])
            # Its walls let it send from its own address alone: a forged sender is not carried on.
            cove("exec", "one", "ping", "-c1", "-W1", two, code=1)
            wait_until(lambda: len(replies(file, one, two)) >= 2, "both ways of one packet")
        said = told(process)
        assert echoes(packets(file), one, two) == 2
        assert "missed 0" in said


def test_so_many_packets_to_standard_output(cove: Cove, clean: None, tmp_path: Path) -> None:
    with network(cove, "web") as gateway, machine(cove, "one", "web"):
        out = tmp_path / "out"
        with open(out, "wb") as file:
            words = ("network", "capture", "one", "-w", "-", "--count", "4", "--snaplen", "60")
            process = cove.spawn(*words, stdout=file)
            wait_until(lambda: out.stat().st_size >= HEADER.size, "its header")
            cove("exec", "one", "ping", "-c5", "-W60", gateway)
            assert told(process) == "cove: captured 4 packets, missed 0"
        found = packets(out)
        assert len(found) == 4 and all(len(data) <= 60 for _, _, data in found)
        assert any(size > 60 for _, size, _ in found)


def test_nobody_reads_it_any_more(cove: Cove, clean: None) -> None:
    with network(cove, "web"), machine(cove, "one", "web"):
        process = cove.spawn("network", "capture", "one", "-w", "-")
        assert process.stdout is not None and len(process.stdout.read(HEADER.size)) == HEADER.size
        process.stdout.close()
        process.wait(120)
        assert process.stderr is not None
        process.stderr.close()


def test_a_reader_that_is_slow_holds_up_nothing(cove: Cove, clean: None) -> None:
    """Not even the end."""
    with network(cove, "web") as gateway, machine(cove, "one", "web"):
        process = cove.spawn("network", "capture", "one", "-w", "-")
        assert process.stdout is not None and process.stderr is not None
        assert len(process.stdout.read(HEADER.size)) == HEADER.size
        cove("exec", "one", "ping", "-c60", "-i0.01", "-s60000", gateway)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0  # while the pipe is full
        assert b"captured" in process.stderr.read()
        process.stdout.close()
        process.stderr.close()


def test_what_is_looked_at_goes_away(cove: Cove, clean: None, tmp_path: Path) -> None:
    with network(cove, "web"):
        with machine(cove, "one", "web"), contextlib.ExitStack() as stack:
            link = stack.enter_context(capturing(cove, "one", tmp_path / "one"))
            cove("rm", "-f", "one")
            assert told(link).endswith("; one is gone")
            cove("run", "-d", "--name", "one", "--network", "web", "bb", "sleep", "1000")
        with capturing(cove, "web", tmp_path / "web") as bridge:
            bridge_name = cove("network", "inspect", "-f", "{{.Bridge}}", "web").out.strip()
            run("ip", "link", "del", bridge_name)
            assert told(bridge).endswith("; web is gone")


def test_a_tag_is_where_it_was(cove: Cove, clean: None, tmp_path: Path) -> None:
    """The kernel takes a VLAN's tag out of a packet: it is put back."""
    tagged = b"\x81\x00\x00\x2a\x88\xb5"
    frame = b"\xff" * 6 + b"\x02\0\0\0\0\x01" + tagged + b"x" * 60
    with network(cove, "web"), machine(cove, "one", "web"):
        with capturing(cove, "one", tmp_path / "one", "-c", "1000000") as process:
            cove("exec", "one", "probe", "frames", "eth0", frame.hex())
            wait_until(lambda: tagged in (tmp_path / "one").read_bytes(), "the frame")
        told(process)
        found = [data for _, _, data in packets(tmp_path / "one") if data[12:18] == tagged]
        assert found == [frame]


def test_what_cannot_be_captured(cove: Cove, clean: None, host: Host, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")

    def refused(target: str, *flags: str) -> str:
        words = ("network", "capture", target, *(flags or ("-w", str(file))))
        done = cove(*words, code=None)
        assert done.returncode in (1, 125) and done.out == ""
        return done.err

    assert "no such network or machine" in refused("web")
    assert "it is no network of cove's" in refused("host")
    with network(cove, "web"):
        assert "no machine has been on it yet" in refused("web")
        with machine(cove, "one", "web"):
            # Nobody shares a guest's network: of both kinds here it is a container's.
            box = ("run", "-d", "--isolation", "container", "--name")
            cove(*box, "base", "--network", "web", "bb", "sleep", "1000")
            cove(*box, "side", "--network", "container:base", "bb", "sleep", "1000")
            assert "shares the network of another machine" in refused("side")
            cove("rm", "-f", "side", "base")
            cove("run", "-d", "--name", "web", "bb", "sleep", "1000")
            assert "a network and a machine have this name" in refused("web")
            cove("rename", "web", "alone")
            assert "it is on no network" in refused("alone")
            cove("stop", "-t", "0", "alone")
            assert "it does not run" in refused("alone")
            cove("rm", "alone")
            assert "cannot capture: no file is named" in refused("one", "-c", "1")
            assert "cannot write /nope/file" in refused("one", "-w", "/nope/file")
            assert "cannot capture so" in refused("one", "-w", str(file), "-s", "1000000")
            assert "no space left on device" in refused("one", "-w", "/dev/full")
    assert file.read_text() == "kept"


def test_the_writer_is_nobody(cove: Cove, clean: None, tmp_path: Path) -> None:
    """And it ends with its daemon."""
    with network(cove, "web"), machine(cove, "one", "web"):
        process = cove.spawn("network", "capture", "one", "-w", str(tmp_path / "one"))
        wait_until(lambda: (tmp_path / "one").exists() and (tmp_path / "one").stat().st_size)
        writers = children(cove.daemon_pid(), b"cove.net.capture")
        assert len(writers) == 1
        status = Path(f"/proc/{writers[0]}/status").read_text()
        assert (
            "Uid:\t65534\t65534\t65534\t65534" in status and "CapEff:\t0000000000000000" in status
        )
        writer = os.pidfd_open(writers[0])
        cove.kill_daemon()
        wait_until(lambda: gone(writer), "its end")
        os.close(writer)
        process.communicate(timeout=120)
        assert packets(tmp_path / "one") is not None


def children(parent: int, word: bytes) -> list[int]:
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in found if word in Path(f"/proc/{pid}/cmdline").read_bytes()]


def gone(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    return False
