/*
 * The program a user types. It hands its command line and its fds to the daemon, then does what it is told: relay a
 * terminal, write, exit. It parses nothing but the two options that say where the daemon is, and decides nothing.
 */
#define _GNU_SOURCE
#include "front.h"
#include "cove.h"
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define INPUT_MAX (32u << 10) /* one MSG_INPUT: a socket that polls writable takes it */

enum { GO_BY_HTTP = -2, OTHER_VERSION = -3 };

struct front {
	int sock, signals; /* the peer; a signalfd */
	sigset_t before;   /* the mask we were started with */
	bool session, detached;
	unsigned int interrupts; /* SIGINTs passed on */
	int32_t flags;		 /* of MSG_SESSION */
	struct keys keys;
	/* what waits to be sent */
	uint64_t pending; /* bit n-1: signal n */
	bool resize, eof, detach;
	size_t in_len;
	/* what waits to be written */
	size_t out_at, out_len;
	int out;   /* 1 or 2 */
	int fd[3]; /* reopened where that was possible; -1: not yet */
	int code;  /* -1: go on */
};

static char buffer[MSG_MAX]; /* the request, then what the peer says */
static unsigned char input[INPUT_MAX + KEYS_MAX];

/* ---- signals ---- */

/* Process 1 of a machine ignores what it has no handler for: the kernel protects it. */
static const char stubborn[] =
	"\ncove: the machine goes on after 3 SIGINT\n"
	"  hint: end it with cove kill (cove ps has its name); cove run --init lets Ctrl-C end it\n";

static void take(const struct front *front, sigset_t *set, int signal)
{
	struct sigaction old;

	/* What was ignored when we began (nohup, `&` of a plain shell) stays so: blocked, it would be queued. */
	if (!sigaction(signal, NULL, &old) && old.sa_handler != SIG_IGN && sigismember(&front->before, signal) == 0)
		sigaddset(set, signal);
}

static int open_signals(struct front *front)
{
	static const int always[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGCONT, SIGWINCH};
	static const int session[] = {SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGXCPU, SIGXFSZ};
	sigset_t set, hold;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(always) / sizeof(*always); i++)
		take(front, &set, always[i]);
	for (size_t i = 0; front->session && i < sizeof(session) / sizeof(*session); i++)
		take(front, &set, session[i]);
	for (int s = SIGRTMIN; front->session && s <= SIGRTMAX; s++)
		take(front, &set, s);
	hold = set;
	sigaddset(&hold, SIGPIPE); /* the terminal must be restored first */
	sigprocmask(SIG_BLOCK, &hold, NULL);
	front->signals = signalfd(front->signals, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return front->signals < 0 ? -errno : 0;
}

static void on_signal(struct front *front)
{
	struct signalfd_siginfo got;
	static uint64_t seen; /* before the session: the user insists */
	uint64_t bit;

	if (read(front->signals, &got, sizeof(got)) != sizeof(got))
		return;
	switch (got.ssi_signo) {
	case SIGWINCH:
		front->resize = front->session;
		return;
	case SIGTSTP:
		terminal_stop();
		front->resize = front->session;
		return;
	case SIGCONT:
		if (front->flags & RAW_TERMINAL)
			terminal_raw();
		front->resize = front->session;
		return;
	default:
		bit = 1ull << (got.ssi_signo - 1);
		if (front->session ? !(front->flags & FORWARD_SIGNALS) || front->pending & bit : seen & bit)
			die_by((int)got.ssi_signo);
		if (!front->session)
			seen |= bit;
		front->pending |= bit;
		if (front->session && got.ssi_signo == SIGINT && ++front->interrupts == 3)
			write_all(2, stubborn, strlen(stubborn));
	}
}

/* ---- to the peer ---- */

static int say(struct front *front, uint32_t kind, int32_t value, const void *data, size_t len)
{
	struct msg head = {.kind = kind, .value = value, .len = (uint32_t)len};

	return post(front->sock, head, data, MSG_DONTWAIT, NULL, 0);
}

/* Sends what waits, signals first. A peer that is gone is noticed by reading, after its last words. */
static void flush_peer(struct front *front)
{
	struct resize size = terminal_size();

	for (; front->pending; front->pending &= front->pending - 1)
		if (say(front, MSG_SIGNAL, __builtin_ctzll(front->pending) + 1, NULL, 0) == -EAGAIN)
			return;
	if (front->resize && say(front, MSG_RESIZE, 0, &size, sizeof(size)) == -EAGAIN)
		return;
	front->resize = false;
	if (front->in_len && say(front, MSG_INPUT, 0, input, front->in_len) == -EAGAIN)
		return;
	front->in_len = 0;
	if (front->eof && say(front, MSG_INPUT_EOF, 0, NULL, 0) == -EAGAIN)
		return;
	front->eof = false;
	if (front->detach && say(front, MSG_DETACH, 0, NULL, 0) == -EAGAIN)
		return;
	front->detach = false;
}

static bool to_send(const struct front *front)
{
	return front->pending || front->resize || front->in_len || front->eof || front->detach;
}

static void on_input(struct front *front)
{
	unsigned char from[INPUT_MAX];
	ssize_t n = read(front->fd[0], from, sizeof(from));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		front->detach = keys_filter(&front->keys, from, (size_t)n, input, &front->in_len);
		front->detached = front->detach;
		return;
	}
	/* End of input, or a terminal that hung up. A sequence that was only begun belongs to the machine. */
	memcpy(input, front->keys.key, front->keys.held);
	front->in_len = front->keys.held;
	front->eof = true;
	front->flags &= ~RELAY_STDIN;
}

/* ---- from the peer ---- */

static void begin_session(struct front *front, const struct msg *head)
{
	front->flags = head->value;
	front->keys = (struct keys){.len = head->len < KEYS_MAX ? head->len : KEYS_MAX};
	memcpy(front->keys.key, buffer, front->keys.len);
	if (!front->session) {
		front->session = true;
		open_signals(front);
	}
	if (front->flags & RELAY_STDIN && front->fd[0] < 0) {
		/* As if we read at once: poll alone would let a background job wait for the shell's next key. */
		if (isatty(0) && terminal_background())
			kill(0, front->flags & RAW_TERMINAL ? SIGTTOU : SIGTTIN);
		front->fd[0] = isatty(0) ? reopen(0, O_RDONLY) : 0;
	}
	if (front->flags & RAW_TERMINAL)
		terminal_raw();
}

static void take_output(struct front *front, const struct msg *head)
{
	struct stat st;

	front->out = head->value == 2 ? 2 : 1;
	front->out_at = 0;
	front->out_len = head->len;
	if (front->fd[front->out] >= 0)
		return;
	front->fd[front->out] = front->out;
	if (isatty(front->out) || (!fstat(front->out, &st) && S_ISFIFO(st.st_mode)))
		front->fd[front->out] = reopen(front->out, O_WRONLY);
}

static void on_writable(struct front *front)
{
	/* A description that is the caller's own may block: a page is what a pipe that polls writable takes whole. */
	size_t left = front->out_len - front->out_at, most = front->fd[front->out] == front->out ? 4096 : left;
	ssize_t n = write(front->fd[front->out], buffer + front->out_at, left < most ? left : most);

	if (n >= 0)
		front->out_at += (size_t)n;
	else if (errno == EPIPE)
		die_by(SIGPIPE);
	else if (errno != EAGAIN && errno != EINTR)
		front->out_at = front->out_len; /* a terminal that hung up: its SIGHUP is what ends us */
}

static void lost_peer(struct front *front)
{
	const char *text = front->session ? "cove: lost the machine's monitor\n" : "cove: lost the daemon\n";

	front->code = front->detached ? 0 : 125;
	terminal_restore();
	if (!front->detached)
		write_all(2, text, strlen(text));
}

static void on_message(struct front *front)
{
	struct msg head;
	struct iovec part[2] = {{&head, sizeof(head)}, {buffer, sizeof(buffer)}};
	struct msghdr m = {.msg_iov = part, .msg_iovlen = 2};
	ssize_t n = recvmsg(front->sock, &m, MSG_DONTWAIT);

	/* ECONNRESET comes first, and then what a peer said that closed with something of ours unread. */
	if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNRESET))
		return;
	if (n < (ssize_t)sizeof(head) || head.len != (size_t)n - sizeof(head)) {
		lost_peer(front);
	} else if (head.kind == MSG_OUTPUT) {
		take_output(front, &head);
	} else if (head.kind == MSG_SESSION) {
		begin_session(front, &head);
	} else if (head.kind == MSG_EXIT) {
		terminal_restore();
		if (head.value < 0 && !front->session) {
			/* from a daemon that makes way: where its successor goes on */
			buffer[head.len < sizeof(buffer) ? head.len : 0] = '\0';
			setenv("COVE_RESUME", buffer, 1);
			front->code = head.value;
			return;
		}
		sigprocmask(SIG_SETMASK, &front->before, NULL);
		write_all(2, buffer, strnlen(buffer, head.len)); /* behind a NUL: the same as data */
		front->code = head.value & 255;
	}
}

/* Obeys the peer until it says the exit code. Nothing in here blocks but poll. */
static int obey(struct front *front)
{
	while (front->code == -1) {
		bool writing = front->out_at < front->out_len;
		bool reading = front->flags & RELAY_STDIN && !front->in_len && !front->detached;
		struct pollfd p[4] = {
			{writing && !to_send(front) ? -1 : front->sock,
			 (short)((writing ? 0 : POLLIN) | (to_send(front) ? POLLOUT : 0)), 0},
			{front->signals, POLLIN, 0},
			{writing ? front->fd[front->out] : -1, POLLOUT, 0},
			{reading ? front->fd[0] : -1, POLLIN, 0},
		};

		if (poll(p, 4, -1) < 0)
			continue;
		if (p[1].revents)
			on_signal(front);
		if (p[2].revents)
			on_writable(front);
		if (p[3].revents)
			on_input(front);
		if (to_send(front))
			flush_peer(front);
		if (p[0].revents & (POLLIN | POLLHUP | POLLERR) && !writing)
			on_message(front);
	}
	return front->code;
}

int front_main(int argc, char **argv)
{
	struct front front = {.signals = -1, .fd = {-1, -1, -1}, .code = -1};
	const char *host;
	int err;

	(void)argc;
	while ((front.sock = open("/dev/null", O_RDWR)) >= 0 && front.sock < 3)
		;
	close(front.sock);
	obey_options(argv);
	setenv("COVE_STAMP", build_stamp, 1); /* a daemon that is older than this program makes way for its own */
	host = getenv("COVE_HOST");
	if (host && *host)
		return go_python(argv, "host");
	front.sock = open_daemon();
	if (front.sock < 0)
		return go_python(argv, front.sock == -EACCES || front.sock == -EPERM ? "denied" : "absent");
	sigprocmask(SIG_BLOCK, NULL, &front.before);
	err = open_signals(&front);
	err = err ? err : send_request(front.sock, argv, buffer);
	if (err == -ECONNRESET || err == -EPIPE) { /* it died, and what it was not given whole it did not begin */
		sigprocmask(SIG_SETMASK, &front.before, NULL);
		return go_python(argv, "absent");
	}
	if (err) {
		dprintf(2, "cove: cannot hand the command to the daemon: %s\n", strerror(-err));
		return 125;
	}
	obey(&front);
	if (front.detached)
		write_all(2, "\n", 1); /* the machine's prompt has a line of its own */
	if (front.code >= 0)
		return front.code;
	sigprocmask(SIG_SETMASK, &front.before, NULL);
	close(front.sock);
	return go_python(argv, front.code == GO_BY_HTTP ? "refused" : "version");
}
