/*
 * PID 1 of a machine that asked for one: it reaps, forwards every signal it may get, and ends with its child's status.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cove.h"

/* The kernel sends these to a process for its own faults: to block or forward them would hide a crash. */
static const int OWN[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS};

void reap(pid_t child)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == child)
			_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	if (pid < 0 && errno == ECHILD)
		_exit(125);
}

void pid1(pid_t child)
{
	sigset_t set;
	int sig;

	prctl(PR_SET_NAME, "cove-init");
	/* Where the daemon is on the host is not for a machine's /proc/1/cmdline. */
	memset(start_words, 0, start_words_len);
	/* Neither the machine's streams nor the plan's descriptors are PID 1's to keep open. */
	syscall(SYS_close_range, 0u, ~0u, 0u);
	sigfillset(&set);
	for (size_t i = 0; i < sizeof(OWN) / sizeof(OWN[0]); i++)
		sigdelset(&set, OWN[i]);
	/* A blocked signal is queued even for a PID 1 that does not handle it. */
	sigprocmask(SIG_SETMASK, &set, NULL);
	reap(child); /* it may have ended before */
	for (;;) {
		sig = sigwaitinfo(&set, NULL);
		if (sig == SIGCHLD)
			reap(child);
		else if (sig > 0 && sig != SIGTTIN && sig != SIGTTOU && sig != SIGTSTP)
			kill(child, sig);
	}
}
