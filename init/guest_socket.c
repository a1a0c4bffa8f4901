/*
 * A socket of the machine's whose visitors are the host's: the plan makes it, and the process that carries the
 * machine's program keeps it. The host asks for one visitor after another, and so says how many there are at once.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent.h"
#include "ops.h"

#define LISTENERS     512 /* descriptor of the first one */
#define LISTENERS_MAX 256
#define BACKLOG	      16

int op_listen(struct run *run, const struct op *op)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	uint64_t number = word_u(op->argv[0]);
	const char *path = op->argv[1];
	int fd, err = 0;

	if (number >= LISTENERS_MAX || strlen(path) >= sizeof(at.sun_path))
		return fault(run, -E2BIG, path);
	strcpy(at.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, BACKLOG) ||
	    chown(path, (uid_t)word_u(op->argv[3]), (gid_t)word_u(op->argv[4])) || chmod(path, word_o(op->argv[2])) ||
	    dup3(fd, LISTENERS + (int)number, O_CLOEXEC) < 0)
		err = -errno;
	if (fd >= 0)
		close(fd);
	return err ? fault(run, err, path) : 0;
}

/* The next one; a host that goes meanwhile wants none. */
static int accepted(int conn, int listener)
{
	struct pollfd wait[2] = {{.fd = listener, .events = POLLIN}, {.fd = conn, .events = POLLIN}};
	int fd = -1;

	while (fd < 0 && !wait[1].revents) {
		poll(wait, 2, -1);
		fd = wait[0].revents ? accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC) : -1;
		if (fd < 0 && wait[0].revents && errno != EAGAIN && errno != EINTR)
			break;
	}
	return fd;
}

void accept_main(int conn)
{
	static struct pump pump;
	static char data[FRAME_MAX];
	struct msg head;
	int carrier, fd;

	signal(SIGPIPE, SIG_IGN); /* a visitor that reads no more */
	if (msg_recv(conn, &head, data, sizeof(data), NULL, NULL, 0) < 0 || head.value < 0 || machine_pid[1] <= 0)
		_exit(0);
	carrier = (int)syscall(SYS_pidfd_open, machine_pid[1], 0);
	fd = accepted(conn, (int)syscall(SYS_pidfd_getfd, carrier, LISTENERS + head.value % LISTENERS_MAX, 0));
	if (fd < 0)
		_exit(0);
	pump_init(&pump, conn);
	pump.in[0].fd = fd;
	pump.in[0].kind = MSG_INPUT; /* its end is told, too */
	pump.out[0].fd = dup(fd);
	if (!pump_say(&pump, MSG_ACCEPTED, 0, NULL, 0))
		while (!pump_turn(&pump, NULL, 0, -1, &head, data))
			;
	_exit(0);
}
