/* What monitor.c, monitor_io.c, log.c and restart.c share: one machine (or exec) and everybody who looks at it. */
#pragma once

#include <poll.h>
#include <stdbool.h>

#include "cove.h"
#include "session.h"

#define SESSIONS_MAX 64
#define PEERS_MAX    16
#define PAGE	     4096
#define TAIL_MAX     (4u << 20)	   /* of what a dead machine left in a pipe; a pipe holds 1 MiB at most */
#define DRAIN_NS     100000000ull  /* for writers that outlive the process */
#define REASON_NS    2000000000ull /* for the words of a daemon that is there, on a host that is busy */

/* ---- log.c: `log`, `log.1` and so on, of which `log` is the newest ---- */

struct log {
	int dir, fd;
	unsigned files; /* 0: nothing is kept */
	uint8_t open;	/* streams whose last line has no end yet, a bit each */
	uint64_t size, most;
	uint64_t lost; /* bytes that found the disk full; said in the log as soon as there is room */
};

void log_open(struct log *log, int dir);
void log_cap(struct log *log, uint64_t max, uint32_t files); /* bytes of one file; 0: no end */
void log_write(struct log *log, uint8_t stream, const void *data, size_t len);

/* ---- restart.c: the daemon is brought back when it vanishes ---- */

struct restart {
	bool wanted;
	uint64_t at; /* CLOCK_MONOTONIC */
	unsigned delay_ms;
	int argc;
	char **argv;
	int state, mount_ns; /* the state directory; the host's mount namespace, to which the daemon belongs */
};

void restart_arm(struct restart *restart);
/* Tries when it is time. True: a daemon is there or coming (the lock is taken), by us or by another monitor. */
bool restart_try(struct restart *restart);

/* ---- monitor_io.c ---- */

enum sink_kind { SINK_NONE, SINK_RELAY, SINK_PIPE, SINK_SOCKET, SINK_FILE };

struct sink {
	enum sink_kind kind;
	int fd;
	size_t done; /* of the source's buffer */
	bool full;   /* a splice found no room: wait for the reader, not for the machine */
	int slot;
};

/* What the machine writes: one chunk at a time, read only when everybody has had the one before. */
struct source {
	int fd, slot;
	char *buf;
	size_t len, size;
};

struct session {
	int front, front_slot;
	int in, in_slot;
	bool in_socket, has_stdin, in_eof;
	bool choked; /* the next message does not fit into the buffer */
	bool ending; /* MSG_EXIT goes out when all output has */
	bool bound;  /* the machine ends with it */
	int code, error;
	struct sink sink[2];
	size_t head, fill;
	char buf[CHUNK_MAX] __attribute__((aligned(PAGE)));
};

enum phase { RUNNING, DRAINING, ASKING, LEAVING };

struct monitor {
	uint32_t flags;
	int ctl, listen, dir;
	int exit;		  /* the file of the exit record, empty while the machine runs */
	int stdin_fd, stdin_slot; /* the machine's pipe, or the pty's master */
	int pty, peer; /* peer: a slave of our own, so that the master is not hung up while nobody has it open */
	int pidfd;
	pid_t pid;
	enum phase phase;
	uint64_t deadline;
	bool exited_told, bye, reason_known;
	struct exit_record record;
	char reason[REASON_MAX];
	size_t reason_len;
	struct log log;
	struct source source[2];
	struct session *session[SESSIONS_MAX];
	size_t sessions;
	struct {
		int fd, slot;
	} caller[PEERS_MAX]; /* connections to the listener */
	size_t caller_next;
	struct restart restart;
	struct pollfd poll[8 + PEERS_MAX + 4 * SESSIONS_MAX];
	size_t polls;
	bool touched; /* pages of buffers to give back when idle */
	int pid_slot, ctl_slot, listen_slot;
};

uint64_t clock_ns(int clock);
void close_fd(int *fd);
int watch(struct monitor *m, int fd, short events); /* the slot, -1 for fd -1 */
short seen(const struct monitor *m, int slot);

void fds_close(const int *fds, size_t count); /* -1 are skipped */

/* ---- monitor_start.c ---- */

/* Reads MSG_START and runs its plan. On an error everybody has been told and nothing is left. */
int monitor_start(struct monitor *m, struct run *run);

/* fds: front, in, out, err; -1 where there is none. Takes them over, and greets the front. */
int session_add(struct monitor *m, uint32_t flags, uint32_t which, const int fds[4], const void *keys, size_t keys_len);
void sessions_end(struct monitor *m, int code); /* each gets MSG_EXIT as soon as it has all output */
void sessions_reap(struct monitor *m);
void streams_watch(struct monitor *m);
void streams_run(struct monitor *m);
void streams_idle(struct monitor *m);
void stream_close(struct monitor *m, size_t i);
void stream_finish(struct monitor *m, size_t i);
void machine_resize(struct monitor *m, struct resize size);
int machine_signal(const struct monitor *m, int sig);
