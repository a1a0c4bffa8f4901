/*
 * Many channels over one serial port. A channel's local end is a datagram socket; nothing here waits for one of them:
 * windows keep what is under way below what a socket holds, and who does not keep to them loses the channel.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

void mux_init(struct mux *mux, int serial, int listen)
{
	mux->serial = serial;
	mux->listen = listen;
	mux->log = -1;
	mux->open = NULL;
	mux->last = mux->holder = 0;
	mux->due = false;
	mux->in_len = mux->out_len = 0;
	for (size_t i = 0; i < CHANNELS_MAX; i++)
		mux->end[i].fd = -1;
	fcntl(serial, F_SETFL, O_RDWR | O_NONBLOCK);
}

static struct mux_end *find(struct mux *mux, uint32_t channel)
{
	for (size_t i = 0; i < CHANNELS_MAX; i++)
		if (mux->end[i].fd >= 0 && mux->end[i].channel == channel)
			return &mux->end[i];
	return NULL;
}

int mux_add(struct mux *mux, int fd, uint32_t channel)
{
	for (size_t i = 0; i < CHANNELS_MAX; i++) {
		if (mux->end[i].fd >= 0 || mux->end[i].leaving)
			continue;
		mux->end[i] = (struct mux_end){.fd = fd, .slot = -1, .channel = channel};
		return 0;
	}
	close(fd);
	return -EMFILE;
}

/* ---- to the serial port ---- */

/* Nobody there to write to has perhaps said something before it went: the end is found by who reads. */
static void flush(struct mux *mux)
{
	while (mux->out_len) {
		ssize_t n = write(mux->serial, mux->out, mux->out_len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		mux->out_len -= n < 0 ? mux->out_len : (size_t)n;
		memmove(mux->out, mux->out + (n < 0 ? 0 : n), mux->out_len);
	}
}

static bool has_room(const struct mux *mux)
{
	return sizeof(mux->out) - mux->out_len >= sizeof(struct msg) + FRAME_MAX;
}

int mux_say(struct mux *mux, uint32_t channel, uint32_t kind, int32_t value, const void *data, size_t len)
{
	struct msg head = {.kind = kind, .value = value, .len = (uint32_t)len, .reserved = channel};

	if (len > FRAME_MAX || sizeof(mux->out) - mux->out_len < sizeof(head) + len)
		return -EAGAIN;
	memcpy(mux->out + mux->out_len, &head, sizeof(head));
	if (len)
		memcpy(mux->out + mux->out_len + sizeof(head), data, len);
	mux->out_len += sizeof(head) + len;
	flush(mux);
	return 0;
}

/* Whether a program runs there, which only its exit or its failure ends well. */
static void learn(struct mux_end *end, uint32_t kind)
{
	if (kind == MSG_STARTED || kind == MSG_EXITED || kind == MSG_FAILED)
		end->runs = kind == MSG_STARTED;
}

static void end_close(struct mux *mux, struct mux_end *end, const char *why, int err)
{
	if (err && end->runs && mux->log >= 0)
		dprintf(mux->log, "cove: %lld channel %u: %s: %s\n", (long long)time(NULL), end->channel, why,
			strerror(-err));
	close(end->fd);
	end->fd = -1;
}

void mux_close(struct mux *mux, int err)
{
	for (size_t i = 0; i < CHANNELS_MAX; i++)
		if (mux->end[i].fd >= 0)
			end_close(mux, &mux->end[i], "the port", err);
}

/* Told to the other side as soon as there is room: what comes in is read in any case, or two full sides would wait for
   each other. */
static void end_gone(struct mux *mux, struct mux_end *end, const char *why, int err)
{
	end_close(mux, end, why, err);
	end->leaving = true;
}

static bool is_held(const struct mux *mux, const struct mux_end *end)
{
	return mux->holder && end->channel != mux->holder;
}

static int tell_gone(struct mux *mux)
{
	int err = 0;

	if (mux->due && has_room(mux)) {
		mux->due = false;
		err = mux_say(mux, mux->holder, MSG_HELD, mux->held, NULL, 0);
	}
	for (size_t i = 0; !err && i < CHANNELS_MAX && has_room(mux); i++) {
		if (!mux->end[i].leaving || is_held(mux, &mux->end[i]))
			continue;
		mux->end[i].leaving = false;
		if (mux->holder && mux->end[i].channel == mux->holder) {
			mux->holder = 0;
			err = mux_say(mux, mux->end[i].channel, MSG_GO, 0, NULL, 0);
		}
		err = mux_say(mux, mux->end[i].channel, MSG_CLOSE, 0, NULL, 0);
	}
	return err;
}

/* What a local end says goes out as it is, under its channel's number. */
static int end_read(struct mux *mux, struct mux_end *end)
{
	static char data[FRAME_MAX];
	struct msg head;
	ssize_t n = msg_recv(end->fd, &head, data, sizeof(data), NULL, NULL, MSG_DONTWAIT);

	if (n == -EAGAIN)
		return 0;
	if (n < 0 || head.kind == MSG_CLOSE) {
		end_gone(mux, end, "left", n < 0 ? (int)n : head.value);
		return 0;
	}
	learn(end, head.kind);
	if (mux->listen >= 0 && (head.kind == MSG_HOLD || head.kind == MSG_GO))
		mux->holder = head.kind == MSG_HOLD ? end->channel : 0;
	return mux_say(mux, end->channel, head.kind, head.value, data, (size_t)n);
}

/* ---- from the serial port ---- */

static int deliver(struct mux *mux, const struct msg *head, const char *data)
{
	struct mux_end *end = find(mux, head->reserved);
	struct iovec iov[2] = {{(void *)head, sizeof(*head)}, {(void *)data, head->len}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

	if (!end)
		return mux->open ? mux->open(mux, head, data) : 0;
	if (head->kind == MSG_CLOSE) {
		end_close(mux, end, "closed by the other side", -EPIPE);
		return 0;
	}
	learn(end, head->kind);
	end->waiting = end->waiting && head->kind != MSG_ADOPT;
	/* Who has gone may have left words that are still to be read; its end of file comes after them. */
	if (sendmsg(end->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
		end_gone(mux, end, "takes nothing", -errno);
	return 0;
}

static int serial_read(struct mux *mux)
{
	ssize_t n = read(mux->serial, mux->in + mux->in_len, sizeof(mux->in) - mux->in_len);
	size_t used = 0;
	struct msg head;
	int err = 0;

	if (n <= 0) /* a socket whose other end went with something unread says so first */
		return n && (errno == EAGAIN || errno == EINTR || errno == ECONNRESET) ? 0 : -EPIPE;
	mux->in_len += (size_t)n;
	while (!err && mux->in_len - used >= sizeof(head)) {
		memcpy(&head, mux->in + used, sizeof(head));
		if (head.len > FRAME_MAX)
			return -EPROTO;
		if (mux->in_len - used < sizeof(head) + head.len)
			break;
		err = deliver(mux, &head, mux->in + used + sizeof(head));
		used += sizeof(head) + head.len;
	}
	mux->in_len -= used;
	memmove(mux->in, mux->in + used, mux->in_len);
	return err;
}

/* ---- both ---- */

static void accept_end(struct mux *mux)
{
	int fd = accept4(mux->listen, NULL, NULL, SOCK_CLOEXEC);

	if (fd >= 0)
		mux_add(mux, fd, ++mux->last);
}

static int watch_fd(struct mux *mux, int fd, short events)
{
	if (fd < 0)
		return -1;
	mux->poll[mux->polls] = (struct pollfd){.fd = fd, .events = events};
	return (int)mux->polls++;
}

int mux_turn(struct mux *mux, struct pollfd *extra, size_t extras)
{
	bool room = has_room(mux);
	int serial, listen, err = 0;

	mux->polls = 0;
	serial = watch_fd(mux, mux->serial, (short)(POLLIN | (mux->out_len ? POLLOUT : 0)));
	listen = watch_fd(mux, mux->listen, POLLIN);
	for (size_t i = 0; i < extras; i++)
		watch_fd(mux, extra[i].fd, extra[i].events);
	for (size_t i = 0; i < CHANNELS_MAX; i++)
		mux->end[i].slot = room && !is_held(mux, &mux->end[i])
					   ? watch_fd(mux, mux->end[i].fd, mux->end[i].waiting ? 0 : POLLIN)
					   : -1;
	if (poll(mux->poll, mux->polls, -1) < 0)
		return errno == EINTR ? 0 : -errno;
	for (size_t i = 0; i < extras; i++)
		extra[i].revents = mux->poll[1 + (listen >= 0) + i].revents;
	if (mux->poll[serial].revents & POLLOUT)
		flush(mux);
	for (size_t i = 0; !err && i < CHANNELS_MAX && has_room(mux); i++)
		if (mux->end[i].fd >= 0 && mux->end[i].slot >= 0 && mux->poll[mux->end[i].slot].revents)
			err = end_read(mux, &mux->end[i]);
	if (!err && mux->poll[serial].revents & (POLLIN | POLLHUP | POLLERR))
		err = serial_read(mux);
	if (!err)
		err = tell_gone(mux);
	if (!err && listen >= 0 && mux->poll[listen].revents)
		accept_end(mux);
	return err;
}
