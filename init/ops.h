/*
 * Between the rooms of the launcher: the ops of ops.def, and what they share. The rest of cove-init knows only cove.h.
 *
 * An op gets validated words (plan.c), returns 0 or -errno, and prints nothing. No op allocates memory.
 */
#pragma once

#include <errno.h>

#include "cove.h"

/* The socket between launcher and child. */
enum { SYNC_GO = 128, SYNC_PTY = 129, SYNC_EXEC = 130, SYNC_REPORT = 131, SYNC_REGS = 132, SYNC_PLAN = 133 };

/* ops.def's third column is an explanation; the second and the first make these. */
#define X(name, sides, signature, doc) int op_##name(struct run *run, const struct op *op);
#include "ops.def"
#undef X

struct op_row {
	const char *name;
	char side; /* h, m or b */
	const char *signature;
	int (*run)(struct run *run, const struct op *op);
};
extern const struct op_row OPS[];

/* Words: validated before, so these cannot fail. */
uint64_t word_u(const char *word);
uint32_t word_o(const char *word);
uint64_t word_x(const char *word);			 /* at most 16 digits */
int word_fd(const struct run *run, const char *word);	 /* "-": AT_FDCWD */
int word_id(const char *word, size_t len, uint32_t *id); /* a uid or gid that fits, or -EINVAL */

/* -err of an op, and the word that was at fault. */
int fault(struct run *run, int err, const char *word);

/* An op that is one system call: its -errno with the word at fault ("": none), or 0. */
int done(struct run *run, long result, const char *word);

/* openat2(2) with O_CLOEXEC; below root (RESOLVE_IN_ROOT) unless root is AT_FDCWD; never through magic links. */
int open_in(int root, const char *path, uint64_t flags, uint64_t resolve);

/* The descriptor is on a file system of this type (statfs f_type), or -EXDEV. */
int check_fs(int fd, uint64_t magic);

/* The descriptor is this character device, or -ENODEV. */
int check_chr(int fd, unsigned major, unsigned minor);

/* Launcher's side of the sync socket: the next message that matters to `want`. launch.c */
int sync_take(struct run *run, uint32_t want, int *fds, size_t *nfds);

/* In the child: descriptors, signals and the launcher made ready for execve; done once, before a filter is installed.
 */
int exec_ready(struct run *run);

/* The same, with every descriptor of ours closed but 0, 1, 2 and the socket to the launcher. ops_process.c */
int exec_alone(struct run *run);

/* Set by stdio and openpty: 0, 1 and 2 are the machine's own, and setuser gives them to the user. */
extern int own_stdio;

/* Groups, gid, uid; keeps the parent-death signal. */
int set_ids(uint32_t uid, uint32_t gid, const uint32_t *groups, size_t count);

/* Undo setfsuid. */
void fsuid_reset(void);

/* plan.c: the plan's bytes go. */
void plan_unmap(struct run *run);
