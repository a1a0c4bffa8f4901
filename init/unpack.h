/* The unpacker's parts: unpack_tar.c reads the stream, unpack.c makes the files, unpack_recipe.c notes how the stream
 * is made of them again, unpack_walls.c shuts it in. */
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
#define NOTE	     (64u << 10)

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
	int root, gone, implied, recipe;
	unsigned char *note; /* of the recipe, not yet written; NULL: none is wanted */
	size_t noted;
	bool lost; /* a name came twice: the stream cannot be made again of the files */
	unsigned gone_count;
	bool stale;    /* a directory or link went: what `dirs` holds may be elsewhere now */
	bool whiteout; /* the entry is one */
	bool setgid;   /* a directory has the bit: what is made below would inherit its group */
	bool there;    /* the files are somewhere else already: only the recipe is wanted */
	uint64_t max_bytes, max_entries;
	uint64_t bytes, entries, made;
	/* the first failure */
	enum verdict verdict;
	char reason[200];
};

int fail(struct unpack *u, enum verdict verdict, const char *reason);
int fail_errno(struct unpack *u, const char *call);

/* The next entry into u->entry: 1; the end of the archive: 0. */
int next_entry(struct unpack *u);
#define UNSAID (-2)
/* Pass n bytes of the stream to fd, or to the recipe alone (-1), or nowhere (UNSAID). */
int pass(struct unpack *u, int fd, uint64_t n);
/* The next n bytes of the stream, as they are. */
int note_raw(struct unpack *u, const unsigned char *data, size_t n);
/* The next n bytes of the stream are those of the entry's file from `at` on. */
int note_file(struct unpack *u, uint64_t at, uint64_t n);
/* The entry, whose file is there already. */
int note_entry(struct unpack *u);
/* Write what is noted. */
int note_end(struct unpack *u);
/* Read what follows the end of the archive. */
int drain(struct unpack *u);
/* `in` without ".", "/" at its ends and doubled slashes; *slash tells of a trailing one. */
int clean(struct unpack *u, char *out, const char *in, bool *slash);
/* The failure as a line on stderr: `name`, and why. */
void report(const struct unpack *u, const char *name);
/* Leave everything but `dir`, then open what is in it. */
int confine(struct unpack *u, const char *dir);
