/*
 * Running a plan: the host part here, the machine part in the child that clone3 makes, and the socket between the two.
 */
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
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
		run->report = (struct report){.side = side, .op = run->first[side] + (uint32_t)i};
		int err = OPS[op->code].run(run, op);
		if (err) {
			if (!run->report.err)
				run->report.err = -err;
			return err;
		}
	}
	return 0;
}

/* Its first half has run: what comes is counted on from there, and nothing needs its bytes any more. */
static void half_done(struct run *run)
{
	for (int side = HOST; side <= MACHINE; side++)
		run->first[side] += (uint32_t)run->part[side].count;
	plan_unmap(run);
	run->told = run->regs.count;
	run->half = REST;
}

/* ---- the child ---- */

/* Registers by their names, as plan_hand() sent them. */
static int take_regs(struct run *run, char *names)
{
	int fds[FDS_MAX], err = 0;
	size_t count = FDS_MAX;
	struct msg head;
	ssize_t n = msg_recv(run->sync[1], &head, names, MSG_MAX - 1, fds, &count, 0);

	if (n < 0 || head.kind != SYNC_REGS)
		return n < 0 ? (int)n : -EPROTO;
	names[n] = 0;
	for (size_t i = 0; i < count; i++) {
		if (err || (err = reg_set(&run->regs, names, fds[i])))
			close(fds[i]);
		names += strlen(names) + 1;
	}
	return err;
}

/* Waits for the second half of this part. */
static int take_rest(struct run *run)
{
	char *data = mmap(NULL, MSG_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = -1, err;
	size_t count = 1, len;
	struct stat st;
	struct msg head;

	if (data == MAP_FAILED)
		return -ENOMEM;
	half_done(run);
	if ((err = take_regs(run, data)))
		return err;
	ssize_t n = msg_recv(run->sync[1], &head, data, MSG_MAX, &fd, &count, 0);
	if (n < 0 || head.kind != SYNC_PLAN)
		return n < 0 ? (int)n : -EPROTO;
	len = (size_t)n;
	if (count) {
		munmap(data, MSG_MAX);
		if (fstat(fd, &st) || st.st_size < head.value)
			return -EPROTO;
		len = (size_t)st.st_size;
		data = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
		close(fd);
		if (data == MAP_FAILED)
			return -ENOMEM;
	}
	err = plan_decode(run, NULL, 0, data + head.value, len - (size_t)head.value);
	munmap(data, count ? len : MSG_MAX);
	return err;
}

static void child_main(struct run *run) __attribute__((noreturn));
static void child_main(struct run *run)
{
	int err;

	close_fd(&run->sync[0]);
	err = run_part(run, MACHINE);
	if (!err && run->half == AHEAD && !(err = take_rest(run)))
		err = run_part(run, MACHINE);
	/* Without a launcher, or after its own failure, nobody hears this. */
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

/* What follows a clone3, in both: pid is 0 in the child. */
static int begin_child(struct run *run, long pid)
{
	int err = errno;

	if (pid < 0) {
		close_fd(&run->sync[0]);
		close_fd(&run->sync[1]);
		return -err;
	}
	if (!pid)
		child_main(run);
	run->child = (pid_t)pid;
	close_fd(&run->sync[1]);
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
	return begin_child(run, syscall(SYS_clone3, &args, sizeof(args)));
}

/* Who joins a user namespace has no rights outside it any more: somebody else does, and has the child for us. */
static void clone_inside(struct run *run, const struct op *op, int tell) __attribute__((noreturn));
static void clone_inside(struct run *run, const struct op *op, int tell)
{
	/* The exit signal is that of this process, which the kernel takes for granted with CLONE_PARENT. */
	struct clone_args args = {.flags = word_u(op->argv[0]) | CLONE_PARENT | CLONE_CLEAR_SIGHAND};
	int32_t pid = setns(word_fd(run, op->argv[2]), CLONE_NEWUSER) ? -errno : 0;

	prctl(PR_SET_DUMPABLE, 0); /* new credentials, and neighbours: as in op_setns */
	if (!pid && (pid = (int32_t)syscall(SYS_clone3, &args, sizeof(args))) < 0)
		pid = -errno;
	else if (!pid) {
		close(tell);
		child_main(run);
	}
	_exit(write(tell, &pid, sizeof(pid)) != sizeof(pid));
}

int op_clone3_in(struct run *run, const struct op *op)
{
	int cgroup = word_fd(run, op->argv[1]), tell[2];
	struct clone_args args = {.flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
	siginfo_t info;
	int32_t child = -ECHILD;

	if (cgroup >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup;
	}
	if (pipe2(tell, O_CLOEXEC))
		return -errno;
	long pid = -1;
	if (!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, run->sync))
		pid = syscall(SYS_clone3, &args, sizeof(args));
	if (!pid) {
		close(tell[0]);
		clone_inside(run, op, tell[1]);
	}
	int err = errno;
	close(tell[1]);
	if (pid > 0) {
		while (waitid(P_PID, (id_t)pid, &info, WEXITED) && errno == EINTR)
			;
		if (read(tell[0], &child, sizeof(child)) != sizeof(child))
			child = -ECHILD;
		err = child < 0 ? -child : 0;
	}
	close(tell[0]);
	if (!err && (run->pidfd = (int)syscall(SYS_pidfd_open, child, 0)) < 0)
		err = errno;
	errno = err;
	return begin_child(run, err ? -1 : child);
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
void plan_abandon(struct run *run)
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
	if (err || run->half != AHEAD)
		close_regs(run);
	if (err) {
		plan_abandon(run);
		return err;
	}
	if (run->half == AHEAD)
		half_done(run);
	run->report = (struct report){0};
	return 0;
}

/* What went wrong in the child, when it had no word for it. */
static int child_failed(struct run *run, int err)
{
	if (!run->report.err) {
		run->report.side = MACHINE;
		run->report.op = run->first[MACHINE] + (uint32_t)run->part[MACHINE].count;
		run->report.err = -err;
	}
	plan_abandon(run);
	return err;
}

int plan_idle(struct run *run)
{
	struct pollfd wait[2] = {{.fd = run->ctl, .events = POLLIN}, {.fd = run->sync[0], .events = POLLIN}};
	int err = -EAGAIN;

	while (err == -EAGAIN) {
		if (poll(wait, 2, -1) < 0)
			continue;
		/* Also when the child has gone: with its order came a front, who is to hear of that. */
		if (wait[0].revents)
			return 0;
		err = sync_take(run, SYNC_EXEC, NULL, NULL);
	}
	return child_failed(run, err ? err : -EPROTO);
}

int plan_hand(struct run *run, const char *machine, size_t len, int memory, size_t offset)
{
	size_t count = run->regs.count - run->told, used = 0;
	char names[FDS_MAX * REG_NAME];
	int fds[FDS_MAX], err;

	if (count > FDS_MAX)
		return -E2BIG;
	for (size_t i = 0; i < count; i++) {
		fds[i] = run->regs.reg[run->told + i].fd;
		strcpy(names + used, run->regs.reg[run->told + i].name);
		used += strlen(names + used) + 1;
	}
	err = msg_send(run->sync[0], SYNC_REGS, 0, names, used, fds, count);
	if (!err && memory < 0)
		err = msg_send(run->sync[0], SYNC_PLAN, 0, machine, len, NULL, 0);
	else if (!err)
		err = msg_send(run->sync[0], SYNC_PLAN, (int32_t)offset, NULL, 0, &memory, 1);
	return err == -EPIPE ? child_failed(run, -ECHILD) : err;
}

int plan_wait_exec(struct run *run)
{
	int err = sync_take(run, SYNC_EXEC, NULL, NULL);

	if (err == -EAGAIN)
		return err;
	if (err)
		return child_failed(run, err);
	close_fd(&run->sync[0]);
	return 0;
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
