/*
 * Bytes between a machine and those who look at it. Nothing here waits: every write goes to a descriptor that takes
 * what it can, and a chunk of output is dropped only when log and all sessions have it. So a slow reader slows the
 * machine, as a pipe between two programs would.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "monitor.h"

#define TURNS 32 /* messages or reads of one session before the others have their turn */

void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void fds_close(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

int watch(struct monitor *m, int fd, short events)
{
	if (fd < 0)
		return -1;
	m->poll[m->polls] = (struct pollfd){.fd = fd, .events = events};
	return (int)m->polls++;
}

short seen(const struct monitor *m, int slot)
{
	return slot < 0 ? 0 : m->poll[slot].revents;
}

void machine_resize(struct monitor *m, struct resize size)
{
	struct winsize window = {.ws_row = size.rows, .ws_col = size.cols};

	if (m->pty >= 0 && size.rows && size.cols)
		ioctl(m->pty, TIOCSWINSZ, &window);
}

int machine_signal(const struct monitor *m, int sig)
{
	if (m->phase != RUNNING || sig < 1 || sig > 64)
		return -EINVAL;
	return syscall(SYS_pidfd_send_signal, m->pidfd, sig, NULL, 0) ? -errno : 0;
}

/* ---- the machine's stdin ---- */

static void stdin_close(struct monitor *m)
{
	for (size_t k = 0; k < SESSIONS_MAX; k++)
		if (m->session[k])
			close_fd(&m->session[k]->in); /* whoever writes there is not to wait for ever */
	if (!(m->flags & START_TTY))
		close_fd(&m->stdin_fd);
	m->stdin_fd = -1; /* a terminal has no end; what else is typed is dropped */
}

/* Session's bytes into the machine; at the end of them the machine's stdin ends too, unless it is to stay open. */
static void stdin_feed(struct monitor *m, struct session *s)
{
	while (s->fill && m->stdin_fd >= 0) {
		ssize_t n = write(m->stdin_fd, s->buf + s->head, s->fill);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0) {
			stdin_close(m);
			break;
		}
		s->head += (size_t)n;
		s->fill -= (size_t)n;
		s->choked = false;
	}
	s->head = s->fill = 0;
	s->choked = false;
	if (s->in_eof && m->stdin_fd >= 0 && !(m->flags & (START_KEEP_STDIN | START_TTY)))
		stdin_close(m);
}

/* Until there is nothing to read or the machine takes no more: a FIFO opened after its last writer left never polls. */
static void stdin_read(struct monitor *m, struct session *s)
{
	for (int turn = 0; turn < TURNS && s->in >= 0 && !s->fill && m->stdin_fd >= 0; turn++) {
		ssize_t n = s->in_socket ? recv(s->in, s->buf, sizeof(s->buf), MSG_DONTWAIT)
					 : read(s->in, s->buf, sizeof(s->buf));
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			s->in_eof = true;
			close_fd(&s->in);
		}
		s->fill = n > 0 ? (size_t)n : 0;
		m->touched |= s->fill > PAGE;
		stdin_feed(m, s);
	}
}

/* ---- sessions ---- */

/* A caller's pipe is shared with the caller: opened anew, so that O_NONBLOCK is of this description only. -1: the front
   has to relay it. ENXIO is a FIFO that nobody reads: a write to it does not wait either. */
static int pipe_reopen(int fd, int flags)
{
	char path[32];
	int own;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, flags | O_NONBLOCK | O_CLOEXEC);
	if (own < 0 && errno == ENXIO)
		return fd;
	close(fd);
	return own;
}

static struct sink sink_open(int fd)
{
	struct sink sink = {.kind = SINK_RELAY, .fd = fd, .slot = -1};
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return sink;
	sink.kind = S_ISFIFO(st.st_mode) ? SINK_PIPE : S_ISSOCK(st.st_mode) ? SINK_SOCKET : SINK_FILE;
	if (sink.kind == SINK_PIPE && (sink.fd = pipe_reopen(fd, O_WRONLY)) < 0)
		sink.kind = SINK_RELAY;
	return sink;
}

static void sinks_close(struct session *s)
{
	for (size_t i = 0; i < 2; i++) {
		close_fd(&s->sink[i].fd);
		s->sink[i].kind = SINK_NONE;
		s->sink[i].full = false;
	}
}

/* The front is gone. The struct stays until the end of the turn. */
static void session_lost(struct monitor *m, struct session *s)
{
	if (s->has_stdin && m->flags & START_STDIN_ONCE && !(m->flags & START_TTY))
		stdin_close(m);
	if (s->bound)
		machine_signal(m, SIGKILL);
	s->bound = false;
	s->has_stdin = false;
	close_fd(&s->front);
	close_fd(&s->in);
	sinks_close(s);
}

/* MSG_EXIT once all output is delivered; `now` drops the rest of it. */
static void session_end(struct session *s, int code, bool now)
{
	s->ending = true;
	s->code = code;
	close_fd(&s->in);
	if (now)
		sinks_close(s);
}

void sessions_end(struct monitor *m, int code)
{
	for (size_t k = 0; k < SESSIONS_MAX; k++)
		if (m->session[k] && !m->session[k]->ending)
			session_end(m->session[k], code, false);
}

static ssize_t front_send(const struct session *s, uint32_t kind, int32_t value, const void *data, size_t len)
{
	struct msg head = {.kind = kind, .value = value, .len = (uint32_t)len};
	struct iovec iov[2] = {{&head, sizeof(head)}, {(void *)data, len}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

	return sendmsg(s->front, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : (ssize_t)len;
}

int session_add(struct monitor *m, uint32_t flags, uint32_t which, const int fds[4], const void *keys, size_t keys_len)
{
	struct session *s = MAP_FAILED;
	struct stat st = {0};
	int32_t value = (m->flags & START_TTY ? RAW_TERMINAL : 0) | (flags & START_SIG_PROXY ? FORWARD_SIGNALS : 0);
	size_t k = 0;

	while (k < SESSIONS_MAX && m->session[k])
		k++;
	if (k < SESSIONS_MAX)
		s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED) {
		fds_close(fds, 4);
		return -EAGAIN;
	}
	if (m->flags & START_TTY)
		which &= ~(uint32_t)WHICH_STDERR; /* a terminal has one stream */
	s->front = fds[0];
	s->in = fds[1];
	s->bound = flags & START_BOUND;
	s->front_slot = s->in_slot = -1;
	s->has_stdin = which & WHICH_STDIN && m->stdin_fd >= 0;
	if (!s->has_stdin)
		close_fd(&s->in);
	if (s->in >= 0 && !fstat(s->in, &st) && S_ISFIFO(st.st_mode))
		s->in = pipe_reopen(s->in, O_RDONLY);
	s->in_socket = S_ISSOCK(st.st_mode);
	value |= s->has_stdin && s->in < 0 ? RELAY_STDIN : 0;
	for (size_t i = 0; i < 2; i++) {
		s->sink[i] = (struct sink){.kind = SINK_NONE, .fd = -1, .slot = -1};
		if (which & (WHICH_STDOUT << i))
			s->sink[i] = sink_open(fds[2 + i]);
		else
			fds_close(&fds[2 + i], 1);
		value |= s->sink[i].kind == SINK_RELAY ? RELAY_STDOUT << i : 0;
		s->sink[i].done = m->source[i].len; /* what came before is not for this one */
	}
	m->session[k] = s;
	m->sessions++;
	if (front_send(s, MSG_SESSION, value, keys, keys_len) < 0)
		session_lost(m, s);
	stdin_read(m, s);
	return 0;
}

/* ---- output ---- */

static bool behind(const struct monitor *m, const struct session *s, size_t i)
{
	return s->sink[i].kind != SINK_NONE && (s->sink[i].full || s->sink[i].done < m->source[i].len);
}

static size_t takers(const struct monitor *m, size_t i, struct session **one)
{
	size_t count = 0;

	for (size_t k = 0; k < SESSIONS_MAX; k++)
		if (m->session[k] && m->session[k]->sink[i].kind != SINK_NONE) {
			*one = m->session[k];
			count++;
		}
	return count;
}

/* The caller's own reader has gone, or its disk is full. As on the host, a program that nobody hears gets SIGPIPE. */
static void sink_broken(struct monitor *m, struct session *s, size_t i, int err)
{
	bool front = s->sink[i].kind == SINK_RELAY;
	struct session *other;

	s->sink[i].kind = SINK_NONE;
	s->sink[i].full = false;
	close_fd(&s->sink[i].fd);
	if (front)
		session_lost(m, s);
	else if (m->phase != RUNNING || s->ending)
		return; /* the machine's own exit code stands */
	else if (err == EPIPE && !(m->flags & (START_LOG | START_TTY)) && !takers(m, i, &other))
		stream_close(m, i);
	else
		session_end(s, err == EPIPE ? 128 + SIGPIPE : 125, true);
	s->error = err == EPIPE ? 0 : err;
}

static void sink_write(struct monitor *m, struct session *s, size_t i)
{
	const struct source *from = &m->source[i];
	struct sink *sink = &s->sink[i];

	while (sink->kind != SINK_NONE && sink->done < from->len) {
		const char *data = from->buf + sink->done;
		size_t len = from->len - sink->done < CHUNK_MAX ? from->len - sink->done : CHUNK_MAX;
		ssize_t n = sink->kind == SINK_RELAY	? front_send(s, MSG_OUTPUT, (int)i + 1, data, len)
			    : sink->kind == SINK_SOCKET ? send(sink->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL)
							: write(sink->fd, data, len);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0)
			sink_broken(m, s, i, errno);
		else
			sink->done += (size_t)n;
	}
}

/* Once everybody has the chunk, there is room for the next. */
static void stream_settle(struct monitor *m, size_t i)
{
	for (size_t k = 0; k < SESSIONS_MAX; k++)
		if (m->session[k] && behind(m, m->session[k], i))
			return;
	m->source[i].len = 0;
	for (size_t k = 0; k < SESSIONS_MAX; k++)
		if (m->session[k])
			m->session[k]->sink[i].done = 0;
}

void stream_close(struct monitor *m, size_t i)
{
	if (m->source[i].fd >= 0 && m->source[i].fd == m->pty)
		m->pty = m->stdin_fd = -1;
	close_fd(&m->source[i].fd);
}

/* What is left in a dead machine's pipe is taken whole, so that a stuck reader keeps neither the log nor the daemon
 * waiting. */
static bool source_room(struct monitor *m, struct source *from)
{
	size_t size = from->size ? from->size + 4 * CHUNK_MAX : CHUNK_MAX;
	void *buf;

	if (m->phase == RUNNING && from->len)
		return false;
	if (from->size - from->len >= CHUNK_MAX)
		return true;
	if (size > TAIL_MAX)
		return false;
	if (from->buf)
		buf = mremap(from->buf, from->size, size, MREMAP_MAYMOVE);
	else
		buf = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED)
		return false;
	from->buf = buf;
	from->size = size;
	return true;
}

/* A pipe to a pipe, with no log and nobody else: the bytes need not come up here. */
static bool stream_splice(struct monitor *m, size_t i)
{
	struct source *from = &m->source[i];
	struct session *s = NULL;

	if (m->phase != RUNNING || m->flags & (START_LOG | START_TTY) || from->len || takers(m, i, &s) != 1 ||
	    s->sink[i].kind != SINK_PIPE)
		return false;
	ssize_t n = splice(from->fd, NULL, s->sink[i].fd, NULL, CHUNK_MAX, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	s->sink[i].full = n < 0 && errno == EAGAIN;
	if (!n)
		stream_close(m, i);
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		sink_broken(m, s, i, errno);
	return true;
}

static void stream_read(struct monitor *m, size_t i)
{
	struct source *from = &m->source[i];
	ssize_t n;

	if (stream_splice(m, i))
		return;
	if (!source_room(m, from)) {
		if (m->phase != RUNNING)
			stream_close(m, i);
		return;
	}
	n = read(from->fd, from->buf + from->len, CHUNK_MAX);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		stream_close(m, i);
		return;
	}
	if (m->flags & START_LOG)
		log_write(&m->log, (uint8_t)(i + 1), from->buf + from->len, (size_t)n);
	from->len += (size_t)n;
	m->touched |= from->len > PAGE;
	for (size_t k = 0; k < SESSIONS_MAX; k++)
		if (m->session[k])
			sink_write(m, m->session[k], i);
	stream_settle(m, i);
}

/* What is there by now, and no more: who still writes did not end with the machine. We may have slept past the wait. */
void stream_finish(struct monitor *m, size_t i)
{
	for (size_t n = 0; n < TAIL_MAX / CHUNK_MAX && m->source[i].fd >= 0; n++)
		stream_read(m, i);
	stream_close(m, i);
}

/* ---- what a front says ---- */

static void front_act(struct monitor *m, struct session *s, const struct msg *head, const void *data, size_t len)
{
	struct resize size;

	if (head->kind == MSG_INPUT) {
		s->fill += s->has_stdin && m->stdin_fd >= 0 && !s->in_eof ? len : 0;
		m->touched |= len > PAGE;
		stdin_feed(m, s);
	} else if (head->kind == MSG_INPUT_EOF) {
		s->in_eof = s->has_stdin;
		stdin_feed(m, s);
	} else if (head->kind == MSG_RESIZE && len == sizeof(size)) {
		memcpy(&size, data, sizeof(size));
		machine_resize(m, size);
	} else if (head->kind == MSG_SIGNAL) {
		machine_signal(m, head->value);
	} else if (head->kind == MSG_DETACH && !s->ending) {
		s->has_stdin = false;
		session_end(s, m->flags & START_EXEC ? 1 : 0, true); /* Docker's: nobody will know how an exec ends */
	}
}

static void front_read(struct monitor *m, struct session *s)
{
	struct msg head;
	char small[64];

	for (int turn = 0; turn < TURNS && s->front >= 0; turn++) {
		ssize_t n = recv(s->front, &head, sizeof(head), MSG_PEEK | MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		bool input = n == sizeof(head) && head.kind == MSG_INPUT;
		if (n != sizeof(head) || (input && head.len > CHUNK_MAX)) {
			session_lost(m, s);
			return;
		}
		s->choked = input && head.len > CHUNK_MAX - s->fill;
		if (s->choked)
			return;
		if (input && s->head)
			memmove(s->buf, s->buf + s->head, s->fill);
		s->head = input ? 0 : s->head;
		char *to = input ? s->buf + s->fill : small;
		n = msg_recv(s->front, &head, to, input ? head.len : sizeof(small), NULL, NULL, MSG_DONTWAIT);
		if (n >= 0)
			front_act(m, s, &head, to, (size_t)n);
		else if (n != -EMSGSIZE && n != -EAGAIN)
			session_lost(m, s);
	}
}

/* ---- one turn of the loop ---- */

void streams_watch(struct monitor *m)
{
	bool hungry = false;

	for (size_t i = 0; i < 2; i++) {
		bool wait = m->source[i].len;
		for (size_t k = 0; k < SESSIONS_MAX; k++)
			wait |= m->session[k] && m->session[k]->sink[i].full;
		m->source[i].slot = wait && m->phase == RUNNING ? -1 : watch(m, m->source[i].fd, POLLIN);
	}
	for (size_t k = 0; k < SESSIONS_MAX; k++) {
		struct session *s = m->session[k];
		if (!s)
			continue;
		bool late[2] = {behind(m, s, 0), behind(m, s, 1)};
		bool relay = (late[0] && s->sink[0].kind == SINK_RELAY) || (late[1] && s->sink[1].kind == SINK_RELAY);
		short events = (s->choked ? 0 : POLLIN) | (relay || (s->ending && !late[0] && !late[1]) ? POLLOUT : 0);
		s->front_slot = watch(m, s->front, events);
		s->in_slot = watch(m, m->stdin_fd >= 0 && !s->fill ? s->in : -1, POLLIN);
		for (size_t i = 0; i < 2; i++)
			s->sink[i].slot = watch(m, late[i] ? s->sink[i].fd : -1, POLLOUT);
		hungry |= s->fill > 0;
	}
	m->stdin_slot = watch(m, hungry ? m->stdin_fd : -1, POLLOUT);
}

/* MSG_EXIT when it is time for it. */
static void session_exit(struct monitor *m, struct session *s)
{
	char text[128];
	const char *why = s->error ? text : m->reason, *reason = strerror(s->error);
	size_t len = m->phase == RUNNING ? 0 : m->reason_len;

	if (!s->ending || s->front < 0 || behind(m, s, 0) || behind(m, s, 1))
		return;
	if (s->error)
		len = (size_t)snprintf(text, sizeof(text), "cove: cannot write the output: %c%s\n", *reason | 0x20,
				       reason + 1);
	if (front_send(s, MSG_EXIT, s->code, why, len) < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	s->has_stdin = false;
	session_lost(m, s);
}

static void session_run(struct monitor *m, struct session *s)
{
	short front = seen(m, s->front_slot);
	bool fed = seen(m, m->stdin_slot) && s->fill;

	if (front & POLLIN)
		front_read(m, s);
	else if (front & (POLLHUP | POLLERR))
		session_lost(m, s);
	if (fed)
		stdin_feed(m, s);
	if (fed || seen(m, s->in_slot))
		stdin_read(m, s);
	for (size_t i = 0; i < 2; i++)
		if (seen(m, s->sink[i].slot) || (s->sink[i].kind == SINK_RELAY && front & POLLOUT)) {
			s->sink[i].full = false;
			sink_write(m, s, i);
		}
}

void streams_run(struct monitor *m)
{
	for (size_t k = 0; k < SESSIONS_MAX; k++)
		if (m->session[k])
			session_run(m, m->session[k]);
	for (size_t i = 0; i < 2; i++) {
		stream_settle(m, i);
		if (m->source[i].fd >= 0 && seen(m, m->source[i].slot))
			stream_read(m, i);
	}
	sessions_reap(m);
}

void sessions_reap(struct monitor *m)
{
	for (size_t k = 0; k < SESSIONS_MAX; k++) {
		if (m->session[k])
			session_exit(m, m->session[k]);
		if (m->session[k] && m->session[k]->front < 0) {
			munmap(m->session[k], sizeof(struct session));
			m->session[k] = NULL;
			m->sessions--;
		}
	}
}

/* After a quiet second: memory is what many machines cost. */
void streams_idle(struct monitor *m)
{
	for (size_t i = 0; m->touched && i < 2; i++)
		if (m->source[i].buf && !m->source[i].len)
			madvise(m->source[i].buf, m->source[i].size, MADV_DONTNEED);
	for (size_t k = 0; m->touched && k < SESSIONS_MAX; k++)
		if (m->session[k] && !m->session[k]->fill)
			madvise(m->session[k]->buf, sizeof(m->session[k]->buf), MADV_DONTNEED);
	m->touched = false;
}
