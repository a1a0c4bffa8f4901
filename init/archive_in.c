/*
 * A tar into a directory. Two hostile sides: the archive names places, and the tree they are in may change meanwhile.
 * Every parent is opened anew from the directory, without links out of it (beneath) or with links as the machine
 * itself would follow them (its root is this process's root); a last component is never followed, always replaced.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "archive.h"

#define TIMES_MAX (64u << 20)

/* Directories get their times at the end: what is made in them changes these. */
static struct {
	char *data;
	size_t len, room;
} times;

/* ---- directories ---- */

static int open_path(const struct into *into, const char *path, uint64_t flags)
{
	struct open_how how = {.flags = flags | O_DIRECTORY | O_CLOEXEC,
			       .resolve = RESOLVE_NO_MAGICLINKS | (into->beneath ? RESOLVE_BENEATH : 0)};

	return (int)syscall(SYS_openat2, into->base, *path ? path : ".", &how, sizeof(how));
}

static int own(struct unpack *u, const struct into *into, int dir, const char *name)
{
	bool archive = into->owner == ARCHIVE;

	if (into->owner == CALLER)
		return 0;
	return fchownat(dir, name, archive ? (uid_t)u->entry.uid : 0, archive ? (gid_t)u->entry.gid : 0,
			AT_SYMLINK_NOFOLLOW) &&
			       !(archive && into->beneath && errno == EPERM)
		       ? fail_errno(u, "chown")
		       : 0;
}

/* Parents that the archive leaves out are made as mkdir -p would. */
static int open_parents(struct unpack *u, const struct into *into, char *path)
{
	int fd = open_path(into, path, O_PATH), parent;
	char *slash;

	if (fd >= 0 || errno != ENOENT)
		return fd;
	slash = strrchr(path, '/');
	if (slash)
		*slash = 0;
	parent = slash ? open_parents(u, into, path) : open_path(into, "", O_PATH);
	if (slash)
		*slash = '/';
	if (parent < 0)
		return parent;
	if (mkdirat(parent, slash ? slash + 1 : path, 0755) && errno != EEXIST)
		fail_errno(u, "mkdir");
	else if (!own(u, into, parent, slash ? slash + 1 : path))
		fd = open_path(into, path, O_PATH);
	close(parent);
	return fd;
}

/* The directory that `path` is in, opened; *base is the last component. */
static int open_parent(struct unpack *u, const struct into *into, char *path, char **base)
{
	char *slash = strrchr(path, '/');
	int fd;

	*base = slash ? slash + 1 : path;
	if (slash)
		*slash = 0;
	fd = open_parents(u, into, slash ? path : (char[]){""});
	if (slash)
		*slash = '/';
	if (fd >= 0 || u->verdict)
		return fd;
	if (errno == EXDEV)
		return fail(u, REFUSED, "a symbolic link leads out of the directory it is in");
	return errno == ELOOP ? fail(u, REFUSED, "the directory it is in is a loop of links") : fail_errno(u, "open");
}

/* Take the name away from what has it. A directory is nobody's to take, and no directory takes what is none. */
static int clear(struct unpack *u, int dir, const char *name)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : fail_errno(u, "stat");
	if (S_ISDIR(st.st_mode))
		return fail(u, REFUSED, "a directory has its name: no file takes its place");
	return unlinkat(dir, name, 0) && errno != ENOENT ? fail_errno(u, "unlink") : 0;
}

static int note_time(struct unpack *u, const char *path)
{
	size_t len = strlen(path) + 1, need = sizeof(struct timespec) + len;

	if (times.len + need > times.room) {
		size_t room = times.room ? 2 * times.room : 1u << 16;
		char *more = room <= TIMES_MAX ? realloc(times.data, room) : NULL;

		if (!more)
			return 0; /* its directories will show when they were copied */
		times.data = more;
		times.room = room;
	}
	memcpy(times.data + times.len, &u->entry.mtime, sizeof(struct timespec));
	memcpy(times.data + times.len + sizeof(struct timespec), path, len);
	times.len += need;
	return 0;
}

static void set_times(const struct into *into)
{
	for (size_t at = 0; at < times.len;) {
		const char *path = times.data + at + sizeof(struct timespec);
		struct timespec time;
		int fd = open_path(into, path, O_RDONLY | O_NOFOLLOW);

		memcpy(&time, times.data + at, sizeof(time));
		if (fd >= 0) {
			futimens(fd, (struct timespec[2]){time, time});
			close(fd);
		}
		at += sizeof(struct timespec) + strlen(path) + 1;
	}
}

/* ---- attributes ---- */

static mode_t mode_of(const struct unpack *u, const struct into *into)
{
	/* a stranger's set-user-ID program must not become one of the caller's own */
	return into->special || u->entry.type == '5' ? u->entry.mode & 07777 : u->entry.mode & 01777;
}

static void set_xattrs(struct unpack *u, const struct into *into, int fd)
{
	for (size_t i = 0; i < u->entry.xattrs; i++) {
		struct word name = u->entry.xattr[i].name, value = u->entry.xattr[i].value;
		char text[256] = "";

		memcpy(text, name.s, name.n);
		if (strncmp(text, "user.", 5) && (strcmp(text, "security.capability") || !into->special))
			continue;
		fsetxattr(fd, text, value.s, value.n, 0); /* or not: some file systems have none */
	}
}

/* ---- entries ---- */

static int write_pieces(struct unpack *u, int fd)
{
	for (size_t i = 0; i < u->entry.pieces; i++) {
		if (lseek(fd, (off_t)u->piece[i].at, SEEK_SET) < 0)
			return fail_errno(u, "lseek");
		if (pass(u, fd, u->piece[i].len))
			return -EINVAL;
	}
	return ftruncate(fd, u->entry.real) ? fail_errno(u, "ftruncate") : 0;
}

static int fill_file(struct unpack *u, const struct into *into, int fd)
{
	const struct entry *e = &u->entry;
	const bool archive = into->owner == ARCHIVE;

	if (e->real >= 0 ? write_pieces(u, fd) : pass(u, fd, (uint64_t)e->size))
		return -EINVAL;
	if (into->owner != CALLER && fchown(fd, archive ? (uid_t)e->uid : 0, archive ? (gid_t)e->gid : 0) &&
	    !(archive && into->beneath && errno == EPERM))
		return fail_errno(u, "chown");
	if (fchmod(fd, mode_of(u, into)))
		return fail_errno(u, "chmod");
	set_xattrs(u, into, fd);
	return futimens(fd, (struct timespec[2]){e->mtime, e->mtime}) ? fail_errno(u, "utimensat") : 0;
}

static int make_file(struct unpack *u, const struct into *into, int dir, const char *name)
{
	int flags = O_WRONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, fd, err;
	struct stat st;

	if (clear(u, dir, name)) {
		/* mounted over, as /etc/hosts is: it is written to, as a machine itself would */
		if (strcmp(u->reason, "unlink: Device or resource busy") && strcmp(u->reason, "unlink: Resource busy"))
			return -EINVAL;
		u->verdict = DONE;
		fd = openat(dir, name, flags | O_TRUNC);
		if (fd >= 0 && (fstat(fd, &st) || !S_ISREG(st.st_mode)))
			return fail(u, REFUSED, "something is mounted over it");
		if (fd < 0)
			return fail_errno(u, "open");
		err = u->entry.real >= 0 ? write_pieces(u, fd) : pass(u, fd, (uint64_t)u->entry.size);
	} else {
		fd = openat(dir, name, flags | O_CREAT | O_EXCL, 0600);
		if (fd < 0)
			return fail_errno(u, "open");
		err = fill_file(u, into, fd);
	}
	if (close(fd) && !err)
		err = fail_errno(u, "close");
	return err;
}

static int make_dir(struct unpack *u, const struct into *into, int dir, const char *name)
{
	struct stat st;
	int fd, err;

	if (mkdirat(dir, name, 0700)) {
		if (errno != EEXIST)
			return fail_errno(u, "mkdir");
		if (!fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) && !S_ISDIR(st.st_mode))
			return fail(u, REFUSED, "something that is no directory has its name");
	}
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return fail_errno(u, "open");
	err = own(u, into, dir, name);
	if (!err && fchmod(fd, mode_of(u, into)))
		err = fail_errno(u, "chmod");
	set_xattrs(u, into, fd);
	close(fd);
	return err ? err : note_time(u, u->entry.name);
}

static int make_link(struct unpack *u, const struct into *into, int dir, const char *name)
{
	char *base;
	bool slash;
	int from, err = clean(u, u->entry.link, u->entry.link, &slash);

	if (err)
		return err;
	from = open_parent(u, into, u->entry.link, &base);
	if (from < 0)
		return from;
	if (*base && linkat(from, base, dir, name, 0)) /* not followed: what it is called is what it links */
		err = errno == ENOENT ? fail(u, REFUSED, "a hard link to what is not in the archive")
				      : fail_errno(u, "link");
	close(from);
	return err;
}

static int make_special(struct unpack *u, const struct into *into, int dir, const char *name)
{
	const struct entry *e = &u->entry;
	struct timespec time[2] = {e->mtime, e->mtime};

	if (e->type == '3' || e->type == '4')
		return fail(u, REFUSED, "it is a device, and devices are not copied");
	if (e->type == '2' ? symlinkat(e->link, dir, name) : mknodat(dir, name, S_IFIFO | mode_of(u, into), 0))
		return fail_errno(u, e->type == '2' ? "symlink" : "mknod");
	if (own(u, into, dir, name))
		return -EINVAL;
	return utimensat(dir, name, time, AT_SYMLINK_NOFOLLOW) ? fail_errno(u, "utimensat") : 0;
}

static int make_entry(struct unpack *u, const struct into *into)
{
	struct entry *e = &u->entry;
	char *base;
	int dir, err;

	if (into->owner == ARCHIVE && (e->uid < 0 || e->gid < 0 || e->uid > UINT32_MAX - 1 || e->gid > UINT32_MAX - 1))
		return fail(u, REFUSED, "an owner that is no id");
	if (!*e->name) /* the directory itself is there, and stays as it is */
		return into->top && e->type == '5' ? make_dir(u, into, into->base, ".") : 0;
	dir = open_parent(u, into, e->name, &base);
	if (dir < 0)
		return dir;
	if (e->type == '0')
		err = make_file(u, into, dir, base);
	else if (e->type == '5')
		err = make_dir(u, into, dir, base);
	else if (!(err = clear(u, dir, base)))
		err = e->type == '1' ? make_link(u, into, dir, base) : make_special(u, into, dir, base);
	close(dir);
	return err;
}

int archive_in(struct unpack *u, const struct into *into)
{
	char text[120];
	int more, n;

	while ((more = next_entry(u)) > 0) {
		if (u->entry.size < 0)
			return fail(u, DAMAGED, "its header is damaged");
		if (make_entry(u, into) || pass(u, -1, (uint64_t)(BLOCK - u->entry.size % BLOCK) % BLOCK))
			return -EINVAL;
		u->bytes += (uint64_t)u->entry.size;
		u->entries++;
	}
	*u->entry.shown = 0;
	if (more < 0 || drain(u))
		return -EINVAL;
	set_times(into);
	if (!u->terminated)
		return fail(u, TRUNCATED, "the archive has no end mark");
	n = snprintf(text, sizeof(text), "{\"entries\":%llu,\"bytes\":%llu}\n", (unsigned long long)u->entries,
		     (unsigned long long)u->bytes);
	return put(u, text, (size_t)n) ? -EINVAL : flush(u);
}
