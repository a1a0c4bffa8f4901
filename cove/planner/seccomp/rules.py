"""Which system calls a machine may make, as data: each rule with its reason.

What no rule names is refused with EPERM, and the audit log names it; what the kernel's tables do
not know is ENOSYS. Rules for capabilities follow Docker's profile: a machine that was given a
capability gets the calls that need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cove.planner.seccomp.bpf import Arg

NAMESPACES = 0x7E020000
"""Every CLONE_NEW* flag of clone(2)."""
CLONE_NEWTIME = 0x00000080


@dataclass(frozen=True, slots=True)
class Rule:
    """Allowed, under the conditions given."""

    names: tuple[str, ...]
    reason: str
    args: tuple[Arg, ...] = ()
    """All must hold."""
    caps: tuple[str, ...] = ()
    """One of them is enough."""
    unless_caps: tuple[str, ...] = ()


def _allow(
    names: str,
    reason: str,
    *args: Arg,
    caps: tuple[str, ...] = (),
    unless_caps: tuple[str, ...] = (),
) -> Rule:
    return Rule(tuple(names.split()), reason, args, caps, unless_caps)


ALLOWED: Final = (
    _allow(
        "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 open openat "
        "openat2 creat close close_range dup dup2 dup3 lseek _llseek fcntl fcntl64 flock "
        "sendfile sendfile64 splice tee vmsplice copy_file_range fsync fdatasync sync syncfs "
        "sync_file_range readahead fadvise64 fadvise64_64 "
        "fallocate truncate truncate64 ftruncate ftruncate64 getdents getdents64 "
        "readdir",
        "reading and writing files, below the machine's own root",
    ),
    _allow(
        "stat lstat fstat stat64 lstat64 fstat64 fstatat64 newfstatat statx oldstat oldlstat "
        "oldfstat statfs fstatfs statfs64 fstatfs64 access faccessat faccessat2 readlink "
        "readlinkat getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat "
        "renameat2 link linkat symlink symlinkat mknod mknodat umask utime utimes utimensat "
        "utimensat_time64 futimesat name_to_handle_at cachestat statmount listmount "
        "file_getattr file_setattr",
        "names and attributes of files; mknod makes FIFOs and sockets, devices need a capability",
    ),
    _allow(
        "chmod fchmod fchmodat fchmodat2 chown fchown lchown chown32 fchown32 lchown32 fchownat "
        "getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr flistxattr listxattrat "
        "setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr "
        "removexattrat",
        "owners, modes and extended attributes, within the machine's own ids",
    ),
    _allow(
        "poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create "
        "epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 "
        "eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_settime64 "
        "timerfd_gettime timerfd_gettime64 inotify_init inotify_init1 inotify_add_watch "
        "inotify_rm_watch fanotify_mark pipe pipe2",
        "waiting for events",
    ),
    _allow(
        "mmap mmap2 munmap mremap mprotect madvise mincore msync brk mlock mlock2 munlock "
        "mlockall munlockall remap_file_pages memfd_create memfd_secret membarrier mseal "
        "pkey_alloc pkey_free pkey_mprotect map_shadow_stack process_mrelease",
        "the process's own memory; how much is the control group's to limit",
    ),
    _allow(
        "fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill "
        "pidfd_open pidfd_send_signal getpid getppid gettid getpgrp getpgid setpgid getsid setsid "
        "set_tid_address restart_syscall",
        "processes of the machine's own pid namespace; how many is the control group's to limit",
    ),
    _allow(
        "rt_sigaction rt_sigprocmask rt_sigpending rt_sigreturn rt_sigsuspend rt_sigtimedwait "
        "rt_sigtimedwait_time64 rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack sigaction "
        "sigprocmask sigpending sigreturn sigsuspend signal sgetmask ssetmask pause alarm "
        "getitimer setitimer",
        "signals",
    ),
    _allow(
        "futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue set_robust_list "
        "get_robust_list rseq set_thread_area get_thread_area sched_yield getcpu",
        "threads and their locks",
    ),
    _allow(
        "time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 "
        "clock_nanosleep clock_nanosleep_time64 nanosleep timer_create timer_delete "
        "timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 times "
        "adjtimex clock_adjtime clock_adjtime64",
        "reading clocks; setting one needs a capability that no machine has",
    ),
    _allow(
        "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid "
        "getresuid32 getresgid getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32 "
        "setreuid setreuid32 setregid setregid32 setresuid setresuid32 setresgid setresgid32 "
        "setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32 capget capset",
        "ids and capabilities: within the user namespace, and never more than there were",
    ),
    _allow(
        "getrlimit ugetrlimit setrlimit prlimit64 getrusage getpriority setpriority ioprio_get "
        "ioprio_set sched_getaffinity sched_setaffinity sched_getattr sched_setattr "
        "sched_getparam sched_setparam sched_getscheduler sched_setscheduler "
        "sched_get_priority_max sched_get_priority_min sched_rr_get_interval "
        "sched_rr_get_interval_time64 nice",
        "limits and priorities: only downwards without a capability",
    ),
    _allow(
        "uname sysinfo getrandom prctl seccomp landlock_create_ruleset landlock_add_rule "
        "landlock_restrict_self",
        "what a process may ask about itself, and the walls it may build within these",
    ),
    _allow(
        "bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt "
        "sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg recvmmsg_time64 shutdown",
        "sockets of the families below; which network they reach is the namespace's",
    ),
    _allow(
        "shmget shmat shmdt shmctl semget semop semctl semtimedop semtimedop_time64 msgget msgsnd "
        "msgrcv msgctl ipc mq_open mq_unlink mq_notify mq_getsetattr mq_timedsend "
        "mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64",
        "System V and POSIX IPC of the machine's own IPC namespace",
    ),
    _allow(
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64",
        "the older asynchronous I/O, which databases need; io_uring stays closed",
    ),
    _allow(
        "ptrace process_vm_readv process_vm_writev",
        "debuggers and sanitizers, on the caller's own processes (safe with filters since 4.8)",
    ),
    _allow("arch_prctl modify_ldt uretprobe", "thread pointers of x86, and Wine"),
)
"""For everybody."""

FAMILIES: Final = {
    0: "unspecified: the kernel refuses it by itself",
    1: "AF_UNIX",
    2: "AF_INET",
    10: "AF_INET6",
    16: "AF_NETLINK: programs list their interfaces",
    17: "AF_PACKET: needs NET_RAW, and sees the machine's own network",
}
"""Socket families; all others (AF_ALG, AF_VSOCK, AF_CAN, AF_TIPC ...) are kernel code that modules
bring in on request, where most holes of the network stack were found."""

PERSONALITIES: Final = {
    0x0: "PER_LINUX",
    0x8: "PER_LINUX32: setarch i686",
    0x20000: "UNAME26",
    0x20008: "PER_LINUX32 with UNAME26",
    0xFFFFFFFF: "asks only",
}
"""Others switch off address randomization or make page zero readable."""

TERMINAL_INJECTION: Final = {
    0x5412: "TIOCSTI types into the terminal for another user",
    0x541C: "TIOCLINUX pastes into a console",
}

CONDITIONAL: Final = (
    *(
        _allow("socket socketpair", reason, Arg(0, "low_eq", family))
        for family, reason in FAMILIES.items()
    ),
    *(
        _allow("personality", reason, Arg(0, "low_eq", value))
        for value, reason in PERSONALITIES.items()
    ),
    _allow(
        "clone",
        "new processes and threads, but no namespaces: they open far more of the kernel",
        Arg(0, "low_masked_eq", 0, NAMESPACES),
        unless_caps=("SYS_ADMIN",),
    ),
    _allow(
        "unshare",
        "own file descriptors and directories, but no namespaces",
        Arg(0, "low_masked_eq", 0, NAMESPACES | CLONE_NEWTIME),
        unless_caps=("SYS_ADMIN",),
    ),
)
"""By argument. The kernel reads these as int: bits above 32 change nothing."""

BY_CAPABILITY: Final = (
    _allow(
        "clone clone3 unshare setns mount umount umount2 fsopen fsconfig fsmount fspick move_mount "
        "open_tree open_tree_attr mount_setattr fanotify_init lookup_dcookie quotactl quotactl_fd "
        "setdomainname sethostname lsm_get_self_attr lsm_set_self_attr lsm_list_modules bpf "
        "perf_event_open syslog",
        "SYS_ADMIN was given: namespaces and mounts",
        caps=("SYS_ADMIN",),
    ),
    _allow("bpf", "BPF was given", caps=("BPF",)),
    _allow("perf_event_open", "PERFMON was given", caps=("PERFMON",)),
    _allow("syslog", "SYSLOG was given", caps=("SYSLOG",)),
    _allow("chroot", "SYS_CHROOT is given: package managers, sshd", caps=("SYS_CHROOT",)),
    _allow("open_by_handle_at", "DAC_READ_SEARCH was given", caps=("DAC_READ_SEARCH",)),
    _allow("reboot", "SYS_BOOT was given", caps=("SYS_BOOT",)),
    _allow("init_module finit_module delete_module", "SYS_MODULE was given", caps=("SYS_MODULE",)),
    _allow("acct", "SYS_PACCT was given", caps=("SYS_PACCT",)),
    _allow("kcmp pidfd_getfd process_madvise", "SYS_PTRACE was given", caps=("SYS_PTRACE",)),
    _allow("iopl ioperm", "SYS_RAWIO was given", caps=("SYS_RAWIO",)),
    _allow(
        "settimeofday stime clock_settime clock_settime64",
        "SYS_TIME was given",
        caps=("SYS_TIME",),
    ),
    _allow("vhangup", "SYS_TTY_CONFIG was given", caps=("SYS_TTY_CONFIG",)),
    _allow(
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
        "SYS_NICE was given: memory of NUMA nodes",
        caps=("SYS_NICE",),
    ),
)

MISSING: Final = {
    "clone3": "its flags are behind a pointer, which no filter reads: programs fall back to clone",
}
"""Answered with ENOSYS and not logged, unless a rule allows them."""

REFUSED: Final = {
    "socketcall": "the family is behind a pointer, which no filter reads",
    "io_uring_setup": "a second system call interface, past every filter, with many holes found",
    "io_uring_enter": "as io_uring_setup",
    "io_uring_register": "as io_uring_setup",
    "userfaultfd": "stops the kernel at a chosen moment: half of all race exploits",
    "keyctl": "keyrings are not in a namespace",
    "add_key": "keyrings are not in a namespace",
    "request_key": "runs a helper program of the host",
    "kexec_load": "starts another kernel",
    "kexec_file_load": "starts another kernel",
    "swapon": "swap is the host's",
    "swapoff": "swap is the host's",
    "nfsservctl": "gone from the kernel",
    "pivot_root": "the root is set before the filter, and stays",
    "move_pages": "memory of other nodes: NUMA placement is the host's",
    "migrate_pages": "memory of other nodes: NUMA placement is the host's",
    "vm86": "old kernel code",
    "vm86old": "old kernel code",
    "uselib": "old kernel code",
    "ustat": "old kernel code",
    "sysfs": "old kernel code",
    "_sysctl": "old kernel code",
}
"""Some of those that no rule allows, for readers: why not."""
