"""Paths of procfs and sysfs that a machine does not see or cannot write, each with its reason."""

from __future__ import annotations

from typing import Final

MASKED: Final[dict[str, str]] = {
    "/proc/acpi": "the host's hardware can be switched here",
    "/proc/asound": "the host's sound hardware",
    "/proc/interrupts": "keystrokes and network traffic of others show as counts of interrupts",
    "/proc/kcore": "the whole memory of the host",
    "/proc/keys": "names of keys of all users",
    "/proc/latency_stats": "what other processes wait for",
    "/proc/timer_list": "processes and kernel addresses of the host",
    "/proc/timer_stats": "processes of the host",
    "/proc/sched_debug": "processes of the host",
    "/proc/scsi": "devices of the host can be removed here",
    "/sys/firmware": "firmware tables and variables of the host",
    "/sys/devices/virtual/powercap": "power counters, from which secrets of others can be read",
}

READONLY: Final[dict[str, str]] = {
    "/proc/bus": "devices of the host",
    "/proc/fs": "settings of the host's file systems",
    "/proc/irq": "which CPU serves the host's hardware",
    "/proc/sys": "settings of the kernel; --sysctl sets those that are the machine's own",
    "/proc/sysrq-trigger": "one byte here reboots the host",
}
