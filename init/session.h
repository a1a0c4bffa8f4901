/*
 * What daemon, monitor and front say to each other: the payloads behind struct msg (cove.h), and the files a monitor
 * writes. Everything is packed and little endian; cove/executor encodes and decodes the same bytes.
 */
#pragma once

#include <stdint.h>

#define START_VERSION 3
#define RECORD_MAGIC  0x65766f63u /* "cove" */
#define CHUNK_MAX     65536	  /* payload of one MSG_INPUT or MSG_OUTPUT */
#define REASON_MAX    2048

enum {
	START_TTY = 1,
	START_STDIN = 2, /* the machine gets a stdin pipe */
	START_LOG = 4,
	START_SESSION = 8, /* fds front, in, out, err are there */
	START_EXEC = 16,   /* a second process: no exit record, no listener, not brought back */
	START_KEEP_STDIN = 32,
	START_SIG_PROXY = 64,
	START_STDIN_ONCE = 128,
	START_AHEAD = 256,     /* the first half of a plan, to be run now; a second MSG_START brings the rest */
	START_WHICH_SHIFT = 9, /* three bits: WHICH_* of the session */
	START_BOUND = 4096,    /* what was started ends when its session is lost */
	START_STAY = 8192,     /* after the end the monitor watches the daemon until that says goodbye */
};

/* MSG_START; then nnames names with their NULs (one a file descriptor), detach keys, host part, machine part. */
struct start {
	uint32_t version, flags;
	uint32_t uid, gid; /* who owns the pipes: the machine's root as the host sees it */
	uint16_t rows, cols;
	uint64_t log_max;
	uint32_t nnames, host_len, machine_len, keys_len;
	uint32_t log_files;
} __attribute__((packed));

/* MSG_EXITED, MSG_STATE and the file `exit`. */
struct exit_record {
	uint32_t magic, code, signal, core;
	uint64_t started_ns, finished_ns; /* CLOCK_REALTIME */
} __attribute__((packed));

enum { STATE_STARTING, STATE_RUNNING, STATE_EXITED };

/* MSG_STATE. A monitor outlives its daemon, and is spoken to by later ones: what they send it (QUERY, ATTACH, SIGNAL,
   RESIZE, REASON, BYE) is as the protocol that it names here has it, and what it says only grows at the end. START
   never meets another version: a daemon forks its own monitors. */
#define MONITOR_PROTOCOL 1
struct state {
	uint32_t state;
	struct exit_record record;
	uint32_t protocol;
} __attribute__((packed));

enum { WHICH_STDIN = 1, WHICH_STDOUT = 2, WHICH_STDERR = 4 };

/* MSG_ATTACH, with the front's socket and those of in, out, err that mask names; then the detach keys. */
struct attach {
	uint32_t flags, which;
	uint16_t rows, cols;
	uint32_t keys_len, mask;
} __attribute__((packed));

/* MSG_RESIZE */
struct resize {
	uint16_t rows, cols;
} __attribute__((packed));

/* MSG_SESSION's value: what the front has to do itself. */
enum { RELAY_STDIN = 1, RAW_TERMINAL = 2, FORWARD_SIGNALS = 4, RELAY_STDOUT = 8, RELAY_STDERR = 16 };

/* MSG_RELAY_BEGIN, with a listener for later daemons and the pidfd of the machine; MSG_RELAY_ADD is an array of the
   other, with a socket each; MSG_RELAY_DROP one of ids; MSG_RELAY_TARGET the machine's address, 4, 16 or no bytes;
   MSG_RELAY_STATE the protocol, how many connections there are, and the ids of all ports. */
#define RELAY_PROTOCOL 1
struct relay_begin {
	uint32_t protocol, id; /* its user and group */
} __attribute__((packed));
struct relay_port {
	uint32_t id;
	uint16_t number; /* of the machine's */
	uint8_t udp, pad;
} __attribute__((packed));

/* The log: this, then len bytes, then `end` bytes: len again (4), or nothing (0, as cove 0.1 wrote). Stream 1 or 2; 0:
   a note of the monitor itself. */
struct log_record {
	uint64_t time_ns; /* CLOCK_REALTIME */
	uint32_t len;
	uint8_t stream, end, pad[2];
} __attribute__((packed));

_Static_assert(sizeof(struct start) == 48 && sizeof(struct exit_record) == 32, "fixed by the protocol");
_Static_assert(sizeof(struct attach) == 20 && sizeof(struct state) == 40, "fixed by the protocol");
_Static_assert(sizeof(struct log_record) == 16, "fixed by the log's format");
