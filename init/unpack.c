/*
 * unpack: an uncompressed tar stream on stdin becomes a layer directory.
 *
 *	cove-init unpack DIR MAX_BYTES MAX_ENTRIES [there]
 *
 * DIR/fs gets the files; DIR/gone takes directories that a later entry of the same name replaces (the caller deletes
 *it); DIR/implied names directories that have no entry of their own; DIR/recipe says how the same stream is made of
 *DIR/fs again (repack.c), which with "there" is all: the files are kept by who made the stream of them. The stream is
 *hostile: before its first byte is read the process has pivoted into DIR, keeps seven capabilities and may make only
 *the system calls of `allowed`. Every parent directory is opened with RESOLVE_IN_ROOT below fs; no last component is
 *ever followed. Whiteouts become what overlayfs understands. One line of JSON on stdout says what was done; an error is
 *one line on stderr and an exit code of enum verdict.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "unpack.h"

#define TIMES_MAX (512u << 20) /* memory for the directories' times */
#define IDS	  65536	       /* the idmapped mount of the store would show this id as root */

/* The time of a directory that has no entry of its own. */
static const struct timespec IMPLIED = {.tv_sec = 0, .tv_nsec = 1000};

/* ---- names and directories ---- */

static int open_dir(const struct unpack *u, const char *path, uint64_t flags)
{
	struct open_how how = {.flags = O_DIRECTORY | O_CLOEXEC | flags,
			       .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};

	return (int)syscall(SYS_openat2, u->root, *path ? path : ".", &how, sizeof(how));
}

static void forget_dirs(struct unpack *u)
{
	for (size_t i = 0; i < DIRS; i++) {
		if (u->dirs[i].fd >= 0)
			close(u->dirs[i].fd);
		u->dirs[i].fd = -1;
	}
	u->stale = false;
}

static int set_opaque(struct unpack *u, int dir, const char *name)
{
	int fd = openat(dir, *name ? name : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int err = fd < 0 || fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0) ? fail_errno(u, "setxattr") : 0;

	if (fd >= 0)
		close(fd);
	return err;
}

/* Take a name away for an entry that replaces it; 1: it was a whiteout. */
static int clear_name(struct unpack *u, int dir, const char *name)
{
	struct stat st;
	char to[24];

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : fail_errno(u, "stat");
	if (S_ISDIR(st.st_mode)) {
		snprintf(to, sizeof(to), "%u", u->gone_count++);
		if (renameat(dir, name, u->gone, to))
			return fail_errno(u, "rename");
	} else if (unlinkat(dir, name, 0)) {
		return fail_errno(u, "unlink");
	}
	if (S_ISDIR(st.st_mode) || S_ISLNK(st.st_mode))
		u->stale = true; /* not now: `dir` may be one of them */
	u->lost |= !S_ISCHR(st.st_mode);
	return S_ISCHR(st.st_mode) && st.st_rdev == 0;
}

static int count_made(struct unpack *u)
{
	char text[64];

	if (++u->made <= u->max_entries)
		return 0;
	snprintf(text, sizeof(text), "more than %llu entries", (unsigned long long)u->max_entries);
	return fail(u, LIMIT, text);
}

/* A directory's time changes with every entry in it: note it for the end. */
static int note_time(struct unpack *u, const char *path, const struct timespec *mtime)
{
	size_t len = strlen(path) + 1, need = sizeof(struct timespec) + len;

	if (u->times_len + need > u->times_room) {
		size_t room = u->times_room ? 2 * u->times_room : 1u << 20;
		char *more = room <= TIMES_MAX ? realloc(u->times, room) : NULL;

		if (!more)
			return fail(u, LIMIT, "the names of its directories take more than 512 MiB");
		u->times = more;
		u->times_room = room;
	}
	memcpy(u->times + u->times_len, mtime, sizeof(struct timespec));
	memcpy(u->times + u->times_len + sizeof(struct timespec), path, len);
	u->times_len += need;
	return 0;
}

/* mkdir(2) over whatever has the name; a directory that is there stays (1). */
static int make_one_dir(struct unpack *u, int dir, const char *name, unsigned mode)
{
	struct stat st;
	int was;

	if (!mkdirat(dir, name, mode))
		return 0;
	if (errno != EEXIST)
		return fail_errno(u, "mkdir");
	if (!fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) && S_ISDIR(st.st_mode))
		return 1;
	was = clear_name(u, dir, name);
	if (was < 0)
		return was;
	if (mkdirat(dir, name, mode))
		return fail_errno(u, "mkdir");
	return was ? set_opaque(u, dir, name) : 0;
}

/* Open `path` below the root; missing directories are made, 0755 and root's. */
static int open_parents(struct unpack *u, char *path)
{
	int parent = u->root, fd = -1;

	for (char *at = path;; at++) {
		char *slash = strchr(at, '/');
		struct stat st;
		int made;

		if (slash)
			*slash = 0;
		fd = open_dir(u, path, O_PATH);
		if (fd < 0 && (errno == ENOENT || errno == ENOTDIR) &&
		    (fstatat(parent, at, &st, AT_SYMLINK_NOFOLLOW) ||
		     (S_ISCHR(st.st_mode) && st.st_rdev == 0 && !u->whiteout))) {
			made = count_made(u) ? -EINVAL : make_one_dir(u, parent, at, 0755);
			made = made ? made : note_time(u, path, &IMPLIED);
			fd = made < 0 ? -1 : open_dir(u, path, O_PATH);
		}
		if (parent != u->root)
			close(parent);
		if (fd < 0 && u->whiteout && errno == ENOTDIR)
			return -ENOTDIR; /* what it would hide is hidden already */
		if (fd < 0 && (errno == ENOTDIR || errno == ENOENT))
			return fail(u, REFUSED, "the directory it is in is no directory");
		if (fd < 0)
			return errno == ELOOP ? fail(u, REFUSED, "the directory it is in is a loop of links")
					      : fail_errno(u, "open");
		if (!slash)
			return fd;
		*slash = '/';
		parent = fd;
		at = slash;
	}
}

/* The directory that holds `path`, from the cache or opened; *base is the last component. */
static int parent_of(struct unpack *u, char *path, char **base)
{
	char *slash = strrchr(path, '/');
	size_t len = slash ? (size_t)(slash - path) : 0;
	uint32_t hash = 2166136261u;
	struct dir *d;

	if (u->stale)
		forget_dirs(u);
	*base = slash ? slash + 1 : path;
	if (!slash)
		return u->root;
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (unsigned char)path[i]) * 16777619u;
	d = &u->dirs[hash % DIRS];
	if (d->fd >= 0 && d->hash == hash && d->len == len && !memcmp(d->path, path, len))
		return d->fd;
	if (d->fd >= 0)
		close(d->fd);
	memcpy(d->path, path, len);
	d->path[len] = 0;
	d->fd = open_dir(u, d->path, O_PATH);
	if (d->fd < 0) {
		int fd = open_parents(u, d->path);

		if (fd < 0)
			return fd;
		d->fd = fd;
	}
	d->hash = hash;
	d->len = len;
	return d->fd;
}

/* ---- attributes ---- */

static bool is_user(const char *name)
{
	return !strncmp(name, "user.", 5) && name[5] && strncmp(name, "user.overlay.", 13);
}

/* A capability that names the root of a namespace is made to mean the layer's own root, which is id 0 on disk. */
static int set_capability(int fd, struct word value)
{
	unsigned char cap[24];
	uint32_t magic;

	if (value.n != 20 && value.n != 24)
		return -1;
	memcpy(cap, value.s, value.n);
	memcpy(&magic, cap, 4);
	if (value.n == 24)
		magic = (magic & ~(uint32_t)VFS_CAP_REVISION_MASK) | VFS_CAP_REVISION_2;
	memcpy(cap, &magic, 4);
	return fsetxattr(fd, "security.capability", cap, 20, 0);
}

static int set_xattrs(struct unpack *u, int fd)
{
	for (size_t i = 0; i < u->entry.xattrs; i++) {
		struct word name = u->entry.xattr[i].name, value = u->entry.xattr[i].value;
		char text[256] = ""; /* with a NUL in it, it is another name, or none */
		int err = -1;

		memcpy(text, name.s, name.n);
		errno = 0;
		if (!strcmp(text, "security.capability"))
			err = set_capability(fd, value);
		else if (is_user(text))
			err = fsetxattr(fd, text, value.s, value.n, 0);
		if (err && (errno == EDQUOT || (errno == ENOSPC && text[0] == 's')))
			return fail_errno(u, "setxattr");
	}
	return 0;
}

/* Owner, mode and time of something that is no regular file and has just been made. */
static int set_attributes(struct unpack *u, int dir, const char *name)
{
	const struct entry *e = &u->entry;
	struct timespec times[2] = {e->mtime, e->mtime};

	if ((e->uid || e->gid || u->setgid) && fchownat(dir, name, (uid_t)e->uid, (gid_t)e->gid, AT_SYMLINK_NOFOLLOW))
		return fail_errno(u, "chown");
	if (utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW))
		return fail_errno(u, "utimensat");
	return 0;
}

static int each_time(struct unpack *u, int (*call)(struct unpack *, int, const char *, const struct timespec *))
{
	for (size_t at = 0; at < u->times_len;) {
		const char *path = u->times + at + sizeof(struct timespec);
		struct timespec time;
		int fd = open_dir(u, path, O_RDONLY | O_NOFOLLOW), err; /* may be something else meanwhile */

		memcpy(&time, u->times + at, sizeof(time));
		if (fd >= 0) {
			err = call(u, fd, path, &time);
			close(fd);
			if (err)
				return err;
		}
		at += sizeof(struct timespec) + strlen(path) + 1;
	}
	return 0;
}

static int set_time(struct unpack *u, int fd, const char *path, const struct timespec *time)
{
	(void)path;
	return futimens(fd, (struct timespec[2]){*time, *time}) ? fail_errno(u, "utimensat") : 0;
}

/* Directories without an entry take their attributes from the layers below: tell the caller which. */
static int tell_implied(struct unpack *u, int fd, const char *path, const struct timespec *time)
{
	struct stat st;
	int err;

	if (time->tv_nsec != IMPLIED.tv_nsec || time->tv_sec != IMPLIED.tv_sec || fstat(fd, &st) ||
	    st.st_mtim.tv_nsec != IMPLIED.tv_nsec || st.st_mtim.tv_sec != IMPLIED.tv_sec)
		return 0;
	err = write_all(u->implied, path, strlen(path) + 1);
	if (err)
		errno = -err;
	return err ? fail_errno(u, "write") : 0;
}

/* ---- entries ---- */

static int write_pieces(struct unpack *u, int fd)
{
	for (size_t i = 0; i < u->entry.pieces; i++) {
		if (lseek(fd, (off_t)u->piece[i].at, SEEK_SET) < 0)
			return fail_errno(u, "lseek");
		if (note_file(u, u->piece[i].at, u->piece[i].len) || pass(u, fd, u->piece[i].len))
			return -EINVAL;
	}
	return ftruncate(fd, u->entry.real) ? fail_errno(u, "ftruncate") : 0;
}

static int fill_file(struct unpack *u, int fd)
{
	const struct entry *e = &u->entry;
	struct timespec times[2] = {e->mtime, e->mtime};

	if (e->real < 0 && note_file(u, 0, (uint64_t)e->size))
		return -EINVAL;
	if (e->real >= 0 ? write_pieces(u, fd) : pass(u, fd, (uint64_t)e->size))
		return -EINVAL;
	if ((e->uid || e->gid || u->setgid) && fchown(fd, (uid_t)e->uid, (gid_t)e->gid))
		return fail_errno(u, "chown");
	if (e->mode & 07000 && fchmod(fd, e->mode)) /* chown and write may have taken setuid away */
		return fail_errno(u, "chmod");
	if (e->xattrs && set_xattrs(u, fd))
		return -EINVAL;
	return futimens(fd, times) ? fail_errno(u, "utimensat") : 0;
}

static int make_file(struct unpack *u, int dir, const char *name)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(dir, name, flags, u->entry.mode), err;

	if (fd < 0 && errno == EEXIST) {
		err = clear_name(u, dir, name);
		if (err < 0)
			return err;
		fd = openat(dir, name, flags, u->entry.mode);
	}
	if (fd < 0)
		return fail_errno(u, "open");
	err = fill_file(u, fd);
	if (close(fd) && !err)
		err = fail_errno(u, "close");
	return err;
}

static int make_dir(struct unpack *u, int dir, const char *name)
{
	const struct entry *e = &u->entry;
	int err = *name ? make_one_dir(u, dir, name, e->mode & 01777) : 1;

	if (err < 0)
		return err;
	u->setgid |= !!(e->mode & S_ISGID);
	if (!*name)
		name = ".";
	if ((err || e->uid || e->gid || u->setgid) &&
	    fchownat(dir, name, (uid_t)e->uid, (gid_t)e->gid, AT_SYMLINK_NOFOLLOW))
		return fail_errno(u, "chown");
	if ((err || u->setgid || e->mode & 06000) && fchmodat(dir, name, e->mode, 0))
		return fail_errno(u, "chmod");
	if (e->xattrs) {
		int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		err = fd < 0 ? fail_errno(u, "open") : set_xattrs(u, fd);
		if (fd >= 0)
			close(fd);
		if (err)
			return err;
	}
	return note_time(u, e->name, &e->mtime);
}

static int make_link(struct unpack *u, int dir, const char *name)
{
	struct stat from, to;
	char *base;
	bool slash;
	int at, err = clean(u, u->entry.link, u->entry.link, &slash);
	char *last = strrchr(u->entry.link, '/');

	if (err)
		return err;
	/* Not parent_of(): a wrong link must not make directories, nor push the entry's own directory out of the cache.
	 */
	if (last)
		*last = 0;
	base = last ? last + 1 : u->entry.link;
	at = open_dir(u, last ? u->entry.link : "", O_PATH);
	if (at < 0 || fstatat(at, base, &from, AT_SYMLINK_NOFOLLOW)) {
		err = fail(u, REFUSED, "a hard link to what the archive does not hold");
	} else if (!fstatat(dir, name, &to, AT_SYMLINK_NOFOLLOW) && from.st_ino == to.st_ino) {
		err = 0;
	} else {
		if (S_ISDIR(from.st_mode))
			err = fail(u, REFUSED, "a hard link to a directory");
		else if ((err = clear_name(u, dir, name)) >= 0)
			err = linkat(at, base, dir, name, 0) ? fail_errno(u, "link") : 0;
	}
	if (at >= 0)
		close(at);
	return err;
}

static int make_whiteout(struct unpack *u, int dir, const char *name)
{
	struct stat st;

	if (!strcmp(name, ".wh..opq"))
		return set_opaque(u, dir, "");
	if (!strncmp(name, ".wh.", 4)) /* notes of aufs */
		return 0;
	if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
		return fail(u, REFUSED, "a whiteout of a directory it is in");
	/* What this layer itself holds is not hidden; but what lies below it is. */
	if (!fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW))
		return S_ISDIR(st.st_mode) ? set_opaque(u, dir, name) : 0;
	return mknodat(dir, name, S_IFCHR, 0) ? fail_errno(u, "mknod") : 0;
}

static int make_special(struct unpack *u, int dir, const char *name)
{
	const struct entry *e = &u->entry;
	int err = clear_name(u, dir, name);

	if (err < 0)
		return err;
	if (e->type == '2')
		return symlinkat(e->link, dir, name) ? fail_errno(u, "symlink") : set_attributes(u, dir, name);
	if (e->type == '6')
		return mknodat(dir, name, S_IFIFO | e->mode, 0) ? fail_errno(u, "mknod") : set_attributes(u, dir, name);
	if (e->type == '3' && e->device == 0)
		return mknodat(dir, name, S_IFCHR, 0) ? fail_errno(u, "mknod") : 0;
	return 0; /* a device: a machine's /dev is its own, and its root is mounted nodev */
}

static int check_entry(struct unpack *u)
{
	const struct entry *e = &u->entry;
	char text[96];

	if (e->uid < 0 || e->gid < 0 || e->uid >= IDS || e->gid >= IDS) {
		snprintf(text, sizeof(text), "owner %lld:%lld, and ids end at 65535", (long long)e->uid,
			 (long long)e->gid);
		return fail(u, REFUSED, text);
	}
	if (e->size < 0 || (uint64_t)e->size > u->max_bytes - u->bytes) {
		snprintf(text, sizeof(text), "more than %llu bytes in all", (unsigned long long)u->max_bytes);
		return fail(u, BYTES, text);
	}
	return count_made(u);
}

static int make_entry(struct unpack *u)
{
	struct entry *e = &u->entry;
	char *slash = strrchr(e->name, '/'), *base = slash ? slash + 1 : e->name;
	int dir, err;

	u->whiteout = !strncmp(base, ".wh.", 4);
	dir = parent_of(u, e->name, &base);
	if (u->whiteout)
		err = dir == -ENOTDIR ? 0 : dir < 0 ? dir : make_whiteout(u, dir, base + 4);
	else if (dir < 0)
		err = dir;
	else if (e->type == '5')
		err = make_dir(u, dir, base);
	else if (!*base)
		err = fail(u, REFUSED, "the root is no directory");
	else if (e->type == '0')
		err = make_file(u, dir, base);
	else
		err = e->type == '1' ? make_link(u, dir, base) : make_special(u, dir, base);
	if (!err && u->whiteout)
		err = pass(u, -1, (uint64_t)e->size);
	u->bytes += (uint64_t)e->size;
	u->entries++;
	return err ? err : pass(u, -1, (uint64_t)(BLOCK - e->size % BLOCK) % BLOCK);
}

/* Control characters never reach a terminal; bytes above ASCII are left for the reader to decode. */
void report(const struct unpack *u, const char *name)
{
	char text[4 * PATH_MAX + 300];
	size_t n = (size_t)snprintf(text, sizeof(text), "unpack: ");

	for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
		if (*c < ' ' || *c == 127 || *c == '\\')
			n += (size_t)snprintf(text + n, 5, "\\x%02x", *c);
		else
			text[n++] = (char)*c;
	}
	n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s\n", *name ? ": " : "", u->reason);
	write_all(2, text, n);
}

static int unpack_all(struct unpack *u)
{
	char text[400];
	int more, n;

	while ((more = next_entry(u)) > 0) {
		int err = check_entry(u);

		err = err ? err : u->there ? note_entry(u) : make_entry(u);
		if (err)
			return err;
	}
	if (more < 0)
		return more;
	*u->entry.shown = 0;
	if (drain(u) || note_end(u))
		return -EINVAL;
	forget_dirs(u);
	if (each_time(u, set_time) || each_time(u, tell_implied))
		return -EINVAL;
	n = snprintf(text, sizeof(text), "{\"bytes\":%llu,\"entries\":%llu,\"ended\":%s,\"lost\":%s}\n",
		     (unsigned long long)u->bytes, (unsigned long long)u->entries, u->terminated ? "true" : "false",
		     u->lost ? "true" : "false");
	return write_all(1, text, (size_t)n);
}

int unpack_main(int argc, char **argv)
{
	static struct unpack u;
	char *end = NULL;

	for (size_t i = 0; i < DIRS; i++)
		u.dirs[i].fd = -1;
	u.buf = malloc(BUFFER);
	u.note = malloc(NOTE);
	u.there = argc == 6 && !strcmp(argv[5], "there");
	argc -= u.there;
	if (argc == 5)
		u.max_bytes = strtoull(argv[3], &end, 10);
	if (argc == 5 && !*end)
		u.max_entries = strtoull(argv[4], &end, 10);
	if (argc != 5 || *end || !u.buf || !u.note) {
		fail(&u, USAGE, "usage: cove-init unpack DIR MAX_BYTES MAX_ENTRIES [there]");
		report(&u, "");
		return USAGE;
	}
	if (confine(&u, argv[2]) || unpack_all(&u)) {
		report(&u, u.entry.shown);
		return u.verdict ? (int)u.verdict : SYSTEM;
	}
	return DONE;
}
