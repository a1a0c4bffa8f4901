/* A tree into a tar, while whoever owns it changes it: each name is opened once, and what was opened is what is told.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "archive.h"

#define NAMES_MAX (256u << 20) /* bytes of the names in one directory */
#define MQUEUE	  0x19800202
#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x1000
#endif

/* ---- names ---- */

static int compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void free_names(struct names *names)
{
	free(names->text);
	free(names->at);
}

static int index_names(struct unpack *u, struct names *names, size_t len)
{
	size_t i = 0;

	names->at = malloc((names->count + 1) * sizeof(*names->at));
	if (!names->at) {
		free(names->text);
		return fail(u, LIMIT, "its names do not fit into memory");
	}
	for (const char *at = names->text; at < names->text + len; at += strlen(at) + 1)
		names->at[i++] = at;
	qsort(names->at, names->count, sizeof(*names->at), compare);
	return 0;
}

int read_names_of(struct unpack *u, int dir, struct names *names)
{
	static char buf[16384]; /* not on the stack: trees are deep */
	size_t len = 0, room = 0;
	long n;

	*names = (struct names){0};
	while ((n = syscall(SYS_getdents64, dir, buf, sizeof(buf))) > 0) {
		for (long at = 0; at < n;) {
			struct dirent64 *e = (struct dirent64 *)(void *)(buf + at);
			size_t size = strlen(e->d_name) + 1;

			at += e->d_reclen;
			if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
				continue;
			if (len + size > room) {
				char *more = room < NAMES_MAX ? realloc(names->text, room = 2 * room + 4096) : NULL;

				if (!more) {
					free(names->text);
					return fail(u, LIMIT, "its names do not fit into memory");
				}
				names->text = more;
			}
			memcpy(names->text + len, e->d_name, size);
			len += size;
			names->count++;
		}
	}
	if (n < 0) {
		free(names->text);
		return fail_errno(u, "getdents");
	}
	return index_names(u, names, len);
}

struct path here;

int push(struct unpack *u, const char *base)
{
	const char *slash = here.len && here.text[here.len - 1] != '/' ? "/" : "";
	int n = snprintf(here.text + here.len, sizeof(here.text) - here.len, "%s%s", slash, base);

	if ((size_t)n < sizeof(here.text) - here.len) {
		here.len += (size_t)n;
		return 0;
	}
	pop(here.len);
	return fail(u, LIMIT, "a name of more than 4095 bytes below it");
}

void pop(size_t len)
{
	here.len = len;
	here.text[len] = 0;
}

void show(struct unpack *u, const char *name)
{
	snprintf(u->entry.shown, sizeof(u->entry.shown), "%s", name);
}

/* ---- hard links ---- */

struct seen {
	dev_t dev;
	ino_t ino;
	char *name;
};

static struct {
	struct seen *slot;
	size_t room, count;
} seen;

static struct seen *find_seen(struct seen *slots, size_t room, dev_t dev, ino_t ino)
{
	size_t at = (size_t)(ino * 0x9e3779b97f4a7c15ull ^ dev) & (room - 1);

	while (slots[at].name && (slots[at].dev != dev || slots[at].ino != ino))
		at = (at + 1) & (room - 1);
	return &slots[at];
}

static int grow_seen(void)
{
	size_t room = seen.room ? 2 * seen.room : 1024;
	struct seen *slots = calloc(room, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < seen.room; i++)
		if (seen.slot[i].name)
			*find_seen(slots, room, seen.slot[i].dev, seen.slot[i].ino) = seen.slot[i];
	free(seen.slot);
	seen.slot = slots;
	seen.room = room;
	return 0;
}

int known_link(struct unpack *u, const struct stat *st, const char *name, const char **link)
{
	struct seen *slot;

	if (st->st_nlink < 2 || S_ISDIR(st->st_mode))
		return 0;
	if (2 * (seen.count + 1) > seen.room && grow_seen())
		return fail(u, LIMIT, "its hard links do not fit into memory");
	slot = find_seen(seen.slot, seen.room, st->st_dev, st->st_ino);
	if (slot->name) {
		*link = slot->name;
		return 1;
	}
	*slot = (struct seen){st->st_dev, st->st_ino, strdup(name)};
	seen.count++;
	return slot->name ? 0 : fail(u, LIMIT, "its hard links do not fit into memory");
}

/* ---- entries ---- */

static bool vanished(int err)
{
	return err == ENOENT || err == ENOTDIR || err == ELOOP || err == ESTALE;
}

int open_dir_in(int dir, const char *base)
{
	return openat(dir, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static int open_at(int dir, const char *path, uint64_t flags, bool follow)
{
	struct open_how how = {.flags = flags | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW),
			       .resolve = RESOLVE_NO_MAGICLINKS};

	return (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
}

static int put_link(struct unpack *u, struct item *item, const char *name, int *err)
{
	const char *link;

	*err = known_link(u, item->st, name, &link);
	if (*err == 1) {
		struct stat st = *item->st;
		struct item again = {.name = name, .link = link, .type = '1', .st = &st, .fd = -1};

		*err = tar_entry(u, &again);
		return 1;
	}
	return *err;
}

static int put_regular(struct unpack *u, int dir, const char *base, const char *name, bool follow)
{
	/* a FIFO may have taken the name meanwhile: do not wait for its writer */
	int fd = open_at(dir, base, O_RDONLY | O_NONBLOCK | O_NOCTTY, follow), err;
	struct stat st;
	struct item item = {.name = name, .link = "", .st = &st, .fd = fd};

	if (fd < 0)
		return vanished(errno) || errno == ENXIO ? 0 : fail_errno(u, "open");
	if (fstat(fd, &st))
		err = fail_errno(u, "stat");
	else if (!S_ISREG(st.st_mode))
		err = 0;
	else if (!put_link(u, &item, name, &err))
		err = tar_entry(u, &item);
	close(fd);
	return err;
}

int put_one(struct unpack *u, int dir, const char *base, const char *name, bool follow)
{
	char target[PATH_MAX] = "";
	struct stat st;
	struct item item = {.name = name, .link = target, .st = &st, .fd = -1};
	int fd = open_at(dir, base, O_PATH, follow), err;
	ssize_t n = 0;

	show(u, name);
	if (fd < 0)
		return vanished(errno) ? 0 : fail_errno(u, "open");
	err = fstat(fd, &st) ? fail_errno(u, "stat") : 0;
	if (!err && S_ISLNK(st.st_mode))
		n = readlinkat(fd, "", target, sizeof(target) - 1);
	close(fd);
	if (err || n < 0)
		return err ? err : fail_errno(u, "readlink");
	if (S_ISREG(st.st_mode))
		return put_regular(u, dir, base, name, follow);
	if (S_ISSOCK(st.st_mode) || S_ISDIR(st.st_mode) || put_link(u, &item, name, &err))
		return err; /* a tar knows no sockets */
	return tar_entry(u, &item);
}

int put_dir(struct unpack *u, int fd, const char *name, const struct stat *st)
{
	char slashed[PATH_MAX + 1];
	struct item item = {.name = slashed, .link = "", .st = st, .fd = fd};

	snprintf(slashed, sizeof(slashed), "%s%s", name, *name && name[strlen(name) - 1] == '/' ? "" : "/");
	return tar_entry(u, &item);
}

/* ---- trees ---- */

/* File systems that show the kernel, not the machine's files. */
static bool is_kernels(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs))
		return false;
	switch ((unsigned long)fs.f_type) {
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
	case DEVPTS_SUPER_MAGIC:
	case SECURITYFS_MAGIC:
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
	case BPF_FS_MAGIC:
	case MQUEUE:
		return true;
	default:
		return false;
	}
}

static uint64_t mount_of(int fd)
{
	uint64_t st[32]; /* struct statx, which C libraries have from different years */

	return syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_MNT_ID, st) ? 0 : st[144 / sizeof(*st)];
}

static int walk(struct unpack *u, int dir, uint64_t mount, bool top);

/* /proc, /sys and /dev of a machine are the kernel's: as directories they are part of its tree, empty. */
static int enter(struct unpack *u, int dir, const char *base, uint64_t mount, bool top)
{
	int fd = open_dir_in(dir, base), err;
	struct stat st;
	uint64_t own;

	if (fd < 0)
		return vanished(errno) ? 0 : fail_errno(u, "open");
	own = mount_of(fd);
	err = fstat(fd, &st) ? fail_errno(u, "stat") : put_dir(u, fd, here.text, &st);
	if (!err && (own == mount || !((top && !strcmp(base, "dev")) || is_kernels(fd))))
		err = walk(u, fd, own, false);
	close(fd);
	return err;
}

static int walk(struct unpack *u, int dir, uint64_t mount, bool top)
{
	size_t len = here.len;
	struct names names;
	int err;

	show(u, here.text);
	err = read_names_of(u, dir, &names);
	if (err)
		return err;
	for (size_t i = 0; !err && i < names.count; i++) {
		struct stat st;

		err = push(u, names.at[i]);
		show(u, here.text);
		if (err)
			break;
		if (fstatat(dir, names.at[i], &st, AT_SYMLINK_NOFOLLOW))
			err = vanished(errno) ? 0 : fail_errno(u, "stat");
		else if (S_ISDIR(st.st_mode))
			err = enter(u, dir, names.at[i], mount, top);
		else
			err = put_one(u, dir, names.at[i], here.text, false);
		pop(len);
	}
	free_names(&names);
	return err;
}

static int out_tree(struct unpack *u, int at, const char *name)
{
	int fd = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), top = open_at(AT_FDCWD, "/", O_PATH, false), err;
	struct stat st, root;

	if (fd < 0 || top < 0 || fstat(fd, &st) || fstat(top, &root))
		err = fail_errno(u, "open");
	else if (!(err = *name ? put_dir(u, fd, name, &st) : 0) && !(err = push(u, name)))
		err = walk(u, fd, mount_of(fd), st.st_dev == root.st_dev && st.st_ino == root.st_ino);
	if (fd >= 0)
		close(fd);
	if (top >= 0)
		close(top);
	return err;
}

int archive_out(struct unpack *u, const char *from, const char *name, bool follow)
{
	int fd = open_at(AT_FDCWD, from, O_PATH, follow), err;
	struct stat st;

	show(u, from);
	if (fd < 0 || fstat(fd, &st))
		return vanished(errno) ? fail(u, USAGE, "no such file or directory") : fail_errno(u, "open");
	if (is_kernels(fd))
		err = fail(u, REFUSED, "it is a file of the kernel, which has no size: read it inside");
	else if (S_ISDIR(st.st_mode))
		err = out_tree(u, fd, name);
	else if (S_ISSOCK(st.st_mode))
		err = fail(u, REFUSED, "it is a socket, which no archive holds");
	else
		err = put_one(u, AT_FDCWD, from, name, follow);
	close(fd);
	return err ? err : tar_end(u);
}

/* ---- one path ---- */

#define LINKS 40

/* Mode, size and time of `from`, its link's text, and where all its links lead, with the mode of that (0: nothing). */
int archive_stat(struct unpack *u, const char *from)
{
	char final[PATH_MAX], link[PATH_MAX], joined[2 * PATH_MAX], first[PATH_MAX] = "", text[160];
	struct stat st, end;
	int fd = open_at(AT_FDCWD, from, O_PATH, false), n, i;

	show(u, from);
	if (fd < 0 || fstat(fd, &st))
		return vanished(errno) ? fail(u, USAGE, "no such file or directory") : fail_errno(u, "open");
	end = st;
	snprintf(final, sizeof(final), "%s", from);
	for (i = 0; fd >= 0 && S_ISLNK(end.st_mode); i++) {
		char *slash = strrchr(final, '/');
		ssize_t len = readlinkat(fd, "", link, sizeof(link) - 1);

		if (len < 0 || i == LINKS)
			return len < 0 ? fail_errno(u, "readlink") : fail(u, REFUSED, "it is a loop of links");
		link[len] = 0;
		if (!i)
			strcpy(first, link);
		if (slash)
			slash[1] = 0;
		snprintf(joined, sizeof(joined), "%s%s", *link == '/' ? "" : slash ? final : "/", link);
		if (strlen(joined) >= sizeof(final))
			return fail(u, REFUSED, "its links have names of more than 4095 bytes");
		strcpy(final, joined);
		close(fd);
		fd = open_at(AT_FDCWD, final, O_PATH, false);
		if (fd < 0 || fstat(fd, &end))
			end.st_mode = 0;
	}
	n = snprintf(text, sizeof(text), "%o %lld %lld %ld %o", st.st_mode, (long long)st.st_size,
		     (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, end.st_mode);
	return put(u, text, (size_t)n + 1) || put(u, first, strlen(first) + 1) || put(u, final, strlen(final) + 1) ||
			       flush(u)
		       ? -EINVAL
		       : 0;
}
