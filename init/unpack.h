/* The unpacker's parts: unpack_tar.c reads the stream, unpack.c makes the files, unpack_walls.c shuts it in. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

#include "cove.h"

/* Exit codes: what cove/image/pipeline.py tells apart. */
enum verdict {
	DONE = 0,
	USAGE = 2,
	DAMAGED = 3,
	TRUNCATED = 4,
	REFUSED = 5,
	LIMIT = 6,
	FULL = 7,
	SYSTEM = 8,
	BYTES = 9
};

#define BLOCK	     512
#define BUFFER	     (1u << 20)
#define HEADER_MAX   (1u << 20)	 /* bytes of one pax or long-name header */
#define TRAILING_MAX (64u << 20) /* bytes after the end-of-archive mark */
#define PIECES	     65536	 /* of one sparse file */
#define XATTRS	     64
#define DIRS	     32

struct word {
	const char *s;
	size_t n;
};

struct piece {
	uint64_t at, len;
};

struct entry {
	char shown[PATH_MAX]; /* as the archive has it */
	char name[PATH_MAX];  /* clean: relative, no "." or ".."; "" is the root */
	char link[PATH_MAX];
	char type; /* 0 1 2 3 4 5 6, as in ustar */
	unsigned mode;
	int64_t uid, gid, size, device;
	int64_t real; /* size of a sparse file; -1: not sparse */
	bool map_in_data;
	struct timespec mtime;
	size_t pieces, xattrs;
	struct {
		struct word name, value;
	} xattr[XATTRS];
};

struct dir {
	int fd;
	uint32_t hash;
	size_t len;
	char path[PATH_MAX];
};

struct unpack {
	/* the stream */
	unsigned char *buf;
	size_t pos, len;
	uint64_t base; /* offset in the stream of buf[0] */
	bool ended, terminated;
	struct entry entry;
	struct piece piece[PIECES];
	struct {
		char *data;
		size_t len;
	} pax; /* records for the next entry */
	char long_name[PATH_MAX], long_link[PATH_MAX];
	/* the files */
	struct dir dirs[DIRS];
	char *times; /* of directories: struct timespec, path; set at the end */
	size_t times_len, times_room;
	int root, gone, implied;
	unsigned gone_count;
	bool stale;    /* a directory or link went: what `dirs` holds may be elsewhere now */
	bool whiteout; /* the entry is one */
	bool setgid;   /* a directory has the bit: what is made below would inherit its group */
	uint64_t max_bytes, max_entries;
	uint64_t bytes, entries, made, devices, xattrs_dropped, skipped;
	/* the first failure */
	enum verdict verdict;
	char reason[200];
};

int fail(struct unpack *u, enum verdict verdict, const char *reason);
int fail_errno(struct unpack *u, const char *call);

/* The next entry into u->entry: 1; the end of the archive: 0. */
int next_entry(struct unpack *u);
/* Pass n bytes of the stream to fd, or nowhere (-1). */
int pass(struct unpack *u, int fd, uint64_t n);
/* Read what follows the end of the archive. */
int drain(struct unpack *u);
/* `in` without ".", "/" at its ends and doubled slashes; *slash tells of a trailing one. */
int clean(struct unpack *u, char *out, const char *in, bool *slash);
/* The failure as a line on stderr: `name`, and why. */
void report(const struct unpack *u, const char *name);
/* Leave everything but `dir`, then open what is in it. */
int confine(struct unpack *u, const char *dir);
