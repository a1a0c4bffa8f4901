/* Ops of the process itself, up to its execve. */
#include <fcntl.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <net/if.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ops.h"

int op_sethostname(struct run *run, const struct op *op)
{
	return done(run, sethostname(op->argv[0], strlen(op->argv[0])), op->argv[0]);
}

int op_setdomainname(struct run *run, const struct op *op)
{
	return done(run, setdomainname(op->argv[0], strlen(op->argv[0])), op->argv[0]);
}

int op_ifup(struct run *run, const struct op *op)
{
	struct ifreq req = {0};
	int sock, err = 0;

	if (strlen(op->argv[0]) >= sizeof(req.ifr_name))
		return fault(run, -EINVAL, op->argv[0]);
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	strcpy(req.ifr_name, op->argv[0]);
	if (ioctl(sock, SIOCGIFFLAGS, &req))
		err = -errno;
	req.ifr_flags |= IFF_UP;
	if (!err && ioctl(sock, SIOCSIFFLAGS, &req))
		err = -errno;
	close(sock);
	return err ? fault(run, err, op->argv[0]) : 0;
}

static uint64_t limit(const char *word)
{
	return strcmp(word, "unlimited") ? word_u(word) : UINT64_MAX;
}

int op_setrlimit(struct run *run, const struct op *op)
{
	uint64_t pair[2] = {limit(op->argv[1]), limit(op->argv[2])};

	return done(run, syscall(SYS_prlimit64, 0, (int)word_u(op->argv[0]), pair, NULL), op->argv[0]);
}

int op_setsid(struct run *run, const struct op *op)
{
	(void)op;
	return done(run, setsid(), "");
}

int op_prctl(struct run *run, const struct op *op)
{
	return done(run, prctl((int)word_u(op->argv[0]), word_u(op->argv[1]), 0UL, 0UL, 0UL), op->argv[0]);
}

int op_keyctl(struct run *run, const struct op *op)
{
	(void)run, (void)op;
	/* A kernel without keys has no host's keyring to lose. */
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
		return -errno;
	return 0;
}

int op_fork(struct run *run, const struct op *op)
{
	sigset_t all, old;

	(void)op;
	sigfillset(&all); /* no signal may be lost before PID 1 waits for them */
	sigprocmask(SIG_SETMASK, &all, &old);
	pid_t child = fork();
	if (child < 0)
		return -errno;
	if (child) {
		close(run->sync[1]); /* its end of file is how the launcher knows of the execve */
		pid1(child);
	}
	/* A group of its own: what the terminal sends, PID 1 is not to send again. */
	setpgid(0, 0);
	if (isatty(0))
		tcsetpgrp(0, getpgrp()); /* TTOU is blocked */
	sigprocmask(SIG_SETMASK, &old, NULL);
	return 0;
}

static const char *env_value(char *const *env, const char *name)
{
	size_t len = strlen(name);

	for (; *env; env++)
		if (!strncmp(*env, name, len) && (*env)[len] == '=')
			return *env + len + 1;
	return NULL;
}

/* As execvp(3), by the PATH of the machine's environment. Entries that are not absolute are not the image's to choose.
 */
static int exec_path(char *const *argv, char *const *env)
{
	const char *path = env_value(env, "PATH");
	int err = -ENOENT;

	if (!path)
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	for (size_t len; *path; path += len + (path[len] == ':')) {
		char file[PATH_MAX];
		size_t name = strlen(argv[0]);
		len = strcspn(path, ":");
		if (*path != '/' || len + 1 + name >= sizeof(file))
			continue;
		memcpy(file, path, len);
		file[len] = '/';
		memcpy(file + len + 1, argv[0], name + 1);
		execve(file, argv, env);
		if (errno == EACCES)
			err = -EACCES; /* found, but not to be run; another may be */
		else if (errno != ENOENT && errno != ENOTDIR)
			return -errno;
	}
	return err;
}

/*
 * Close-on-exec is too late: the kernel opens program, script and interpreter first, all of the image's choosing, and
 * /proc/self/fd/N/.. of a host's directory leads out. Only the socket that tells of the execve stays; it opens nothing.
 */
int exec_alone(struct run *run)
{
	unsigned sync = (unsigned)run->sync[1];

	if (run->ready)
		return 0;
	if ((sync > 3 && syscall(SYS_close_range, 3u, sync - 1, 0u)) || syscall(SYS_close_range, sync + 1, ~0u, 0u))
		return -errno;
	run->regs.count = 0;
	return exec_ready(run);
}

int op_execve(struct run *run, const struct op *op)
{
	size_t count = word_u(op->argv[0]), rest = op->argc - 1 - count;
	char **argv = op->argv, **env = op->argv + count + 1;
	int err;

	/* The count's slot goes: so argv and environment get the NULL between them, and HOME the spare one at the end.
	 */
	memmove(argv, argv + 1, count * sizeof(*argv));
	argv[count] = NULL;
	if (run->home && !env_value(env, "HOME")) {
		env[rest] = (char *)run->home;
		env[rest + 1] = NULL;
	}
	if ((err = exec_alone(run)))
		return err;
	if (!*argv[0])
		err = -ENOENT;
	else if (strchr(argv[0], '/'))
		err = (execve(argv[0], argv, env), -errno);
	else
		err = exec_path(argv, env);
	return fault(run, err, argv[0]);
}
