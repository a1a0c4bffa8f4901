/* One process in the guest, from its plan to its end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define GROUP	 "/sys/fs/cgroup/machine"
#define DRAIN_MS 100	     /* for writers that outlive the process */
#define HAND_MAX (64u << 10) /* of a plan, in one message */

volatile pid_t *machine_pid;

struct channel {
	struct pump pump;
	struct run run;
	uint32_t flags;
	struct guest_run order;
	char *plan;
	size_t len;
	struct guest_exit exit;
	char data[FRAME_MAX];
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---- the plan ---- */

/* Until the word to run it; a host that goes before has changed its mind. */
static void take_plan(struct channel *c)
{
	struct msg head;

	c->len = 0;
	c->plan = mmap(NULL, 2 * PLAN_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->plan == MAP_FAILED)
		_exit(125);
	for (;;) {
		ssize_t n = msg_recv(c->pump.conn, &head, c->data, sizeof(c->data), NULL, NULL, 0);
		if (n < 0 || (head.kind == MSG_PLAN && (size_t)n > 2 * PLAN_MAX - c->len))
			_exit(125);
		if (head.kind == MSG_PLAN) {
			memcpy(c->plan + c->len, c->data, (size_t)n);
			c->len += (size_t)n;
			pump_say(&c->pump, MSG_TAKEN, 1, NULL, 0);
		} else if (head.kind == MSG_RUN && n == sizeof(c->order)) {
			memcpy(&c->order, c->data, sizeof(c->order));
			c->flags = (uint32_t)head.value;
			return;
		}
	}
}

/* The machine's end becomes a register; ours is the pump's. */
static int pipe_make(struct channel *c, const char *name, bool input, int *ours)
{
	int p[2], err;

	if (pipe2(p, O_CLOEXEC))
		return -errno;
	*ours = p[input];
	fcntl(*ours, F_SETFL, (input ? O_WRONLY : O_RDONLY) | O_NONBLOCK);
	err = reg_set(&c->run.regs, name, p[!input]);
	if (err)
		close(p[!input]);
	return err;
}

static int streams_make(struct channel *c)
{
	int err = 0;

	c->pump.in[0].kind = c->pump.in[1].kind = MSG_OUTPUT;
	c->pump.in[0].value = 1;
	c->pump.in[1].value = 2;
	if (c->flags & RUN_TTY || !c->order.machine_len)
		return 0;
	if (c->flags & RUN_STDIN)
		err = pipe_make(c, "stdin", true, &c->pump.out[0].fd);
	if (!err)
		err = pipe_make(c, "stdout", false, &c->pump.in[0].fd);
	return err ? err : pipe_make(c, "stderr", false, &c->pump.in[1].fd);
}

/* More than a message holds goes to the child as a file. */
static int memory_make(int *memory, const char *data, size_t len)
{
	*memory = memfd_create("plan", MFD_CLOEXEC);
	return *memory < 0 ? -errno : write_all(*memory, data, len);
}

/* What plans of a guest may refer to: this program, and the machine that runs, or nobody. */
static int registers_make(struct channel *c)
{
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), err = self < 0 ? -errno : 0;

	if (!err)
		err = reg_set(&c->run.regs, "self", self);
	int target = *machine_pid > 0 ? (int)syscall(SYS_pidfd_open, *machine_pid, 0) : -1;
	return err ? err : reg_set(&c->run.regs, "target", target);
}

/* One half, or the whole: its bytes are not needed once it has run. */
static int run_plan(struct channel *c)
{
	const char *machine = c->plan + c->order.host_len;
	int err = 0, memory = -1;

	if (c->len != (size_t)c->order.host_len + c->order.machine_len)
		err = -EPROTO;
	if (!err && !(c->flags & RUN_AHEAD))
		err = streams_make(c);
	if (!err)
		err = plan_decode(&c->run, c->plan, c->order.host_len, machine, c->order.machine_len);
	if (!err && c->flags & RUN_REST && c->order.machine_len > HAND_MAX)
		err = memory_make(&memory, machine, c->order.machine_len);
	if (!err && c->flags & RUN_REST)
		err = plan_hand(&c->run, machine, c->order.machine_len, memory, 0);
	if (!err)
		err = plan_run(&c->run);
	if (memory >= 0)
		close(memory);
	munmap(c->plan, 2 * PLAN_MAX);
	return err;
}

/* The first half, if that is what came: then the rest of it comes, or a plan that begins otherwise. */
static int ahead(struct channel *c)
{
	int err = 0;

	if (!(c->flags & RUN_AHEAD))
		return 0;
	c->run.half = AHEAD;
	if ((err = run_plan(c)))
		return err;
	pump_say(&c->pump, MSG_STARTED, 0, NULL, 0);
	take_plan(c);
	if (c->flags & RUN_REST)
		return c->flags & RUN_AHEAD ? -EPROTO : 0;
	plan_abandon(&c->run);
	plan_free(&c->run);
	plan_init(&c->run);
	return chdir("/") ? -errno : registers_make(c);
}

static int start(struct channel *c)
{
	int err;

	plan_init(&c->run);
	if (!(err = registers_make(c)) && !(err = ahead(c)))
		err = run_plan(c);
	while (!err && c->run.child && (err = plan_wait_exec(&c->run)) == -EAGAIN)
		err = 0;
	if (err && !c->run.report.err)
		c->run.report.err = -err;
	return err;
}

/* ---- its streams and its end ---- */

static void resize(struct channel *c, struct resize size)
{
	struct winsize window = {.ws_row = size.rows, .ws_col = size.cols};

	if (c->run.pty >= 0 && size.rows && size.cols)
		ioctl(c->run.pty, TIOCSWINSZ, &window);
}

static void started(struct channel *c)
{
	c->exit.record = (struct exit_record){.magic = RECORD_MAGIC, .started_ns = now_ns()};
	if (c->flags & RUN_MACHINE) {
		machine_pid[1] = getpid();
		*machine_pid = c->run.child;
	}
	if (c->run.pty >= 0) {
		fcntl(c->run.pty, F_SETFL, O_RDWR | O_NONBLOCK);
		c->pump.in[0].fd = c->run.pty;
		c->pump.out[0].fd = dup(c->run.pty);
		resize(c, (struct resize){c->order.rows, c->order.cols});
	}
	pump_say(&c->pump, MSG_STARTED, c->run.child, NULL, 0);
}

/* Whoever started it is in another guest, of which this one is a copy: what it says is read, so that it never waits. */
static void orphaned(struct channel *c) __attribute__((noreturn));
static void orphaned(struct channel *c)
{
	struct pollfd all[3] = {{.fd = c->run.pidfd, .events = POLLIN}};

	close(c->pump.conn);
	for (size_t i = 0; i < 2; i++)
		all[1 + i] = (struct pollfd){.fd = c->pump.in[i].fd, .events = POLLIN};
	while (!all[0].revents) {
		poll(all, 3, -1);
		for (size_t i = 1; i < 3; i++) {
			ssize_t n = all[i].revents ? read(all[i].fd, c->data, sizeof(c->data)) : 1;
			if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
				all[i].fd = -1;
		}
	}
	_exit(0);
}

/* Somebody new stands in for it on the host, who has taken nothing yet. */
static void adopted(struct channel *c, uint32_t flags)
{
	uint32_t waiting = c->pump.out[0].count;

	memcpy(&c->order, c->data, sizeof(c->order));
	c->flags = flags;
	c->pump.room = WINDOW;
	c->exit.record.started_ns = now_ns();
	resize(c, (struct resize){c->order.rows, c->order.cols});
	pump_say(&c->pump, MSG_STARTED, c->run.child, &waiting, sizeof(waiting));
}

static void heard(struct channel *c, const struct msg *head)
{
	struct resize size;

	if (head->kind == MSG_SIGNAL && head->value > 0 && head->value <= 64) {
		syscall(SYS_pidfd_send_signal, c->run.pidfd, head->value, NULL, 0);
	} else if (head->kind == MSG_RESIZE && head->len == sizeof(size)) {
		memcpy(&size, c->data, sizeof(size));
		resize(c, size);
	} else if (head->kind == MSG_ADOPT && head->len == sizeof(c->order)) {
		adopted(c, (uint32_t)head->value);
	} else if (head->kind == MSG_ORPHAN) {
		orphaned(c);
	}
}

/* A count of a group's events file. */
static uint32_t counter(const char *file, const char *key)
{
	char data[1024], *at;
	read_file(file, data, sizeof(data));
	at = strstr(data, key);
	return at ? (uint32_t)strtoul(at + strlen(key), NULL, 10) : 0;
}

/* The last one in the kernel's own words: "Killed process 7 (name) total-vm:..., anon-rss:12kB, ..." */
static void victim(char *text, size_t size)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char line[1024], name[32];
	unsigned pid, kilobytes;
	ssize_t n;

	while (fd >= 0 && ((n = read(fd, line, sizeof(line) - 1)) > 0 || (n < 0 && errno == EPIPE))) {
		line[n < 0 ? 0 : n] = 0;
		char *at = strstr(line, "Killed process "), *rss = at ? strstr(at, "anon-rss:") : NULL;
		if (rss && sscanf(at, "Killed process %u (%31[^)])", &pid, name) == 2 &&
		    sscanf(rss, "anon-rss:%ukB", &kilobytes) == 1)
			snprintf(text, size, "%u %s %u", pid, name, kilobytes);
	}
	if (fd >= 0)
		close(fd);
}

static void dead(struct channel *c)
{
	siginfo_t info = {0};

	while (waitid(P_PIDFD, (id_t)c->run.pidfd, &info, WEXITED) && errno == EINTR)
		;
	c->exit.record.finished_ns = now_ns();
	c->exit.record.core = info.si_code == CLD_DUMPED;
	c->exit.record.signal = info.si_code == CLD_EXITED ? 0 : (uint32_t)info.si_status;
	c->exit.record.code = (uint32_t)info.si_status + (info.si_code == CLD_EXITED ? 0 : 128);
	if (!(c->flags & RUN_MACHINE))
		return;
	*machine_pid = 0;
	c->exit.oom_kills = counter(GROUP "/memory.events", "oom_kill ");
	c->exit.forks_refused = counter(GROUP "/pids.events", "max ");
	if (c->exit.oom_kills)
		victim(c->exit.victim, sizeof(c->exit.victim));
}

/* Nobody listens any more: the process has no reason to go on. */
static void abandoned(struct channel *c) __attribute__((noreturn));
static void abandoned(struct channel *c)
{
	syscall(SYS_pidfd_send_signal, c->run.pidfd, SIGKILL, NULL, 0);
	dead(c);
	_exit(0);
}

/* All output, unless somebody else keeps it open; a host that takes none is waited for. */
static void drain(struct channel *c)
{
	unsigned moved = c->pump.moved - 1;
	struct msg head;
	int err = 0;

	while (err >= 0 && !pump_read(&c->pump) && (c->pump.room <= 0 || c->pump.moved != moved)) {
		moved = c->pump.moved;
		err = pump_turn(&c->pump, NULL, 0, c->pump.room > 0 ? DRAIN_MS : -1, &head, c->data);
	}
}

static void serve(struct channel *c)
{
	struct pollfd child = {.fd = c->run.pidfd, .events = POLLIN};
	struct msg head;
	int err = 0;

	while (!child.revents) {
		err = pump_turn(&c->pump, &child, 1, -1, &head, c->data);
		if (err < 0)
			abandoned(c);
		if (err == 1)
			heard(c, &head);
	}
	dead(c);
	drain(c);
}

void channel_main(int conn)
{
	static struct channel c;

	prctl(PR_SET_NAME, "cove-channel");
	signal(SIGPIPE, SIG_IGN); /* a program that reads no more: its end is still to be told */
	pump_init(&c.pump, conn);
	take_plan(&c);
	if (start(&c)) {
		plan_abandon(&c.run);
		pump_say(&c.pump, MSG_FAILED, c.run.report.err, &c.run.report, sizeof(c.run.report));
		_exit(0);
	}
	if (c.run.child) {
		plan_unmap(&c.run);
		started(&c);
		serve(&c);
	}
	if (c.flags & RUN_SYNC)
		sync();
	pump_say(&c.pump, MSG_EXITED, (int32_t)c.exit.record.code, &c.exit, sizeof(c.exit));
	_exit(0);
}
