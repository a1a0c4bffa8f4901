/* Reaching the daemon: which one, the command line as one message, and the other program where there is no daemon. */
#define _GNU_SOURCE
#include "cove.h"
#include "front.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define STATE_DIR "/var/lib/cove"
#ifndef COVE_STAMP
#define COVE_STAMP ""
#endif

/* The daemon finds it in the program by what stands before it (linux/program.py). */
static const char marked_stamp[] = "cove-stamp:" COVE_STAMP;
const char *const build_stamp = marked_stamp + sizeof("cove-stamp:") - 1;

struct request {
	uint32_t argc, envc, umask, terminals;
	struct resize size;
};

int post(int sock, struct msg head, const void *data, int flags, const int *fds, size_t nfds)
{
	struct iovec part[2] = {{&head, sizeof(head)}, {(void *)data, head.len}};
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control = {0};
	struct msghdr m = {.msg_iov = part, .msg_iovlen = 2};

	if (nfds) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		*CMSG_FIRSTHDR(&m) = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(nfds * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), fds, nfds * sizeof(int));
	}
	return sendmsg(sock, &m, flags | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* ---- the request ---- */

static char *put(char *to, const char *text)
{
	return stpcpy(to, text) + 1;
}

static size_t request_size(char **argv, const char *cwd)
{
	size_t n = sizeof(struct request) + strlen(cwd) + 1;

	for (char **a = argv; *a; a++)
		n += strlen(*a) + 1;
	for (char **e = environ; *e; e++)
		n += strlen(*e) + 1;
	return n;
}

static void request_fill(char *to, char **argv, const char *cwd)
{
	struct request head = {.umask = umask(0), .size = terminal_size()};
	char *at = put(to + sizeof(head), cwd);

	umask(head.umask);
	for (int fd = 0; fd < 3; fd++)
		head.terminals |= isatty(fd) ? 1u << fd : 0;
	for (; argv[head.argc]; head.argc++)
		at = put(at, argv[head.argc]);
	for (; environ[head.envc]; head.envc++)
		at = put(at, environ[head.envc]);
	memcpy(to, &head, sizeof(head));
}

int send_request(int sock, char **argv, char *buffer)
{
	struct msg head = {.kind = MSG_REQUEST, .reserved = FRONT_PROTOCOL};
	int fds[4] = {0, 1, 2, -1};
	char cwd[PATH_MAX];
	size_t size;
	void *big;

	if (!getcwd(cwd, sizeof(cwd)))
		cwd[0] = '\0'; /* deleted: only a command that needs one should mind */
	size = request_size(argv, cwd);
	if (size <= MSG_MAX) {
		request_fill(buffer, argv, cwd);
		head.len = size;
		return post(sock, head, buffer, 0, fds, 3);
	}
	fds[3] = memfd_create("request", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fds[3] < 0 || ftruncate(fds[3], size))
		return -errno;
	big = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[3], 0);
	if (big == MAP_FAILED)
		return -errno;
	request_fill(big, argv, cwd);
	munmap(big, size);
	if (fcntl(fds[3], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE))
		return -errno;
	return post(sock, head, NULL, 0, fds, 4);
}

/* ---- finding the daemon, or the other program ---- */

void obey_options(char **argv)
{
	static const struct {
		const char *name, *env;
	} option[] = {
		{"--root", "COVE_ROOT"},
		{"--host", "COVE_HOST"},
		{"-H", "COVE_HOST"},
	};

	for (char **a = argv + 1; *a && **a == '-'; a++)
		for (size_t i = 0; i < sizeof(option) / sizeof(*option); i++) {
			size_t len = strlen(option[i].name);

			if (!strcmp(*a, option[i].name) && a[1])
				setenv(option[i].env, *++a, 1);
			else if (!strncmp(*a, option[i].name, len) && (*a)[len] == '=')
				setenv(option[i].env, *a + len + 1, 1);
			else
				continue;
			break;
		}
}

int open_daemon(void)
{
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), dir = -1, err = 0;
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	const char *root = getenv("COVE_ROOT");
	char path[PATH_MAX];

	root = root && *root ? root : STATE_DIR;
	if (sock < 0)
		return -errno;
	if ((size_t)snprintf(path, sizeof(path), "%s/run", root) >= sizeof(path))
		return -ENAMETOOLONG;
	if (strlen(path) + sizeof("/front.sock") > sizeof(to.sun_path)) {
		dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0)
			return -errno;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", dir);
	}
	snprintf(to.sun_path, sizeof(to.sun_path), "%.*s/front.sock", (int)sizeof(to.sun_path) - 12, path);
	if (connect(sock, (struct sockaddr *)&to, sizeof(to)))
		err = -errno;
	if (dir >= 0)
		close(dir);
	return err ? err : sock;
}

/* Where a shell would find it. */
static bool find_in_path(const char *name, char *found, size_t size)
{
	const char *at = getenv("PATH");

	for (; at && *at; at += strcspn(at, ":"), at += *at == ':') {
		snprintf(found, size, "%.*s/%s", (int)strcspn(at, ":"), at, name);
		if (*at != ':' && !access(found, X_OK))
			return true;
	}
	return false;
}

static void try_beside(const char *path, char **argv)
{
	char script[PATH_MAX];
	const char *slash = strrchr(path, '/');

	if (slash &&
	    snprintf(script, sizeof(script), "%.*s/cove-python", (int)(slash - path), path) < (int)sizeof(script))
		execv(script, argv);
}

int go_python(char **argv, const char *why)
{
	char self[PATH_MAX], found[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	const char *text = "cove: cannot find cove-python, which belongs beside this program\n"
			   "  hint: install cove again: pip install --force-reinstall cove\n";

	if (!strcmp(why, "denied")) /* root's installation may be out of reach as well */
		text = "cove: cannot reach the daemon: permission denied\n  hint: run it with sudo\n";
	self[n < 0 ? 0 : n] = '\0';
	setenv("COVE_FRONT", self, 1);
	setenv("COVE_WHY", why, 1);
	try_beside(self, argv);
	if (strchr(argv[0], '/'))
		try_beside(argv[0], argv);
	else if (find_in_path(argv[0], found, sizeof(found)))
		try_beside(found, argv);
	if (find_in_path("cove-python", found, sizeof(found)))
		execv(found, argv);
	write_all(2, text, strlen(text));
	return 125;
}
