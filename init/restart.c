/*
 * Brings the daemon back when it went away without saying so: restart policies, health checks and timeouts live in it.
 * Many monitors see it vanish at once; the one that gets the state directory's lock starts it and hands the lock over.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "monitor.h"

#define DELAY_FIRST_MS 50
#define DELAY_MAX_MS   5000
#define ARGS_MAX       64

/* Half to one and a half of the delay, so that a thousand monitors do not knock in step. */
static uint64_t restart_next(unsigned delay_ms)
{
	uint32_t dice = 0;

	if (getrandom(&dice, sizeof(dice), GRND_NONBLOCK) < 0)
		dice = (uint32_t)getpid() * 2654435761u;
	return clock_ns(CLOCK_MONOTONIC) + (uint64_t)(delay_ms / 2 + dice % (delay_ms + 1)) * 1000000;
}

void restart_arm(struct restart *restart)
{
	if (restart->state < 0 || !restart->argc)
		return;
	restart->wanted = true;
	restart->delay_ms = DELAY_FIRST_MS;
	restart->at = restart_next(restart->delay_ms);
}

/* In a grandchild, so that nobody has to wait for it. The lock is of the open file description: it goes to the daemon.
 */
static void restart_exec(const struct restart *restart, int lock)
{
	char number[16], *argv[ARGS_MAX + 3];
	struct sigaction plain = {.sa_handler = SIG_DFL};
	sigset_t none;
	int n = 0;

	if (fork() || setsid() < 0 || (restart->mount_ns >= 0 && setns(restart->mount_ns, CLONE_NEWNS)) || chdir("/"))
		_exit(1);
	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &plain, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (; n < restart->argc && n < ARGS_MAX; n++)
		argv[n] = restart->argv[n];
	snprintf(number, sizeof(number), "%d", lock);
	argv[n++] = (char *)"--lock-fd";
	argv[n++] = number;
	argv[n] = NULL;
	if (fcntl(lock, F_SETFD, 0))
		_exit(1);
	execve(argv[0], argv, environ);
	_exit(127);
}

static bool restart_spawn(const struct restart *restart)
{
	int lock = openat(restart->state, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	pid_t pid;

	if (lock < 0)
		return false;
	if (flock(lock, LOCK_EX | LOCK_NB)) {
		bool taken = errno == EWOULDBLOCK;
		close(lock);
		return taken;
	}
	pid = fork();
	if (!pid)
		restart_exec(restart, lock);
	close(lock);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return pid > 0;
}

bool restart_try(struct restart *restart)
{
	if (!restart->wanted || clock_ns(CLOCK_MONOTONIC) < restart->at)
		return false;
	restart->delay_ms = restart->delay_ms * 2 > DELAY_MAX_MS ? DELAY_MAX_MS : restart->delay_ms * 2;
	restart->at = restart_next(restart->delay_ms);
	return restart_spawn(restart);
}
