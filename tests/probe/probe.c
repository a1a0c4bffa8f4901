/*
 * What a hostile program would try, one verb each; put into the test image as a static binary.
 * Prints "ok" or the name of the errno and exits 0 when the verb could be tried, 1 when it could not.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int say(long result)
{
	if (result >= 0)
		puts("ok");
	else
		puts(strerrorname_np(errno));
	return 0;
}

/* open FILE for writing, and write one byte where that can do no harm if it works */
static int v_write(char **a)
{
	int fd = open(a[0], O_WRONLY | O_CLOEXEC);

	return say(fd < 0 ? -1 : write(fd, "0", 1));
}

static int v_open(char **a)
{
	return say(open(a[0], O_RDONLY | O_CLOEXEC));
}

/* list the descriptors this program was born with */
static int v_fds(char **a)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	char link[4096];

	(void)a;
	if (!dir)
		return 1;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(dir)) {
			ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

			printf("%s %.*s\n", entry->d_name, n < 0 ? 0 : (int)n, link);
		}
	return 0;
}

static int v_tiocsti(char **a)
{
	(void)a;
	return say(ioctl(0, TIOCSTI, "x"));
}

/* a system call by the 32-bit gate: number and up to three arguments */
static int v_int80(char **a)
{
	long result = -ENOSYS;

#ifdef __x86_64__
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(atol(a[0])), "b"(a[1] ? atol(a[1]) : 0), "c"(a[1] && a[2] ? atol(a[2]) : 0), "d"(0)
			 : "memory", "r8", "r9", "r10", "r11");
#endif
	errno = (int)-result;
	return say(result < 0 ? -1 : 0);
}

static int v_syscall(char **a)
{
	long w[7] = { 0 };

	for (int i = 0; i < 7 && a[i]; i++)
		w[i] = strtol(a[i], NULL, 0);
	return say(syscall(w[0], w[1], w[2], w[3], w[4], w[5], w[6]));
}

static int v_socket(char **a)
{
	return say(socket(atoi(a[0]), atoi(a[1]), atoi(a[2])));
}

static int v_unshare(char **a)
{
	return say(unshare((int)strtol(a[0], NULL, 0)));
}

static int v_mknod(char **a)
{
	return say(mknod(a[0], S_IFCHR | 0666, makedev(atoi(a[1]), atoi(a[2]))));
}

static int v_mount(char **a)
{
	return say(mount(a[0], a[1], a[2], 0, NULL));
}

/* touch N MiB of memory, under a NAME if one is given */
static int v_hog(char **a)
{
	if (a[1])
		prctl(PR_SET_NAME, a[1]);
	size_t size = (size_t)atol(a[0]) << 20;
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 1;
	memset(p, 1, size);
	puts("survived");
	return 0;
}

/* fork as long as the kernel lets us; say how far it went */
static int v_bomb(char **a)
{
	int n = 0, limit = atoi(a[0]);

	for (; n < limit; n++) {
		pid_t pid = fork();

		if (pid < 0)
			break;
		if (!pid) {
			pause();
			_exit(0);
		}
	}
	printf("%d\n", n);
	fflush(stdout);
	kill(0, SIGTERM);
	return 0;
}

/* write N MiB into a file that has no name and no descriptor any more, and wait S seconds */
static int v_hide(char **a)
{
	static char chunk[1 << 20];
	int fd = open("/hidden", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	memset(chunk, 1, sizeof(chunk));
	if (fd < 0 || unlink("/hidden") || write(fd, chunk, sizeof(chunk)) < 0 ||
	    mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
		return say(-1);
	for (int i = 1; i < atoi(a[0]); i++)
		if (write(fd, chunk, sizeof(chunk)) < 0)
			return say(-1);
	close(fd);
	sleep((unsigned)atoi(a[1]));
	puts("survived");
	return 0;
}

/* for S seconds, the longest command line of any process but oneself */
static int v_cmdlines(char **a)
{
	char path[300], line[4096], longest[4096] = "";
	struct timespec now, end;
	struct dirent *entry;

	clock_gettime(CLOCK_MONOTONIC, &end);
	do {
		DIR *dir = opendir("/proc");

		while (dir && (entry = readdir(dir))) {
			snprintf(path, sizeof(path), "/proc/%s/cmdline", entry->d_name);
			int fd = atoi(entry->d_name) <= 1 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
			ssize_t n = fd < 0 ? 0 : read(fd, line, sizeof(line) - 1);

			for (ssize_t i = 0; i + 1 < n; i++)
				line[i] = line[i] ? line[i] : ' ';
			line[n < 0 ? 0 : n] = 0;
			if (strlen(line) > strlen(longest))
				strcpy(longest, line);
			if (fd >= 0)
				close(fd);
		}
		closedir(dir);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec + atoi(a[0]));
	puts(longest);
	return 0;
}

static int v_dumpable(char **a)
{
	(void)a;
	printf("%d\n", prctl(PR_GET_DUMPABLE));
	return 0;
}

static int v_chroot_escape(char **a)
{
	(void)a;
	/* the classic: a descriptor of the old root, a chroot deeper, then up and up */
	int fd = open("/", O_RDONLY | O_DIRECTORY);

	mkdir("/tmp/deeper", 0755);
	if (fd < 0 || chroot("/tmp/deeper") || fchdir(fd))
		return say(-1);
	for (int i = 0; i < 64; i++)
		if (chdir(".."))
			return say(-1);
	if (chroot("."))
		return say(-1);
	return say(access("/tmp/host-marker", F_OK));
}

static int send_frames(int fd, char **a)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(a[0]) };
	static unsigned char frame[20000];

	for (int i = 1; fd >= 0 && a[i]; i++) {
		size_t len = strlen(a[i]) / 2;

		for (size_t at = 0; at < len; at++)
			sscanf(a[i] + 2 * at, "%2hhx", &frame[at]);
		if (sendto(fd, frame, len, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
			return say(-1);
	}
	return say(fd);
}

/* send frames (hexadecimal) by an interface, as they are */
static int v_frames(char **a)
{
	return send_frames(socket(AF_PACKET, SOCK_RAW, 0), a);
}

/* the same with what a card is to do with it before it (struct virtio_net_hdr): checksums, cutting it in pieces */
static int v_giants(char **a)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0), on = 1;

	if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)))
		return say(-1);
	return send_frames(fd, a);
}

static int all(int fd, unsigned char *data, size_t len, ssize_t (*act)(int, unsigned char *, size_t))
{
	while (len) {
		ssize_t n = act(fd, data, len);

		if (n <= 0)
			return 0;
		data += n;
		len -= (size_t)n;
	}
	return 1;
}

static ssize_t put(int fd, unsigned char *data, size_t len)
{
	return write(fd, data, len);
}

static ssize_t get(int fd, unsigned char *data, size_t len)
{
	return read(fd, data, len);
}

/* carry messages, each behind its length, between us and an address: PROTOCOL ADDRESS PORT */
static int v_carry(char **a)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(a[2])) };
	int stream = !strcmp(a[0], "tcp"), fd = socket(AF_INET, stream ? SOCK_STREAM : SOCK_DGRAM, 0);
	struct pollfd both[2] = { { .fd = 0, .events = POLLIN }, { .fd = fd, .events = POLLIN } };
	static unsigned char data[2 + 65535];
	ssize_t n;

	inet_pton(AF_INET, a[1], &to.sin_addr);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return 1;
	while (poll(both, 2, -1) > 0) {
		if (both[0].revents) {
			size_t len = 0;
			int more = all(0, data, 2, get);

			if (more)
				len = (size_t)data[0] << 8 | data[1];
			if (more && all(0, data, len, get))
				send(fd, data, len, MSG_NOSIGNAL);
			else if (!stream || shutdown(fd, SHUT_WR))
				return 0;
			else
				both[0].fd = -1;
		}
		if (both[1].revents) {
			n = recv(fd, data + 2, sizeof(data) - 2, 0);
			if (n <= 0 && stream)
				return 0;
			data[0] = (unsigned char)(n >> 8);
			data[1] = (unsigned char)n;
			if (n >= 0 && !all(1, data, (size_t)n + 2, put))
				return 0;
		}
	}
	return 1;
}

/* a question of one byte to an agent, and the first byte of what it answers: PATH NUMBER */
static int v_agent(char **a)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	unsigned char ask[5] = { 0, 0, 0, 1, (unsigned char)atoi(a[1]) }, said[5];
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", a[0]);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		printf("errno %d\n", errno);
		return 0;
	}
	if (!all(fd, ask, sizeof(ask), put) || !all(fd, said, sizeof(said), get))
		return 1;
	printf("%d\n", said[4]);
	return 0;
}

/* standard input to an agent, and its answer to standard output: PATH; 1: it hung up */
static int v_ask(char **a)
{
	static unsigned char data[300 << 10];
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ssize_t n;

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", a[0]);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return 2;
	while ((n = read(0, data, sizeof(data))) > 0)
		if (!all(fd, data, (size_t)n, put))
			return 1;
	if (!all(fd, data, 4, get))
		return 1;
	size_t len = (size_t)data[0] << 24 | (size_t)data[1] << 16 | (size_t)data[2] << 8 | data[3];
	return len > sizeof(data) || !all(fd, data, len, get) || !all(1, data, len, put);
}

/* swap two names, as fast as can be: nothing is missing at any moment */
static int v_exchange(char **a)
{
	while (!renameat2(AT_FDCWD, a[0], AT_FDCWD, a[1], RENAME_EXCHANGE))
		;
	printf("errno %d\n", errno);
	return 1;
}

static const struct {
	const char *name;
	int (*run)(char **);
} VERBS[] = {
	{ "write", v_write },	  { "open", v_open },	    { "fds", v_fds },
	{ "tiocsti", v_tiocsti }, { "int80", v_int80 },	    { "syscall", v_syscall },
	{ "socket", v_socket },	  { "unshare", v_unshare }, { "mknod", v_mknod },
	{ "mount", v_mount },	  { "hog", v_hog },	    { "bomb", v_bomb },
	{ "hide", v_hide },	    { "cmdlines", v_cmdlines },
	{ "dumpable", v_dumpable }, { "chroot-escape", v_chroot_escape },
	{ "frames", v_frames },	  { "giants", v_giants },   { "carry", v_carry },	    { "agent", v_agent },
	{ "ask", v_ask },
	{ "exchange", v_exchange },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(VERBS) / sizeof(*VERBS); i++)
		if (!strcmp(argv[1], VERBS[i].name))
			return VERBS[i].run(argv + 2);
	fprintf(stderr, "probe: which verb?\n");
	return 2;
}
