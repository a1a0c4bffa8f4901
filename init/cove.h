/*
 * One static program, several roles: front (argv[0] "cove"), and by argv[1] of "cove-init": forker, unpack, version.
 * A monitor is a fork of the forker: it waits for a start message, runs a plan, and stays as the machine's parent.
 *
 * Error convention: functions return 0 (or a count, or an fd) on success and -errno on error, and print nothing.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- plan.c: the decoder ---- */

#define PLAN_MAX (4u << 20) /* bytes of one part of a plan */
#define OPS_MAX	 4096
#define REGS_MAX 160
#define REG_NAME 24

enum side { HOST, MACHINE };
#define GUEST_SIDE 2

struct op {
	uint16_t code; /* row of ops.def */
	uint16_t argc;
	char **argv; /* into the plan's own bytes */
};

struct part {
	size_t count;
	struct op *ops;
};

/* Where and why a plan stopped: what the executor in Python maps back to the op's `why`. */
struct report {
	uint32_t side;	  /* enum side; + GUEST_SIDE: of the plan that runs in the guest */
	uint32_t op;	  /* index in its part */
	int32_t err;	  /* errno, positive; 0: all went well */
	char detail[108]; /* the word of the op that was at fault, or "" */
};

/* File descriptors by name. */
struct regs {
	size_t count;
	struct {
		char name[REG_NAME];
		int fd;
	} reg[REGS_MAX];
};

/* A plan may come in two halves: the first is run ahead, before anybody has asked for the machine, and its child waits.
 */
enum half { WHOLE, AHEAD, REST };

/* A whole run: both parts, validated; what the launcher and the child know while they run. */
struct run {
	enum half half; /* which is in `part`; after the first has run: REST */
	struct part part[2];
	uint32_t first[2]; /* index in the whole plan of each part's first op */
	struct regs regs;
	size_t told; /* registers that the child of a half run ahead may have; later ones are handed to it */
	int sync[2]; /* socketpair launcher <-> child; [0] is the launcher's; -1 before clone3 */
	int ctl;     /* the daemon's socket, for barrier; -1: none */
	pid_t child; /* as the launcher sees it */
	int pidfd;   /* of the child */
	int pty;     /* master received from the child's openpty, or -1 */
	int mntns;   /* the launcher's mount namespace before its unshare, or -1: plan_free() goes back to it */
	int ready;   /* the child has announced its execve */
	struct report report;
	/* machine part only */
	const char *home; /* from setuser, for execve; or NULL */
	void *memory;	  /* plan bytes and ops; freed by plan_free() */
	size_t memory_len;
};

/* An empty run: no registers, every fd -1. The caller then fills regs (and ctl) and decodes. */
void plan_init(struct run *run);

/* Decode and validate both parts (wire form "cove-plan 1\0", then name\0argc\0arg\0...). Registers named in `regs`
   count as filled. Returns 0 or -errno with run->report filled; nothing has run. */
int plan_decode(struct run *run, const char *host, size_t host_len, const char *machine, size_t machine_len);

/* Run the host part; the clone3 op forks the child, which runs the machine part and never returns.
   Returns 0 once the host part is done (the child may still be before its execve), else -errno with run->report filled;
   then the child, if any, is killed and reaped, run->child is 0 and run->pidfd -1. In both cases every register's fd is
   closed and regs is empty: the launcher needs none of them any more. But after the first of two halves the registers
   stay. */
int plan_run(struct run *run);

/* Between the halves. plan_idle: waits until the daemon says something or goes (0), or the child ends (-errno,
   run->report filled). Then the caller adds registers and decodes the rest. plan_hand: gives its machine part to the
   child, with those registers: the bytes, or a memfd (else -1) that has them at an offset. Then plan_run. */
int plan_idle(struct run *run);
int plan_hand(struct run *run, const char *machine, size_t len, int memory, size_t offset);

/* The start is given up: the child is killed and reaped. */
void plan_abandon(struct run *run);

/* After plan_run: the child's end of the start. Waits for the sync socket's end of file (execve happened: 0), a report
   (its -errno, run->report filled) or the child's death (-ECHILD). On an error the child is killed and reaped as above.
   Blocks; a caller with an event loop polls run->sync[0] for input first and calls it then: it may return -EAGAIN (more
   to come). */
int plan_wait_exec(struct run *run);

/* Unmaps the plan, closes sync and registers, goes back to the mount namespace from before (which tears the launcher's
   mounts down, so call it after the exit was told). Leaves child, pidfd and pty alone. */
void plan_free(struct run *run);

/* Only unmaps the plan: nothing needs it once the machine runs. */
void plan_unmap(struct run *run);

int reg_set(struct regs *regs, const char *name, int fd);
int reg_get(const struct regs *regs, const char *name); /* fd or -1 */

/* ---- io.c ---- */

#define MSG_MAX (192u << 10) /* SEQPACKET: below net.core.wmem_default */
#define FDS_MAX 96

#define FRONT_PROTOCOL 1 /* `reserved` of MSG_REQUEST: raised when an older daemon could not serve this front */

/* Every message on every socket of cove: this header, then len bytes. Little endian. */
struct msg {
	uint32_t kind;
	int32_t value;
	uint32_t len;
	uint32_t reserved;
};

enum {
	/* daemon -> monitor */
	MSG_START = 1,
	MSG_ATTACH = 2,
	MSG_QUERY = 3,
	MSG_REASON = 4,
	MSG_RELEASE = 5,
	MSG_BYE = 6,
	/* monitor -> daemon */
	MSG_STARTED = 16,
	MSG_FAILED = 17,
	MSG_EXITED = 18,
	MSG_GONE = 19,
	MSG_BARRIER = 20,
	MSG_STATE = 21,
	/* front -> daemon or monitor */
	MSG_REQUEST = 32,
	MSG_INPUT = 33,
	MSG_INPUT_EOF = 34,
	MSG_DETACH = 35,
	MSG_CALL = 36, /* of the Python API, to the daemon */
	/* anybody -> monitor */
	MSG_SIGNAL = 48,
	MSG_RESIZE = 49,
	/* daemon or monitor -> front */
	MSG_SESSION = 64,
	MSG_OUTPUT = 65,
	MSG_EXIT = 66,
	MSG_ANSWER = 67,
	MSG_ERROR = 68,
	/* daemon -> forker */
	MSG_FORK = 80, /* value: enum forked */
	/* daemon -> relay; each is answered with MSG_RELAY_STATE */
	MSG_RELAY_BEGIN = 96,
	MSG_RELAY_ADD = 97,
	MSG_RELAY_DROP = 98,
	MSG_RELAY_TARGET = 99,
	MSG_RELAY_END = 100,
	MSG_RELAY_STATE = 101,
};

/* One datagram. send: -errno or 0. recv: length of the payload or -errno (-EPIPE: peer gone); received fds are CLOEXEC.
 */
int msg_send(int sock, uint32_t kind, int32_t value, const void *data, size_t len, const int *fds, size_t nfds);
ssize_t msg_recv(int sock, struct msg *head, void *data, size_t max, int *fds, size_t *nfds, int flags);

int write_all(int fd, const void *data, size_t len);

/* ---- roles ---- */
int front_main(int argc, char **argv);
int forker_main(int argc, char **argv);
int monitor_main(int ctl, int restart_argc, char **restart_argv);
enum forked { FORK_MONITOR, FORK_RELAY };
int relay_main(int ctl);
int unpack_main(int argc, char **argv);
int repack_main(int argc, char **argv);
int tsc_main(int argc, char **argv);
int archive_main(int argc, char **argv);
int copy_main(int argc, char **argv);
int agent_main(void);	  /* PID 1 of a guest */
extern int in_guest;	  /* set by it: ops that change a whole system may run */
extern char *start_words; /* what /proc/self/cmdline shows */
extern size_t start_words_len;
void pid1(pid_t child) __attribute__((noreturn)); /* reap, forward signals, exit with the child's status */
void reap(pid_t child); /* all that has ended by now; if the child has, exit with its status */
