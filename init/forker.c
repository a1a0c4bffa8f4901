/*
 * The resident parent of monitors and relays: a fork of this small process takes 0.2 ms, an exec by the daemon twice
 * that. It runs from a sealed memfd, so no machine can reach a file that is executed as the host's root.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "monitor.h"

#define DAEMON_FD 3

/* The daemon's 0, 1, 2 may be a user's terminal; also keeps these numbers from ever being a pipe of ours. */
static void null_stdio(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int i = 0; fd >= 0 && i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

int forker_main(int argc, char **argv)
{
	int ctl;
	struct msg head;
	sigset_t none;
	size_t nfds;
	ssize_t n;

	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_NAME, "cove-forker");
	setsid();
	null_stdio();
	fcntl(DAEMON_FD, F_SETFD, FD_CLOEXEC);
	syscall(SYS_close_range, DAEMON_FD + 1, ~0u, 0); /* whatever the daemon was started with ends with it */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL); /* the daemon takes its signals by signalfd */
	signal(SIGCHLD, SIG_IGN);	       /* monitors leave no zombies */
	for (;;) {
		ctl = -1;
		nfds = 1;
		n = msg_recv(DAEMON_FD, &head, NULL, 0, &ctl, &nfds, 0);
		if (n < 0 && n != -EMSGSIZE && n != -EBADMSG)
			return 0;
		if (n < 0 || head.kind != MSG_FORK || ctl < 0) {
			close_fd(&ctl); /* the daemon sees its end of the socketpair close */
			continue;
		}
		if (!fork()) {
			close(DAEMON_FD);
			setsid();
			_exit(head.value == FORK_RELAY ? relay_main(ctl) : monitor_main(ctl, argc - 2, argv + 2));
		}
		close(ctl);
	}
}
