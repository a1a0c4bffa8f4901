/*
 * One process for each machine: it runs the plan, is the machine's parent, and stays when the daemon goes. What it
 * knows of the machine's end is on disk before anybody hears of it. It decides nothing; monitor_io.c carries the bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "monitor.h"

#define IDLE_MS 1000

uint64_t clock_ns(int clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---- the daemon, and whoever else may speak to the listener ---- */

static void daemon_lost(struct monitor *m)
{
	close_fd(&m->ctl);
	if (!m->bye && !(m->flags & START_EXEC))
		restart_arm(&m->restart);
}

static void daemon_tell(struct monitor *m, uint32_t kind, int value, const void *data, size_t len)
{
	if (m->ctl >= 0 && msg_send(m->ctl, kind, value, data, len, NULL, 0))
		daemon_lost(m);
}

static void exited_tell(struct monitor *m)
{
	daemon_tell(m, MSG_EXITED, (int)m->record.code, &m->record, sizeof(m->record));
	m->exited_told = true;
}

/* Who asks is the daemon from now on. */
static void adopt(struct monitor *m, int *fd)
{
	struct state state = {.state = m->phase == RUNNING ? STATE_RUNNING : STATE_EXITED,
			      .record = m->record,
			      .protocol = MONITOR_PROTOCOL};

	if (fd != &m->ctl) {
		close_fd(&m->ctl);
		m->ctl = *fd;
		*fd = -1;
	}
	m->bye = m->restart.wanted = false;
	if (msg_send(m->ctl, MSG_STATE, m->pid, &state, sizeof(state), &m->pidfd, m->phase == RUNNING))
		daemon_lost(m);
}

static void attach(struct monitor *m, const char *data, size_t len, const int *fds, size_t nfds)
{
	int front[4] = {-1, -1, -1, -1};
	struct attach attach;
	size_t used = 1;

	if (len >= sizeof(attach))
		memcpy(&attach, data, sizeof(attach));
	if (len < sizeof(attach) || attach.keys_len != len - sizeof(attach) || !nfds || m->phase != RUNNING) {
		fds_close(fds, nfds);
		return;
	}
	front[0] = fds[0];
	for (size_t i = 0; i < 3; i++)
		if (attach.mask & (1u << i) && used < nfds)
			front[1 + i] = fds[used++];
	fds_close(fds + used, nfds - used);
	/* a size that differs makes a full-screen program draw itself for the newcomer */
	if (attach.rows)
		machine_resize(m, (struct resize){(uint16_t)(attach.rows + 1), attach.cols});
	machine_resize(m, (struct resize){attach.rows, attach.cols});
	session_add(m, attach.flags, attach.which, front, data + sizeof(attach), attach.keys_len);
}

static void caller_act(struct monitor *m, int *fd, const struct msg *head, const char *data, size_t len)
{
	struct resize size;

	if (head->kind == MSG_QUERY) {
		adopt(m, fd);
	} else if (head->kind == MSG_SIGNAL) {
		machine_signal(m, head->value);
	} else if (head->kind == MSG_RESIZE && len == sizeof(size)) {
		memcpy(&size, data, sizeof(size));
		machine_resize(m, size);
	} else if (head->kind == MSG_REASON && m->phase == ASKING) {
		m->reason_len = len;
		memcpy(m->reason, data, len);
		m->reason_known = true;
	} else if (head->kind == MSG_BYE && fd == &m->ctl) {
		m->bye = true;
	}
}

static void caller_read(struct monitor *m, int *fd)
{
	char data[REASON_MAX];
	int fds[4] = {-1, -1, -1, -1};
	size_t nfds = 4;
	struct msg head;
	ssize_t n = msg_recv(*fd, &head, data, sizeof(data), fds, &nfds, MSG_DONTWAIT);

	if (n >= 0 && head.kind == MSG_ATTACH) {
		attach(m, data, (size_t)n, fds, nfds);
		return;
	}
	fds_close(fds, 4);
	if (n >= 0)
		caller_act(m, fd, &head, data, (size_t)n);
	else if (n == -EPIPE && fd == &m->ctl)
		daemon_lost(m);
	else if (n != -EAGAIN && fd != &m->ctl)
		close_fd(fd);
}

/* Only the user that the monitor runs as; when all places are taken the oldest connection gives way. */
static void caller_accept(struct monitor *m)
{
	int fd = accept4(m->listen, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0) {
		close_fd(&m->caller[m->caller_next++ % PEERS_MAX].fd); /* EMFILE: or the loop would run hot */
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) || peer.uid != geteuid()) {
		close(fd);
		return;
	}
	size_t i = m->caller_next++ % PEERS_MAX;
	close_fd(&m->caller[i].fd);
	m->caller[i].fd = fd;
	m->caller[i].slot = -1;
}

/* ---- the end ---- */

static void record_write(const struct monitor *m)
{
	while (m->exit >= 0 && pwrite(m->exit, &m->record, sizeof(m->record), 0) < 0 && errno == EINTR)
		;
}

static void machine_dead(struct monitor *m)
{
	siginfo_t info = {0};

	while (waitid(P_PIDFD, (id_t)m->pidfd, &info, WEXITED) && errno == EINTR)
		;
	m->record.finished_ns = clock_ns(CLOCK_REALTIME);
	m->record.core = info.si_code == CLD_DUMPED;
	m->record.signal = info.si_code == CLD_EXITED ? 0 : (uint32_t)info.si_status;
	m->record.code = (uint32_t)info.si_status + (info.si_code == CLD_EXITED ? 0 : 128);
	record_write(m);
	m->phase = DRAINING;
	m->deadline = clock_ns(CLOCK_MONOTONIC) + DRAIN_NS;
	close_fd(&m->peer);
	if (m->stdin_fd != m->pty)
		close_fd(&m->stdin_fd);
	m->stdin_fd = -1;
}

/* The user is told first; then our own mounts go; only then may the daemon delete what they were made of. */
static void leave(struct monitor *m, struct run *run)
{
	m->phase = LEAVING;
	sessions_end(m, (int)m->record.code);
	sessions_reap(m);
	if (!m->exited_told)
		exited_tell(m);
	close_fd(&m->pidfd);
	plan_free(run);
	m->restart.mount_ns = -1; /* closed: we are in it again */
	daemon_tell(m, MSG_GONE, 0, NULL, 0);
	if (!(m->flags & START_STAY)) /* or nobody would bring back the daemon that is to start it anew */
		close_fd(&m->ctl);
	close_fd(&m->listen);
	for (size_t i = 0; i < PEERS_MAX; i++)
		close_fd(&m->caller[i].fd);
}

static void step(struct monitor *m, struct run *run)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	if (m->phase == DRAINING && ((m->source[0].fd < 0 && m->source[1].fd < 0) || now >= m->deadline)) {
		stream_finish(m, 0);
		stream_finish(m, 1);
		m->phase = ASKING;
		m->deadline = now + REASON_NS;
		/* The last line of the session says why; a success needs none. */
		if (m->record.code && m->sessions && !(m->flags & START_EXEC))
			exited_tell(m);
		else
			m->reason_known = true;
	}
	if (m->phase == ASKING && (m->reason_known || m->ctl < 0 || now >= m->deadline))
		leave(m, run);
}

/* ---- life ---- */

static int patience(const struct monitor *m)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC), end = UINT64_MAX;

	if (m->phase == DRAINING || m->phase == ASKING)
		end = m->deadline;
	if (m->restart.wanted && m->restart.at < end)
		end = m->restart.at;
	if (m->touched && end > now + IDLE_MS * 1000000ull)
		end = now + IDLE_MS * 1000000ull;
	return end == UINT64_MAX ? -1 : end <= now ? 0 : (int)((end - now) / 1000000) + 1;
}

static void turn(struct monitor *m, struct run *run)
{
	m->polls = 0;
	m->pid_slot = watch(m, m->phase == RUNNING ? m->pidfd : -1, POLLIN);
	m->ctl_slot = watch(m, m->ctl, POLLIN);
	m->listen_slot = watch(m, m->listen, POLLIN);
	for (size_t i = 0; i < PEERS_MAX; i++)
		m->caller[i].slot = watch(m, m->caller[i].fd, POLLIN);
	streams_watch(m);
	int n = poll(m->poll, m->polls, patience(m));
	if (n < 0)
		return;
	if (!n)
		streams_idle(m);
	if (seen(m, m->ctl_slot))
		caller_read(m, &m->ctl);
	for (size_t i = 0; i < PEERS_MAX; i++)
		if (seen(m, m->caller[i].slot))
			caller_read(m, &m->caller[i].fd);
	if (seen(m, m->listen_slot))
		caller_accept(m);
	streams_run(m);
	if (seen(m, m->pid_slot))
		machine_dead(m);
	step(m, run);
	if (restart_try(&m->restart) && m->phase == LEAVING)
		m->restart.wanted = false; /* whoever has the lock will read the exit record */
}

int monitor_main(int ctl, int restart_argc, char **restart_argv)
{
	static const int SURVIVED[] = {SIGHUP,	SIGINT,	 SIGQUIT, SIGTERM, SIGPIPE, SIGALRM,
				       SIGUSR1, SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU};
	static struct monitor monitor;
	static struct run run;
	struct monitor *m = &monitor;

	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_NAME, "cove-monitor");
	for (size_t i = 0; i < sizeof(SURVIVED) / sizeof(SURVIVED[0]); i++)
		signal(SURVIVED[i], SIG_IGN);
	signal(SIGCHLD, SIG_DFL); /* the forker ignores it, and then there is nothing to wait for */
	m->ctl = ctl;
	m->listen = m->dir = m->exit = m->stdin_fd = m->pty = m->peer = m->pidfd = m->log.fd = m->source[0].fd =
		m->source[1].fd = -1;
	m->restart = (struct restart){.argc = restart_argc, .argv = restart_argv, .state = -1, .mount_ns = -1};
	for (size_t i = 0; i < PEERS_MAX; i++)
		m->caller[i].fd = -1;
	plan_init(&run);
	if (monitor_start(m, &run))
		return 1;
	while (m->phase != LEAVING || m->sessions || m->restart.wanted || (m->ctl >= 0 && !m->bye))
		turn(m, &run);
	return 0;
}
