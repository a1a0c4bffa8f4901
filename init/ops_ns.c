/* Ops of namespaces, and of what passes between launcher, child and daemon. */
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ops.h"

static int open_proc(pid_t pid, const char *name, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	int fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* One write(2): procfs takes a map whole or not at all. */
static int write_proc(pid_t pid, const char *name, const char *text)
{
	int fd = open_proc(pid, name, O_WRONLY), err = 0;

	if (fd < 0)
		return fd;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		err = errno ? -errno : -EIO;
	close(fd);
	return err;
}

int op_unshare(struct run *run, const struct op *op)
{
	uint64_t flags = word_u(op->argv[0]);

	if ((flags & CLONE_NEWNS) && run->sync[1] < 0 && run->mntns < 0) {
		run->mntns = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
		if (run->mntns < 0)
			return -errno;
	}
	return done(run, unshare((int)flags), "");
}

int op_setns(struct run *run, const struct op *op)
{
	/* The child to come is in the machine's sight: where the daemon is on the host is not for its cmdline. */
	size_t name = start_words ? strlen(start_words) : 0;
	if (word_u(op->argv[1]) & CLONE_NEWPID && name < start_words_len)
		memset(start_words + name, 0, start_words_len - name);
	/* A guest's agent names nobody once its machine has ended: said as the kernel says it of who is gone. */
	int to = word_fd(run, op->argv[0]);
	int err = to < 0 ? -ESRCH : done(run, setns(to, (int)word_u(op->argv[1])), op->argv[0]);

	/* New credentials make a process as dumpable as fs.suid_dumpable says; its new neighbours may be hostile. */
	prctl(PR_SET_DUMPABLE, 0);
	return err;
}

/* Both maps of a process, and its user namespace as a register. */
static int map_ids(struct run *run, pid_t pid, char *const *maps, const char *name)
{
	int err = write_proc(pid, "uid_map", maps[0]);

	if (err)
		return fault(run, err, maps[0]);
	if ((err = write_proc(pid, "gid_map", maps[1])))
		return fault(run, err, maps[1]);
	int fd = open_proc(pid, "ns/user", O_RDONLY);
	return fd < 0 ? fd : reg_set(&run->regs, name, fd);
}

int op_id_map(struct run *run, const struct op *op)
{
	return map_ids(run, run->child, op->argv, "userns");
}

int op_clone_userns(struct run *run, const struct op *op)
{
	struct clone_args args = {.flags = CLONE_NEWUSER | CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
	siginfo_t info;
	int hold[2];
	char none;

	if (pipe2(hold, O_CLOEXEC))
		return -errno;
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (!pid) { /* until the launcher has the namespace, or is gone */
		close(hold[1]);
		_exit(read(hold[0], &none, 1) != 0);
	}
	int err = pid < 0 ? -errno : map_ids(run, pid, op->argv + 1, op->argv[0]);
	close(hold[0]);
	close(hold[1]);
	while (pid > 0 && waitid(P_PID, (id_t)pid, &info, WEXITED) && errno == EINTR)
		;
	return err;
}

int op_oom_score_adj(struct run *run, const struct op *op)
{
	return write_proc(run->child, "oom_score_adj", op->argv[0]);
}

/* While the daemon attaches links, the machine may die or be killed, and the daemon may go. */
static int wait_release(struct run *run)
{
	struct msg head;
	char data[64];

	for (;;) {
		struct pollfd wait[2] = {{.fd = run->ctl, .events = POLLIN}, {.fd = run->pidfd, .events = POLLIN}};
		if (poll(wait, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (wait[1].revents)
			return -ECHILD;
		ssize_t n = msg_recv(run->ctl, &head, data, sizeof(data), NULL, NULL, MSG_DONTWAIT);
		if (n < 0 && n != -EAGAIN)
			return (int)n;
		if (n >= 0 && head.kind == MSG_RELEASE)
			return head.value > 0 ? -head.value : 0;
		if (n >= 0 && head.kind == MSG_SIGNAL)
			syscall(SYS_pidfd_send_signal, run->pidfd, head.value, NULL, 0);
	}
}

int op_barrier(struct run *run, const struct op *op)
{
	int fds[FDS_MAX + 1], count = 0, err = 0;

	for (int i = 1; !err && i < op->argc; i++) {
		char name[32];
		snprintf(name, sizeof(name), "ns/%.24s", op->argv[i]);
		int fd = open_proc(run->child, name, O_RDONLY);
		if (fd < 0)
			err = fault(run, fd, op->argv[i]);
		else
			fds[count++] = fd;
	}
	if (!err && run->ctl >= 0)
		err = msg_send(run->ctl, MSG_BARRIER, 0, NULL, 0, fds, (size_t)count);
	while (count > 0)
		close(fds[--count]);
	if (!err && run->ctl >= 0 && word_u(op->argv[0]))
		err = wait_release(run);
	return err;
}

int op_send(struct run *run, const struct op *op)
{
	int fds[FDS_MAX];

	for (int i = 0; i < op->argc; i++)
		fds[i] = word_fd(run, op->argv[i]);
	return msg_send(run->sync[run->sync[0] < 0], SYNC_GO, 0, NULL, 0, fds, op->argc);
}

int op_recv(struct run *run, const struct op *op)
{
	int fds[FDS_MAX], err = 0;
	size_t count = FDS_MAX;
	struct msg head;

	if (run->sync[0] >= 0) {
		err = sync_take(run, SYNC_GO, fds, &count);
	} else {
		ssize_t n = msg_recv(run->sync[1], &head, NULL, 0, fds, &count, 0);
		err = n < 0 ? (int)n : head.kind == SYNC_GO ? 0 : -EPROTO;
	}
	if (err)
		return err;
	for (size_t i = 0; i < count; i++) {
		if (i < op->argc)
			err = reg_set(&run->regs, op->argv[i], fds[i]);
		else
			close(fds[i]);
	}
	return count == op->argc ? err : -EPROTO;
}

/* The kernel forgets the parent-death signal when ids change, and a machine must not outlive its monitor. */
int set_ids(uint32_t uid, uint32_t gid, const uint32_t *groups, size_t count)
{
	int death = 0;

	prctl(PR_GET_PDEATHSIG, &death);
	/* The system calls, not the C library: that one would look for threads of the process we were cloned from. */
	if (syscall(SYS_setgroups, count, groups) || syscall(SYS_setresgid, gid, gid, gid) ||
	    syscall(SYS_setresuid, uid, uid, uid))
		return -errno;
	if (death)
		prctl(PR_SET_PDEATHSIG, death);
	prctl(PR_SET_DUMPABLE, 0);
	return 0;
}

int op_setids(struct run *run, const struct op *op)
{
	(void)run;
	return set_ids((uint32_t)word_u(op->argv[0]), (uint32_t)word_u(op->argv[1]), NULL, 0);
}
