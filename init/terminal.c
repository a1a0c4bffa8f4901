/* The user's terminal: raw and back, stopping and going on, and the keys that detach. */
#define _GNU_SOURCE
#include "front.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static bool raw; /* the terminal is ours to restore, and `saved` is what it was */

bool terminal_background(void)
{
	pid_t front = tcgetpgrp(0);

	return front > 0 && front != getpgrp();
}

void terminal_raw(void)
{
	struct termios t;

	/* Stop before asking for the modes: now they are the line editor's. Ignored where nobody could wake us. */
	if (terminal_background())
		kill(0, SIGTTOU);
	/* After a bare SIGSTOP the terminal may still be raw here: what was saved first stays what it was. */
	if (!raw && tcgetattr(0, &saved))
		return;
	t = saved;
	cfmakeraw(&t);
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	if (!tcsetattr(0, TCSANOW, &t))
		raw = true;
}

void terminal_restore(void)
{
	if (raw && !terminal_background())
		tcsetattr(0, TCSANOW, &saved);
	raw = false;
}

struct resize terminal_size(void)
{
	struct winsize w;

	for (int fd = 0; fd < 3; fd++)
		if (!ioctl(fd, TIOCGWINSZ, &w))
			return (struct resize){w.ws_row, w.ws_col};
	return (struct resize){0, 0};
}

static void raise_default(int signal)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t set, before;

	sigemptyset(&set);
	sigaddset(&set, signal);
	sigaction(signal, &dfl, NULL);
	kill(getpid(), signal);
	sigprocmask(SIG_UNBLOCK, &set, &before);
	sigprocmask(SIG_SETMASK, &before, NULL);
}

void terminal_stop(void)
{
	bool was = raw;

	terminal_restore();
	/* Not SIGSTOP: in an orphaned process group nobody would ever wake us, and SIGTSTP is then ignored. */
	raise_default(SIGTSTP);
	if (was)
		terminal_raw();
}

void die_by(int signal)
{
	terminal_restore();
	raise_default(signal);
	_exit(128 + signal);
}

int reopen(int fd, int flags)
{
	char path[32];
	int own;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return own < 0 ? fd : own;
}

/* The longest proper start of the sequence that the first `held` bytes of it end with. */
static size_t overlap(const struct keys *keys, size_t held)
{
	for (size_t n = held - 1; n; n--)
		if (!memcmp(keys->key, keys->key + held - n, n))
			return n;
	return 0;
}

bool keys_filter(struct keys *keys, const unsigned char *from, size_t len, unsigned char *to, size_t *out)
{
	*out = 0;
	for (size_t i = 0; i < len; i++) {
		while (keys->held && keys->key[keys->held] != from[i]) {
			size_t keep = overlap(keys, keys->held);

			memcpy(to + *out, keys->key, keys->held - keep);
			*out += keys->held - keep;
			keys->held = keep;
		}
		if (!keys->len || keys->key[keys->held] != from[i])
			to[(*out)++] = from[i];
		else if (++keys->held == keys->len)
			return true;
	}
	return false;
}
