/*
 * PID 1 of a guest: it makes the guest's own file systems, and then runs plans that come over a serial port, each in a
 * process of its own, which is that process's launcher and carries its streams. It decides nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define PORTS	  "/sys/class/virtio-ports"
#define PORT	  "cove.agent"
#define GROUP	  "/sys/fs/cgroup"
#define WAIT_MS	  10000
#define FREEZE_MS 1000 /* a process that waits for a disk stands still after it */
#define LIST_MAX  8192

#define MACHINE_CHANNEL 1 /* the first one that a hub gives */
#define NO_CHANNEL	UINT32_MAX

static struct mux mux;
static int children; /* signalfd */

/* Said on the console, which the host keeps for a guest that ends badly. */
static void say(const char *what, const char *name)
{
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		dprintf(fd, "cove: %s %s: %s\n", what, name, strerror(errno));
		close(fd);
	}
}

/* ---- the guest's own file systems and devices ---- */

static void mount_one(const char *type, const char *at, unsigned long flags)
{
	mkdir(at, 0755);
	if (mount(type, at, type, flags, NULL) && errno != EBUSY)
		say("mount", at);
}

static void controllers(void)
{
	static const char *const NAMES[] = {"+memory", "+pids", "+cpu", "+io", "+cpuset"};

	for (size_t i = 0; i < sizeof(NAMES) / sizeof(NAMES[0]); i++) {
		int fd = open(GROUP "/cgroup.subtree_control", O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, NAMES[i], strlen(NAMES[i])) < 0)
			say("controller", NAMES[i]);
		if (fd >= 0)
			close(fd);
	}
}

/* Its virtio_mmio.device= words, which a module does not see by itself; whether it wants what few machines need. */
static int mmio_words(char *words, size_t size)
{
	static const char KEY[] = "virtio_mmio.";
	static char line[LIST_MAX];
	size_t used = 0, len = sizeof(KEY) - 1;

	read_file("/proc/cmdline", line, sizeof(line));
	int later = strstr(line, " cove.later") != NULL;
	for (char *at = strtok(line, " \n"); at; at = strtok(NULL, " \n")) {
		int n = strncmp(at, KEY, len) ? 0 : snprintf(words + used, size - used, "%s ", at + len);
		if (n < 0 || (size_t)n >= size - used)
			break;
		used += (size_t)n;
	}
	return later;
}

/* In the order of /modules/order; what is built in or has no device here does no harm. */
static void modules(void)
{
	static char list[2 * LIST_MAX], mmio[LIST_MAX];
	char path[160];

	read_file("/modules/order", list, LIST_MAX);
	if (mmio_words(mmio, sizeof(mmio)))
		read_file("/modules/later", list + strlen(list), LIST_MAX);
	for (char *end, *at = list; *at; at = end + (*end == '\n')) {
		end = at + strcspn(at, "\n");
		snprintf(path, sizeof(path), "/modules/%.*s", (int)(end - at), at);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (syscall(SYS_finit_module, fd, strstr(path, "virtio_mmio") ? mmio : "", 0) && errno != EEXIST)
			say("module", path);
		if (fd >= 0)
			close(fd);
	}
}

static int port_named(char *path, size_t size)
{
	char file[64], name[32];

	for (int port = 0; port < 8; port++) {
		for (int device = 0; device < 16; device++) { /* numbered among all of virtio */
			snprintf(file, sizeof(file), PORTS "/vport%dp%d/name", device, port);
			if (read_file(file, name, sizeof(name)) < 0)
				continue;
			name[strcspn(name, "\n")] = 0;
			if (strcmp(name, PORT))
				continue;
			snprintf(path, size, "/dev/vport%dp%d", device, port);
			return 1;
		}
	}
	return 0;
}

static int port_open(void)
{
	char path[48];
	int fd = -1;

	for (int ms = 0; fd < 0 && ms < WAIT_MS; ms++) {
		if (port_named(path, sizeof(path)))
			fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return fd;
}

/* ---- channels ---- */

/* In a process of its own: it may wait until the port takes what it says. */
static void read_main(int conn) __attribute__((noreturn));
static void read_main(int conn)
{
	static char paths[FRAME_MAX + 1], file[FRAME_MAX];
	struct msg head;
	ssize_t len = msg_recv(conn, &head, paths, FRAME_MAX, NULL, NULL, 0), n = 0;

	for (char *path = paths; path < paths + len; path += strlen(path) + 1) {
		int fd = open(path, O_RDONLY | O_CLOEXEC), err = fd < 0 ? -errno : 1;
		size_t got = 0;
		while (fd >= 0 && got < sizeof(file) && (n = read(fd, file + got, sizeof(file) - got)) > 0)
			got += (size_t)n;
		if (fd >= 0 && n < 0)
			err = -errno;
		close(fd);
		if (msg_send(conn, MSG_OUTPUT, err, file, got, NULL, 0))
			break;
	}
	_exit(0);
}

/* The machine's processes stand still, or go on; whether they do. One that does not stop in time is told of. */
static int freeze(bool still)
{
	char events[256];
	int fd = open(GROUP "/machine/cgroup.freeze", O_WRONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : write(fd, still ? "1" : "0", 1);

	close(fd);
	for (int ms = 0; n > 0 && still && ms < FREEZE_MS; ms++) {
		if (read_file(GROUP "/machine/cgroup.events", events, sizeof(events)) > 0 && strstr(events, "frozen 1"))
			return 0;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return still ? -EBUSY : 0;
}

/* In a copy of the guest: the machine's program is somebody's again once it is adopted. What others say is read no more
   and their channels' numbers are free; they end when their processes do. */
static void begin_anew(struct mux *of)
{
	of->holder = 0;
	of->due = false;
	for (size_t i = 0; i < CHANNELS_MAX; i++) {
		of->end[i].leaving = false;
		if (of->end[i].fd < 0)
			continue;
		of->end[i].waiting = true;
		if (of->end[i].channel == MACHINE_CHANNEL)
			continue;
		of->end[i].channel = NO_CHANNEL;
		msg_send(of->end[i].fd, MSG_ORPHAN, 0, NULL, 0, NULL, 0);
	}
}

/* A channel nobody knows: a process for it, which hears this message first. */
static int channel_open(struct mux *of, const struct msg *head, const char *data)
{
	int pair[2];
	pid_t pid;

	if (head->kind == MSG_HOLD || head->kind == MSG_GO) {
		of->due = head->kind == MSG_HOLD;
		of->holder = of->due ? head->reserved : 0;
		of->held = freeze(of->due);
		if (of->due && head->value)
			sync();
	}
	if (head->kind == MSG_ANEW)
		begin_anew(of);
	if (head->kind != MSG_PLAN && head->kind != MSG_RUN && head->kind != MSG_READ && head->kind != MSG_ACCEPT)
		return 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return mux_say(of, head->reserved, MSG_CLOSE, 0, NULL, 0);
	pid = fork();
	if (!pid) {
		close(of->serial);
		close(children);
		mux_close(of, 0);
		close(pair[0]);
		if (head->kind == MSG_READ)
			read_main(pair[1]);
		if (head->kind == MSG_ACCEPT)
			accept_main(pair[1]);
		channel_main(pair[1]);
	}
	close(pair[1]);
	if (pid < 0 || mux_add(of, pair[0], head->reserved)) {
		if (pid < 0)
			close(pair[0]);
		return mux_say(of, head->reserved, MSG_CLOSE, 0, NULL, 0);
	}
	msg_send(pair[0], head->kind, head->value, data, head->len, NULL, 0);
	return 0;
}

static void reap_all(void)
{
	struct signalfd_siginfo info;

	while (read(children, &info, sizeof(info)) == sizeof(info))
		;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

/* The first root cannot be pivoted away from: everything goes on in a tmpfs mounted over it. */
static void leave_initramfs(void)
{
	mount_one("tmpfs", "/root", MS_NOSUID | MS_NODEV);
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot("."))
		say("enter", "/root");
}

static void greet(void)
{
	struct utsname name;

	uname(&name);
	mux_say(&mux, 0, MSG_HELLO, GUEST_PROTOCOL, name.release, strlen(name.release));
}

static void prepare(void)
{
	sigset_t set;

	umask(0);
	mount_one("proc", "/proc", 0);
	modules();
	leave_initramfs();
	mount_one("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
	mount_one("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC);
	mount_one("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC);
	mount_one("cgroup2", GROUP, MS_NOSUID | MS_NODEV | MS_NOEXEC);
	controllers();
	umask(022);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	children = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int agent_main(void)
{
	int port;

	in_guest = 1;
	prepare();
	machine_pid = mmap(NULL, 2 * sizeof(*machine_pid), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	port = port_open();
	if (port < 0 || machine_pid == MAP_FAILED) {
		say("open", PORT);
		reboot(RB_POWER_OFF);
	}
	mux_init(&mux, port, -1);
	mux.open = channel_open;
	mux.log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	greet();
	for (;;) {
		struct pollfd extra = {.fd = children, .events = POLLIN};
		if (mux_turn(&mux, &extra, 1) == -EPROTO)
			reboot(RB_POWER_OFF); /* the host's bytes are out of step: none that follow can be read */
		if (extra.revents)
			reap_all();
	}
}
