/*
 * The start of a machine: MSG_START taken apart, pipes made, the plan run, and the daemon told how it went.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "monitor.h"

#define GENERIC "cove: cannot start the machine: the daemon went away before it could say why\n"

/* MSG_START; the pointers are into the message, or into the memfd that carried the plan. */
struct order {
	struct start start;
	int front[4];
	const char *keys, *host, *machine;
	int memory; /* the memfd, or -1 */
	void *mem[2];
	size_t mem_len[2];
};

/* Each descriptor to where its name says; what has no meaning here is a register of the plan. */
static int order_names(struct monitor *m, struct run *run, struct order *order, const int *fds, size_t len)
{
	const char *at = (const char *)order->mem[0] + sizeof(order->start), *end = (const char *)order->mem[0] + len;
	const size_t nfds = order->start.nnames;
	struct {
		const char *name;
		int *fd;
	} own[] = {
		{"front", &order->front[0]},  {"in", &order->front[1]}, {"out", &order->front[2]},
		{"err", &order->front[3]},    {"dir", &m->dir},		{"listen", &m->listen},
		{"state", &m->restart.state}, {"plan", &order->memory},
	};
	const size_t owns = sizeof(own) / sizeof(own[0]);

	for (size_t i = 0; i < nfds; i++) {
		size_t k = 0, n = strnlen(at, (size_t)(end - at));
		int err = 0;
		if (at + n == end)
			err = -EPROTO;
		while (!err && k < owns && strcmp(own[k].name, at))
			k++;
		if (!err && k == owns)
			err = reg_set(&run->regs, at, fds[i]);
		else if (!err && *own[k].fd < 0)
			*own[k].fd = fds[i];
		else if (!err)
			err = -EEXIST;
		if (err) {
			fds_close(fds + i, nfds - i);
			return err;
		}
		at += n + 1;
	}
	order->keys = at;
	return 0;
}

static int order_parse(struct monitor *m, struct run *run, struct order *order, size_t len, const int *fds, size_t nfds)
{
	const char *end = (const char *)order->mem[0] + len;
	struct stat st;
	int err;

	if (len >= sizeof(order->start))
		memcpy(&order->start, order->mem[0], sizeof(order->start));
	if (order->start.version != START_VERSION || order->start.nnames != nfds) {
		fds_close(fds, nfds);
		return -EPROTO;
	}
	m->flags = order->start.flags;
	err = order_names(m, run, order, fds, len);
	if (!err && (order->start.host_len > PLAN_MAX || order->start.machine_len > PLAN_MAX ||
		     order->start.keys_len > (size_t)(end - order->keys)))
		err = -EMSGSIZE;
	if (err)
		return err;
	order->host = order->keys + order->start.keys_len;
	len = (size_t)order->start.host_len + order->start.machine_len;
	if (order->memory >= 0) {
		err = fstat(order->memory, &st) || (size_t)st.st_size != len || !len ? -EPROTO : 0;
		order->mem_len[1] = len;
		order->mem[1] = err ? NULL : mmap(NULL, len, PROT_READ, MAP_PRIVATE, order->memory, 0);
		order->host = order->mem[1];
	} else if ((size_t)(end - order->host) != len) {
		err = -EPROTO;
	}
	order->machine = order->host + order->start.host_len;
	return err || order->mem[1] != MAP_FAILED ? err : -ENOMEM;
}

/* The machine's end of a pipe becomes a register and belongs to the machine's root, who may then open it anew. */
static int pipe_make(const struct start *start, struct run *run, const char *name, bool input, int *ours)
{
	int p[2], theirs, err;

	if (pipe2(p, O_CLOEXEC))
		return -errno;
	theirs = p[!input];
	*ours = p[input];
	if (fchown(theirs, start->uid, start->gid) || fcntl(*ours, F_SETFL, O_NONBLOCK))
		err = -errno;
	else
		err = reg_set(&run->regs, name, theirs);
	if (err)
		close(theirs);
	return err;
}

static int machine_pipes(struct monitor *m, struct run *run, const struct start *start)
{
	int err = 0;

	if (m->flags & START_TTY)
		return 0;
	if (m->flags & START_STDIN)
		err = pipe_make(start, run, "stdin", true, &m->stdin_fd);
	if (!err)
		err = pipe_make(start, run, "stdout", false, &m->source[0].fd);
	return err ? err : pipe_make(start, run, "stderr", false, &m->source[1].fd);
}

static int plan_start(struct monitor *m, struct run *run, const struct order *order)
{
	int err;

	if (m->exit < 0 && m->dir >= 0)
		unlinkat(m->dir, "exit", 0); /* of the run before */
	run->ctl = m->ctl;
	err = plan_decode(run, order->host, order->start.host_len, order->machine, order->start.machine_len);
	if (!err && run->half == REST)
		err = plan_hand(run, order->machine, order->start.machine_len, order->memory, order->start.host_len);
	if (!err)
		err = plan_run(run);
	if (!err && !run->child)
		err = -ECHILD;
	while (!err && (err = plan_wait_exec(run)) == -EAGAIN)
		err = 0;
	return err;
}

/* The master, and a slave of our own: without it the master is hung up whenever a program closes and opens its
 * terminal. */
static void terminal_take(struct monitor *m, struct run *run, struct resize size)
{
	m->pty = run->pty;
	m->peer = ioctl(m->pty, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	fcntl(m->pty, F_SETFL, O_RDWR | O_NONBLOCK);
	m->source[0].fd = m->pty;
	if (m->flags & START_STDIN)
		m->stdin_fd = m->pty;
	machine_resize(m, size);
}

/* New files take a disk's time, which nobody waits for here: the child has work to do, or is not asked for yet. */
static void files_open(struct monitor *m)
{
	if (m->dir < 0 || m->exit >= 0 || m->flags & START_EXEC)
		return;
	m->exit = openat(m->dir, "exit", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	log_open(&m->log, m->dir);
}

static void started(struct monitor *m, struct run *run, const struct order *order)
{
	const struct start *start = &order->start;

	m->record = (struct exit_record){.magic = RECORD_MAGIC, .started_ns = clock_ns(CLOCK_REALTIME)};
	m->pid = run->child;
	m->pidfd = run->pidfd;
	msg_send(m->ctl, MSG_STARTED, m->pid, NULL, 0, &m->pidfd, 1); /* a lost daemon is seen by the loop */
	if (run->pty >= 0)
		terminal_take(m, run, (struct resize){start->rows, start->cols});
	files_open(m);
	log_cap(&m->log, start->log_max, start->log_files);
	if (m->log.fd < 0)
		m->flags &= ~(uint32_t)START_LOG;
	if (m->flags & START_SESSION && order->front[0] >= 0)
		session_add(m, start->flags, start->flags >> START_WHICH_SHIFT, order->front, order->keys,
			    start->keys_len);
	else
		fds_close(order->front, 4);
}

/* The daemon knows what the user typed and has the words; the front gets them, or at least an end. Nothing is mounted
 * by now. */
static void failed(struct monitor *m, const struct run *run, int front)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + REASON_NS, now;
	const char *text = GENERIC;
	size_t len = strlen(text);
	char reason[REASON_MAX];
	int code = 125;

	msg_send(m->ctl, MSG_FAILED, run->report.err, &run->report, sizeof(run->report), NULL, 0);
	while (front >= 0 && (now = clock_ns(CLOCK_MONOTONIC)) < end) {
		struct pollfd wait[2] = {{.fd = m->ctl, .events = POLLIN}, {.fd = front}};
		struct msg head;
		if (poll(wait, 2, (int)((end - now) / 1000000) + 1) < 0 || wait[1].revents)
			break;
		if (!wait[0].revents)
			continue;
		ssize_t n = msg_recv(m->ctl, &head, reason, sizeof(reason), NULL, NULL, MSG_DONTWAIT);
		if (n >= 0 && head.kind == MSG_REASON) {
			code = head.value;
			text = reason;
			len = (size_t)n;
		}
		if (n == -EPIPE || (n >= 0 && head.kind == MSG_REASON))
			break;
	}
	if (front >= 0)
		msg_send(front, MSG_EXIT, code, text, len, NULL, 0);
	msg_send(m->ctl, MSG_GONE, 0, NULL, 0, NULL, 0);
}

static int order_take(struct monitor *m, struct run *run, struct order *order)
{
	int fds[FDS_MAX];
	size_t nfds = FDS_MAX;
	struct msg head;
	ssize_t n;

	*order = (struct order){.front = {-1, -1, -1, -1}, .memory = -1, .mem_len = {MSG_MAX}};
	order->mem[0] = mmap(NULL, MSG_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (order->mem[0] == MAP_FAILED)
		return -ENOMEM;
	run->report = (struct report){.op = UINT32_MAX};
	n = msg_recv(m->ctl, &head, order->mem[0], MSG_MAX, fds, &nfds, 0);
	if (n < 0 || head.kind != MSG_START) {
		if (n >= 0)
			fds_close(fds, nfds);
		return -EPIPE;
	}
	return order_parse(m, run, order, (size_t)n, fds, nfds);
}

static void order_free(struct order *order)
{
	close_fd(&order->memory);
	for (size_t i = 0; i < 2; i++)
		if (order->mem[i] && order->mem[i] != MAP_FAILED)
			munmap(order->mem[i], order->mem_len[i]);
	order->mem[0] = order->mem[1] = NULL;
}

/* What is the same for every machine, before there is one. */
static int ahead(struct monitor *m, struct run *run, struct order *order)
{
	int err;

	run->half = AHEAD;
	run->ctl = m->ctl;
	err = plan_decode(run, order->host, order->start.host_len, order->machine, order->start.machine_len);
	if (err || (err = plan_run(run)))
		return err;
	files_open(m);
	order_free(order);
	return plan_idle(run);
}

/* What waited has gone. An order may be on its way all the same, and with it a front: no other comes after this. */
static void order_last(struct monitor *m, struct run *run, struct order *order)
{
	struct report why = run->report;

	shutdown(m->ctl, SHUT_RD);
	order_take(m, run, order);
	run->report = why;
}

int monitor_start(struct monitor *m, struct run *run)
{
	struct order order;
	int err = order_take(m, run, &order);

	if (!err && m->flags & START_AHEAD) {
		err = ahead(m, run, &order);
		if (!err)
			err = order_take(m, run, &order);
		else if (err != -EPIPE)
			order_last(m, run, &order);
		if (!err && m->flags & START_AHEAD)
			err = -EPROTO;
	}
	if (err == -EPIPE) { /* its daemon went away before there was a machine */
		plan_abandon(run);
		return err;
	}
	if (!err)
		err = machine_pipes(m, run, &order.start);
	if (!err)
		err = plan_start(m, run, &order);
	m->restart.mount_ns = run->mntns;
	if (!err) {
		started(m, run, &order);
		plan_unmap(run);
	} else {
		run->report.err = run->report.err ? run->report.err : -err;
		plan_abandon(run);
		plan_free(run);
		failed(m, run, order.front[0]);
	}
	order_free(&order);
	return err;
}
