/*
 * Running a plan: the host part here, the machine part in the child that clone3 makes, and the socket between the two.
 */
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ops.h"

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void close_regs(struct run *run)
{
	for (size_t i = 0; i < run->regs.count; i++)
		close_fd(&run->regs.reg[i].fd);
	run->regs.count = 0;
}

/* Runs one part; the report names the op that failed. */
static int run_part(struct run *run, enum side side)
{
	const struct part *part = &run->part[side];

	for (size_t i = 0; i < part->count; i++) {
		const struct op *op = &part->ops[i];
		run->report = (struct report){.side = side, .op = (uint32_t)i};
		int err = OPS[op->code].run(run, op);
		if (err) {
			if (!run->report.err)
				run->report.err = -err;
			return err;
		}
	}
	return 0;
}

/* ---- the child ---- */

static void child_main(struct run *run) __attribute__((noreturn));
static void child_main(struct run *run)
{
	int err;

	close_fd(&run->sync[0]);
	err = run_part(run, MACHINE);
	/* The launcher went away, or told of its own failure: nobody to tell. */
	if (err != -EPIPE || strcmp(OPS[run->part[MACHINE].ops[run->report.op].code].name, "recv"))
		msg_send(run->sync[1], SYNC_REPORT, err, &run->report, sizeof(run->report), NULL, 0);
	_exit(err == -ENOENT ? 127 : 126);
}

int exec_ready(struct run *run)
{
	unsigned long normal[4] = {0}; /* the kernel's struct sigaction: SIG_DFL */
	sigset_t none;
	int err;

	if (run->ready)
		return 0;
	run->ready = 1;
	if (syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */))
		return -errno;
	for (int sig = 1; sig <= 64; sig++)
		syscall(SYS_rt_sigaction, sig, normal, NULL, 8); /* sigaction(3) refuses the C library's own */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* Also finds out whether the launcher died before the parent-death signal was armed. */
	if ((err = msg_send(run->sync[1], SYNC_EXEC, 0, NULL, 0, NULL, 0)))
		_exit(125);
	return 0;
}

int op_clone3(struct run *run, const struct op *op)
{
	int cgroup = word_fd(run, op->argv[1]);
	struct clone_args args = {
		.flags = word_u(op->argv[0]) | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
		.pidfd = (uintptr_t)&run->pidfd,
		.exit_signal = SIGCHLD,
	};

	if (cgroup >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, run->sync))
		return -errno;
	long pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0) {
		int err = -errno;
		close_fd(&run->sync[0]);
		close_fd(&run->sync[1]);
		return err;
	}
	if (!pid)
		child_main(run);
	run->child = (pid_t)pid;
	close_fd(&run->sync[1]);
	return 0;
}

/* ---- the launcher's end of the socket ---- */

int sync_take(struct run *run, uint32_t want, int *fds, size_t *nfds)
{
	struct report report;
	struct msg head;

	for (;;) {
		int got[FDS_MAX];
		size_t count = FDS_MAX;
		ssize_t n = msg_recv(run->sync[0], &head, &report, sizeof(report), got, &count, 0);
		if (n == -EPIPE)
			return run->ready ? 0 : -ECHILD;
		if (n < 0)
			return (int)n;
		if (head.kind == SYNC_REPORT && n == sizeof(report)) {
			report.detail[sizeof(report.detail) - 1] = 0;
			run->report = report;
			return report.err > 0 ? -report.err : -EPROTO;
		}
		if (head.kind == SYNC_PTY && count == 1) {
			close_fd(&run->pty);
			run->pty = got[0];
		} else if (head.kind == SYNC_EXEC) {
			run->ready = 1;
		} else if (head.kind == SYNC_GO && want == SYNC_GO) {
			memcpy(fds, got, count * sizeof(int));
			*nfds = count;
			return 0;
		} else {
			return -EPROTO;
		}
		if (want != SYNC_GO)
			return -EAGAIN;
	}
}

static int readable(int fd)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	return fd >= 0 && poll(&wait, 1, 0) == 1;
}

/* After a failure nothing of the start may stay: neither the child nor fsuid and securebits of a half-done part. */
static void abandon(struct run *run)
{
	siginfo_t info;

	close_fd(&run->sync[0]);
	if (run->child > 0) {
		syscall(SYS_pidfd_send_signal, run->pidfd, SIGKILL, NULL, 0);
		while (waitid(P_PIDFD, (id_t)run->pidfd, &info, WEXITED) && errno == EINTR)
			;
		run->child = 0;
	}
	close_fd(&run->pidfd);
	close_fd(&run->pty);
	fsuid_reset();
}

int plan_run(struct run *run)
{
	/* Neither launcher nor child may be traced, or have its /proc files opened, by anybody of the machine. */
	prctl(PR_SET_DUMPABLE, 0);
	int err = run_part(run, HOST);

	/* When the child failed first, its report is the cause; ours would only say that it has gone. */
	if (err && run->report.side == HOST) {
		int other = -EAGAIN;
		struct report own = run->report;
		while (other == -EAGAIN && readable(run->sync[0]))
			other = sync_take(run, SYNC_EXEC, NULL, NULL);
		if (run->report.side == MACHINE)
			err = other;
		else
			run->report = own;
	}
	close_regs(run);
	if (err)
		abandon(run);
	else
		run->report = (struct report){0};
	return err;
}

int plan_wait_exec(struct run *run)
{
	int err = sync_take(run, SYNC_EXEC, NULL, NULL);

	if (err == -EAGAIN)
		return err;
	if (err && !run->report.err) {
		run->report.side = MACHINE;
		run->report.op = (uint32_t)run->part[MACHINE].count;
		run->report.err = -err;
	}
	if (err)
		abandon(run);
	else
		close_fd(&run->sync[0]);
	return err;
}

void plan_free(struct run *run)
{
	close_regs(run);
	close_fd(&run->sync[0]);
	if (run->mntns >= 0)
		setns(run->mntns, CLONE_NEWNS);
	close_fd(&run->mntns);
	plan_unmap(run);
}
