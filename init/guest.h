/*
 * Between a host and its guest: every message is a struct msg (cove.h) whose `reserved` is a channel, one for each
 * process run in the guest; channel 0 is the agent's own. Over virtio-serial they follow each other as bytes; between
 * local processes each is a datagram. What a guest says is hostile data: lengths and windows are checked by mux and
 * pump, and nobody acts on more than an exit code, bytes of output and a report.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>

#include "cove.h"
#include "session.h"

#define GUEST_PROTOCOL 1
#define FRAME_MAX      7680 /* payload of one message: with what the kernel adds, two pages */
#define WINDOW	       16 /* messages of bytes that one side sends before the other says it took one: fits any socket */

enum {
	/* host -> guest */
	MSG_PLAN = 96, /* the next bytes of a plan: host part, then machine part; in the window, as INPUT is */
	MSG_RUN = 97,  /* value: RUN_*; struct guest_run: run the plan */
	MSG_READ = 98, /* paths of files, each with a NUL: MSG_OUTPUT for each, in order; value: 1 or -errno */
	MSG_HOLD = 99, /* the machine's processes stand still, and both sides read from no other channel until its
			  sender says GO, or has gone: between MSG_HELD and then, nothing is under way, and the guest
			  can be copied; value: 1: all that was written is on its disks by then */
	MSG_GO = 100,
	MSG_ANEW = 101,	  /* channel 0; to a copy that goes on: other ends are at the channels now */
	MSG_ADOPT = 102,  /* channel of the machine's program, in place of a plan; value: RUN_*; struct guest_run */
	MSG_ORPHAN = 103, /* agent -> process: nobody is at your channel any more, but go on */
	MSG_ACCEPT = 104, /* value: number of a `listen`: from MSG_ACCEPTED on, this channel is its next visitor's,
			     whose bytes are INPUT and INPUT_EOF as ours are; ends with MSG_CLOSE */
	/* guest -> host */
	MSG_HELLO = 112, /* channel 0; value: GUEST_PROTOCOL; kernel release */
	MSG_HELD = 113,	 /* channel of the MSG_HOLD: the last that is said; value: 0 or -errno */
	MSG_ACCEPTED = 114,
	/* both; MSG_INPUT, INPUT_EOF, SIGNAL, RESIZE go in; STARTED, FAILED, OUTPUT (value: 1 or 2), EXITED come out */
	MSG_TAKEN = 120, /* value: so many messages of INPUT, PLAN or OUTPUT were consumed */
	MSG_CLOSE = 121, /* nobody is there any more: a process in the guest is killed. To a hub, from who stands in
			    for one; value: -errno, why it goes */
};

enum {
	RUN_TTY = 1,
	RUN_STDIN = 2,
	RUN_MACHINE = 4, /* its first program, whose end is the machine's: counters of its group come with MSG_EXITED */
	RUN_SYNC = 8,	 /* its disk is to be kept: sync(2) before its end is told */
	RUN_ADOPT =
		16, /* it runs already: MSG_ADOPT; MSG_STARTED comes with the number of messages that it has not read */
	RUN_AHEAD = 32, /* the first half of a plan: MSG_STARTED says that it has run, and the rest may come */
	RUN_REST = 64,	/* the second half; without it, what was run ahead is given up for a whole plan */
};

struct guest_run {
	uint32_t host_len, machine_len;
	uint16_t rows, cols;
} __attribute__((packed));

/* MSG_EXITED of a guest; victim: "pid name kilobytes" of the last process the guest's kernel killed for memory. */
struct guest_exit {
	struct exit_record record;
	uint32_t oom_kills, forks_refused;
	char victim[64];
} __attribute__((packed));

/* ---- mux.c: one serial port and the local ends of its channels, on both sides ---- */

#define CHANNELS_MAX 192

struct mux {
	int serial, listen; /* listen: who connects gets a channel of its own (host); or -1 */
	int log;	    /* says why a channel of a program that runs has ended; or -1 */
	int (*open)(struct mux *mux, const struct msg *head,
		    const char *data); /* an unknown channel (guest); or NULL */
	uint32_t last;		       /* channel number given */
	uint32_t holder;	       /* channel of the MSG_HOLD that was heard, 0: none */
	bool due;		       /* MSG_HELD is still to be said */
	int held;		       /* and with which value */
	struct mux_end {
		int fd, slot;
		uint32_t channel;
		bool leaving, waiting; /* waiting: nothing is read from it, unless it has ended */
		bool runs;	       /* a program was started there, and its end was not told yet */
	} end[CHANNELS_MAX];
	struct pollfd poll[CHANNELS_MAX + 4];
	size_t polls, in_len, out_len;
	char in[sizeof(struct msg) + FRAME_MAX], out[2 * (sizeof(struct msg) + FRAME_MAX)];
};

void mux_init(struct mux *mux, int serial, int listen);
int mux_add(struct mux *mux, int fd, uint32_t channel); /* takes fd over; 0 or -errno */
void mux_close(struct mux *mux, int err);		/* every local end; err: why, for the log, or 0 */
int mux_say(struct mux *mux, uint32_t channel, uint32_t kind, int32_t value, const void *data, size_t len);
/* One round: waits for something and does it; extra descriptors may be watched for input besides. -EPIPE: the serial
   port has ended; -EPROTO: the other side broke the rules. */
int mux_turn(struct mux *mux, struct pollfd *extra, size_t extras);

/* ---- pump.c: descriptors at this end of a channel ---- */

struct pump {
	int conn;
	int room;	/* messages the other side still takes */
	bool adopting;	/* what comes was said to somebody else: nothing of it counts */
	unsigned moved; /* counts what was read here and what came */
	struct {
		int fd, slot;
		uint32_t kind;
		int32_t value;
	} in[2]; /* what is read here and sent */
	struct pump_out {
		int fd, slot;
		unsigned first, count; /* of len and buf: messages that wait */
		size_t done;	       /* bytes of the first */
		bool ending;
		size_t len[WINDOW];
		char buf[WINDOW][FRAME_MAX];
	} out[2]; /* what is received and written here */
	struct pollfd poll[8];
	size_t polls;
	int conn_slot;
};

void pump_init(struct pump *pump, int conn);
/* One round, as mux_turn(). A message that is not about bytes is given back: 1, with its head, and data of FRAME_MAX.
 */
int pump_turn(struct pump *pump, struct pollfd *extra, size_t extras, int timeout, struct msg *head, char *data);
int pump_say(struct pump *pump, uint32_t kind, int32_t value, const void *data, size_t len);
void pump_flush(struct pump *pump);	 /* waits until nothing received is left to be written */
bool pump_read(const struct pump *pump); /* every input has ended */

/* ---- guest.c ---- */

/* As much of a file as there is room for, and a NUL; its length, or -1: then there is nothing but the NUL. */
ssize_t read_file(const char *path, char *data, size_t size);
