/* A tar onto standard output: ustar, with pax records for what does not fit, sparse files as pax 1.0 has them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "archive.h"

#define SPARSE_MIN (1 << 20) /* bytes of holes that make a file sparse */
#define PAX_ROOM   (256u << 10)
#define VALUE_MAX  (64u << 10)

static struct {
	char data[BUFFER];
	size_t len;
} out;

static struct {
	char data[PAX_ROOM];
	size_t len;
} pax;

int flush(struct unpack *u)
{
	int err = write_all(1, out.data, out.len);

	out.len = 0;
	errno = -err;
	return err ? fail_errno(u, "write") : 0;
}

int put(struct unpack *u, const void *data, size_t len)
{
	const char *at = data;

	while (len) {
		size_t part = sizeof(out.data) - out.len < len ? sizeof(out.data) - out.len : len;

		memcpy(out.data + out.len, at, part);
		out.len += part;
		at += part;
		len -= part;
		if (out.len == sizeof(out.data) && flush(u))
			return -EINVAL;
	}
	return 0;
}

static int pad(struct unpack *u, uint64_t written)
{
	static const char zero[BLOCK];

	return put(u, zero, (BLOCK - written % BLOCK) % BLOCK);
}

int tar_end(struct unpack *u)
{
	static const char zero[2 * BLOCK];

	return put(u, zero, sizeof(zero)) ? -EINVAL : flush(u);
}

/* ---- pax records ---- */

static int record(struct unpack *u, const char *key, const char *value, size_t len)
{
	size_t body = strlen(key) + len + 3, total = body, digits;
	char text[24];

	do { /* the length counts itself */
		digits = (size_t)snprintf(text, sizeof(text), "%zu", total);
		if (total == body + digits)
			break;
		total = body + digits;
	} while (true);
	if (total > sizeof(pax.data) - pax.len)
		return fail(u, LIMIT, "its extended attributes take more than 256 KiB");
	pax.len += (size_t)sprintf(pax.data + pax.len, "%zu %s=", total, key);
	memcpy(pax.data + pax.len, value, len);
	pax.len += len;
	pax.data[pax.len++] = '\n';
	return 0;
}

static int record_number(struct unpack *u, const char *key, uint64_t value)
{
	char text[24];

	return record(u, key, text, (size_t)sprintf(text, "%llu", (unsigned long long)value));
}

static int record_time(struct unpack *u, const struct timespec *time)
{
	char text[48];
	long long sec = time->tv_sec;
	long nano = time->tv_nsec;
	const char *sign = "";

	if (sec < 0 && nano) { /* -1.5 is two seconds before, and half a one after that */
		sec++;
		nano = 1000000000 - nano;
		sign = sec ? "" : "-";
	}
	return record(u, "mtime", text, (size_t)sprintf(text, "%s%lld.%09ld", sign, sec, nano));
}

/* What `unpack` and `in` would take too: users' own attributes, and file capabilities. */
static int record_xattrs(struct unpack *u, int fd)
{
	static char names[VALUE_MAX], value[VALUE_MAX];
	ssize_t len = flistxattr(fd, names, sizeof(names));
	char key[300] = "SCHILY.xattr.";

	if (len < 0)
		return errno == ENOTSUP || errno == E2BIG ? 0 : fail_errno(u, "listxattr");
	for (const char *name = names; name < names + len; name += strlen(name) + 1) {
		ssize_t n;

		if (strncmp(name, "user.", 5) && strcmp(name, "security.capability"))
			continue;
		n = fgetxattr(fd, name, value, sizeof(value));
		if (n < 0 && (errno == ENODATA || errno == ENOTSUP || errno == E2BIG || errno == EOVERFLOW))
			continue;
		if (n < 0)
			return fail_errno(u, "getxattr");
		memccpy(key + 13, name, 0, 256);
		if (record(u, key, value, (size_t)n))
			return -EINVAL;
	}
	return 0;
}

/* ---- headers ---- */

static void octal(char *field, size_t len, uint64_t value)
{
	field[--len] = 0;
	while (len) {
		field[--len] = (char)('0' + (value & 7));
		value >>= 3;
	}
}

static int put_header(struct unpack *u, const char *name, const char *link, char type, const struct stat *st,
		      uint64_t size)
{
	char h[BLOCK] = {0};
	unsigned sum = 0;

	memcpy(h, name, strnlen(name, 100));
	octal(h + 100, 8, st->st_mode & 07777);
	octal(h + 108, 8, st->st_uid <= 07777777 ? st->st_uid : 0);
	octal(h + 116, 8, st->st_gid <= 07777777 ? st->st_gid : 0);
	octal(h + 124, 12, size <= 077777777777 ? size : 0);
	octal(h + 136, 12,
	      st->st_mtim.tv_sec >= 0 && st->st_mtim.tv_sec <= 077777777777 ? (uint64_t)st->st_mtim.tv_sec : 0);
	h[156] = type;
	memcpy(h + 157, link, strnlen(link, 100));
	memcpy(h + 257, "ustar\00000", 8);
	if (type == '3' || type == '4') {
		octal(h + 329, 8, major(st->st_rdev));
		octal(h + 337, 8, minor(st->st_rdev));
	}
	memset(h + 148, ' ', 8);
	for (size_t i = 0; i < BLOCK; i++)
		sum += (unsigned char)h[i];
	octal(h + 148, 7, sum);
	return put(u, h, BLOCK);
}

static int put_pax(struct unpack *u)
{
	static const struct stat none = {.st_mode = 0644};

	if (!pax.len)
		return 0;
	return put_header(u, "PaxHeaders/entry", "", 'x', &none, pax.len) || put(u, pax.data, pax.len) ||
			       pad(u, pax.len)
		       ? -EINVAL
		       : 0;
}

/* Everything that a ustar header has no room for. */
static int records_of(struct unpack *u, const struct item *item, uint64_t size, bool sparse)
{
	const struct stat *st = item->st;
	int err = 0;

	if (!sparse && strlen(item->name) > 100)
		err = record(u, "path", item->name, strlen(item->name));
	if (!err && strlen(item->link) > 100)
		err = record(u, "linkpath", item->link, strlen(item->link));
	if (!err && size > 077777777777)
		err = record_number(u, "size", size);
	if (!err && st->st_uid > 07777777)
		err = record_number(u, "uid", st->st_uid);
	if (!err && st->st_gid > 07777777)
		err = record_number(u, "gid", st->st_gid);
	if (!err && (st->st_mtim.tv_nsec || st->st_mtim.tv_sec < 0 || st->st_mtim.tv_sec > 077777777777))
		err = record_time(u, &st->st_mtim);
	return !err && item->fd >= 0 ? record_xattrs(u, item->fd) : err;
}

/* ---- data ---- */

static int put_bytes(struct unpack *u, int fd, uint64_t at, uint64_t size)
{
	if (lseek(fd, (off_t)at, SEEK_SET) < 0)
		return fail_errno(u, "lseek");
	while (size) {
		size_t room = sizeof(out.data) - out.len, part = room < size ? room : (size_t)size;
		ssize_t n = read(fd, out.data + out.len, part);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail_errno(u, "read");
		if (!n)
			return fail(u, SYSTEM, "it shrank while it was read");
		out.len += (size_t)n;
		size -= (size_t)n;
		if (out.len == sizeof(out.data) && flush(u))
			return -EINVAL;
	}
	return 0;
}

/* Where a file has data, into u->piece; false: it has no holes worth it, or more pieces than a reader takes. */
static bool find_holes(struct unpack *u, int fd, uint64_t size)
{
	off_t at = 0, end;

	for (u->entry.pieces = 0; (uint64_t)at < size; at = end) {
		at = lseek(fd, at, SEEK_DATA);
		if (at < 0)
			return errno == ENXIO; /* a hole up to its end */
		end = lseek(fd, at, SEEK_HOLE);
		if (end < 0 || u->entry.pieces == PIECES - 1)
			return false;
		if ((uint64_t)at >= size)
			return true;
		if ((uint64_t)end > size)
			end = (off_t)size;
		u->piece[u->entry.pieces++] = (struct piece){(uint64_t)at, (uint64_t)(end - at)};
	}
	return true;
}

static int put_sparse(struct unpack *u, const struct item *item, char *map, size_t len)
{
	uint64_t real = (uint64_t)item->st->st_size, size = (len + BLOCK - 1) / BLOCK * BLOCK;

	for (size_t i = 0; i < u->entry.pieces; i++)
		size += u->piece[i].len;
	if (record(u, "GNU.sparse.major", "1", 1) || record(u, "GNU.sparse.minor", "0", 1) ||
	    record(u, "GNU.sparse.name", item->name, strlen(item->name)) ||
	    record_number(u, "GNU.sparse.realsize", real) || records_of(u, item, size, true) || put_pax(u) ||
	    put_header(u, "GNUSparseFile.0/entry", "", '0', item->st, size) || put(u, map, len) || pad(u, len))
		return -EINVAL;
	for (size_t i = 0; i < u->entry.pieces; i++)
		if (put_bytes(u, item->fd, u->piece[i].at, u->piece[i].len))
			return -EINVAL;
	return pad(u, size);
}

static int put_with_holes(struct unpack *u, const struct item *item)
{
	char *map = malloc((u->entry.pieces + 2) * 42), *at = map;
	uint64_t size = (uint64_t)item->st->st_size;
	int err;

	if (!map)
		return fail(u, SYSTEM, "out of memory");
	if (!u->entry.pieces || u->piece[u->entry.pieces - 1].at + u->piece[u->entry.pieces - 1].len < size)
		u->piece[u->entry.pieces++] = (struct piece){size, 0}; /* as GNU tar tells of a hole at the end */
	at += sprintf(at, "%zu\n", u->entry.pieces);
	for (size_t i = 0; i < u->entry.pieces; i++)
		at += sprintf(at, "%llu\n%llu\n", (unsigned long long)u->piece[i].at,
			      (unsigned long long)u->piece[i].len);
	err = put_sparse(u, item, map, (size_t)(at - map));
	free(map);
	return err;
}

static char type_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return '5';
	case S_IFLNK:
		return '2';
	case S_IFIFO:
		return '6';
	case S_IFCHR:
		return '3';
	case S_IFBLK:
		return '4';
	default:
		return '0';
	}
}

int tar_entry(struct unpack *u, const struct item *item)
{
	char type = item->type ? item->type : type_of(item->st->st_mode);
	uint64_t size = type == '0' ? (uint64_t)item->st->st_size : 0;

	pax.len = 0;
	if (size && (uint64_t)item->st->st_blocks * 512 + SPARSE_MIN < size && find_holes(u, item->fd, size))
		return put_with_holes(u, item);
	if (records_of(u, item, size, false) || put_pax(u) ||
	    put_header(u, item->name, item->link, type, item->st, size))
		return -EINVAL;
	return size && (put_bytes(u, item->fd, 0, size) || pad(u, size)) ? -EINVAL : 0;
}
