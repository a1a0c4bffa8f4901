/*
 * One end of a channel: bytes read here go out, bytes that come are written here. A reader that waits stops only its
 * own channel: the other side sends no more than a window ahead, and gets room again once bytes are written.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"

void pump_init(struct pump *pump, int conn)
{
	pump->conn = conn;
	pump->room = WINDOW;
	pump->adopting = false;
	for (size_t i = 0; i < 2; i++) {
		pump->in[i].fd = pump->out[i].fd = -1;
		pump->out[i].first = pump->out[i].count = 0;
		pump->out[i].done = 0;
		pump->out[i].ending = false;
	}
}

int pump_say(struct pump *pump, uint32_t kind, int32_t value, const void *data, size_t len)
{
	int err = msg_send(pump->conn, kind, value, data, len, NULL, 0);

	/* Who has said all and gone needs to hear nothing; that it has gone is seen after all it said. */
	return err == -EPIPE ? 0 : err;
}

bool pump_read(const struct pump *pump)
{
	return pump->in[0].fd < 0 && pump->in[1].fd < 0;
}

static void shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int input(struct pump *pump, size_t i)
{
	char data[FRAME_MAX];
	ssize_t n = read(pump->in[i].fd, data, sizeof(data));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	pump->moved++;
	if (n <= 0) { /* EIO is a terminal that nobody has open */
		shut(&pump->in[i].fd);
		return pump->in[i].kind == MSG_INPUT ? pump_say(pump, MSG_INPUT_EOF, 0, NULL, 0) : 0;
	}
	pump->room--;
	return pump_say(pump, pump->in[i].kind, pump->in[i].value, data, (size_t)n);
}

/* What cannot be written any more is taken all the same: nobody is to wait for it. */
static void output(struct pump *pump, size_t i)
{
	struct pump_out *out = &pump->out[i];
	int32_t taken = 0;

	while (out->count) {
		size_t left = out->len[out->first] - out->done;
		ssize_t n = out->fd < 0 ? (ssize_t)left : write(out->fd, out->buf[out->first] + out->done, left);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			shut(&out->fd);
			continue;
		}
		out->done += (size_t)n;
		if (out->done < out->len[out->first])
			continue;
		out->first = (out->first + 1) % WINDOW;
		out->count--;
		out->done = 0;
		taken++;
	}
	if (!out->count && out->ending)
		shut(&out->fd);
	if (taken && !pump->adopting)
		pump_say(pump, MSG_TAKEN, taken, NULL, 0);
}

static int received(struct pump *pump, size_t i, const char *data, size_t len)
{
	struct pump_out *out = &pump->out[i];
	unsigned last = (out->first + out->count) % WINDOW;

	if (out->count == WINDOW)
		return -EPROTO;
	memcpy(out->buf[last], data, len);
	out->len[last] = len;
	out->count++;
	output(pump, i);
	return 0;
}

/* 1: a message for the caller. */
static int hear(struct pump *pump, struct msg *head, char *data)
{
	ssize_t n = msg_recv(pump->conn, head, data, FRAME_MAX, NULL, NULL, MSG_DONTWAIT);

	if (n < 0)
		return n == -EAGAIN ? 0 : (int)n;
	pump->moved++;
	if (head->kind == MSG_TAKEN) {
		if (pump->adopting)
			return 0;
		if (head->value < 0 || head->value > WINDOW - pump->room)
			return -EPROTO;
		pump->room += head->value;
		return 0;
	}
	if (head->kind == MSG_INPUT || head->kind == MSG_OUTPUT)
		return received(pump, head->kind == MSG_OUTPUT && head->value == 2, data, (size_t)n);
	if (head->kind == MSG_INPUT_EOF) {
		pump->out[0].ending = true;
		output(pump, 0);
		return 0;
	}
	return 1;
}

static int watch_fd(struct pump *pump, int fd, short events)
{
	if (fd < 0)
		return -1;
	pump->poll[pump->polls] = (struct pollfd){.fd = fd, .events = events};
	return (int)pump->polls++;
}

int pump_turn(struct pump *pump, struct pollfd *extra, size_t extras, int timeout, struct msg *head, char *data)
{
	int err = 0;

	pump->polls = 0;
	for (size_t i = 0; i < extras; i++)
		watch_fd(pump, extra[i].fd, extra[i].events);
	pump->conn_slot = watch_fd(pump, pump->conn, POLLIN);
	for (size_t i = 0; i < 2; i++) {
		pump->in[i].slot = pump->room > 0 ? watch_fd(pump, pump->in[i].fd, POLLIN) : -1;
		pump->out[i].slot = pump->out[i].count ? watch_fd(pump, pump->out[i].fd, POLLOUT) : -1;
	}
	if (poll(pump->poll, pump->polls, timeout) < 0)
		return errno == EINTR ? 0 : -errno;
	for (size_t i = 0; i < extras; i++)
		extra[i].revents = pump->poll[i].revents;
	for (size_t i = 0; i < 2; i++)
		if (pump->out[i].slot >= 0 && pump->poll[pump->out[i].slot].revents)
			output(pump, i);
	for (size_t i = 0; !err && i < 2; i++)
		if (pump->in[i].slot >= 0 && pump->poll[pump->in[i].slot].revents && pump->room > 0)
			err = input(pump, i);
	return err || !pump->poll[pump->conn_slot].revents ? err : hear(pump, head, data);
}

void pump_flush(struct pump *pump)
{
	for (size_t i = 0; i < 2; i++) {
		while (pump->out[i].count) {
			struct pollfd wait = {.fd = pump->out[i].fd, .events = POLLOUT};
			poll(&wait, 1, -1);
			output(pump, i);
		}
	}
}
