/* Datagrams with descriptors, and whole writes. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cove.h"

union control {
	char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	struct cmsghdr align;
};

int msg_send(int sock, uint32_t kind, int32_t value, const void *data, size_t len, const int *fds, size_t nfds)
{
	struct msg head = {.kind = kind, .value = value, .len = (uint32_t)len};
	struct iovec iov[2] = {{&head, sizeof(head)}, {(void *)data, len}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = len ? 2 : 1};
	union control control;

	if (len > MSG_MAX || nfds > FDS_MAX)
		return -EMSGSIZE;
	if (nfds) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * nfds);
	}
	for (;;) {
		if (sendmsg(sock, &msg, MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno != EINTR)
			return errno == ECONNRESET ? -EPIPE : -errno; /* the same, of a peer that had not read all */
	}
}

/*
 * Takes at most *nfds descriptors and closes the rest: a peer cannot make us keep what we did not ask for. The kernel
 * puts all of a message's descriptors into one header, the only one here.
 */
static void take_fds(struct msghdr *msg, int *fds, size_t *nfds)
{
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);
	size_t want = nfds ? *nfds : 0, got = 0, count = 0;

	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS)
		count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (size_t i = 0; i < count; i++) {
		int fd;
		memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
		if (got < want)
			fds[got++] = fd;
		else
			close(fd);
	}
	if (nfds)
		*nfds = got;
}

ssize_t msg_recv(int sock, struct msg *head, void *data, size_t max, int *fds, size_t *nfds, int flags)
{
	struct iovec iov[2] = {{head, sizeof(*head)}, {data, max}};
	union control control;
	struct msghdr msg = {.msg_iov = iov,
			     .msg_iovlen = max ? 2 : 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	ssize_t n;

	/* A peer that closed with something of ours unread gives ECONNRESET first, and only then what it had said. */
	do
		n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && (errno == EINTR || errno == ECONNRESET));
	if (n < 0)
		return -errno;
	take_fds(&msg, fds, nfds);
	int err = 0;
	if (n == 0)
		err = -EPIPE;
	else if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		err = -EMSGSIZE;
	else if ((size_t)n < sizeof(*head) || (size_t)n - sizeof(*head) != head->len)
		err = -EBADMSG;
	while (err && nfds && *nfds)
		close(fds[--*nfds]);
	return err ? err : (ssize_t)head->len;
}

int write_all(int fd, const void *data, size_t len)
{
	const char *at = data;

	while (len) {
		ssize_t n = write(fd, at, len);
		if (n < 0 && errno == EAGAIN) {
			struct pollfd wait = {.fd = fd, .events = POLLOUT};
			poll(&wait, 1, -1);
			continue;
		}
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			at += n;
			len -= (size_t)n;
		}
	}
	return 0;
}
