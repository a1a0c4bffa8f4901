/*
 * A machine's writable layer beside what lies below it: as a list of changes, or as the layer of an image. overlayfs
 * writes a whiteout as a character device 0:0, and hides a whole directory by trusted.overlay.opaque.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "archive.h"

/* One directory: in the writable layer, and what shows of it below (-1: nothing). */
struct pair {
	int upper, lower;
};

static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

static bool is_opaque(int fd)
{
	char value[2];

	return fgetxattr(fd, "trusted.overlay.opaque", value, sizeof(value)) == 1 && *value == 'y';
}

/* Layers written with options that cove does not use cannot be read without overlayfs. */
static int check_plain(struct unpack *u, int fd)
{
	if (fgetxattr(fd, "trusted.overlay.redirect", NULL, 0) >= 0 ||
	    fgetxattr(fd, "trusted.overlay.metacopy", NULL, 0) >= 0)
		return fail(u, REFUSED, "this kernel's overlayfs wrote it as a redirection");
	return 0;
}

static bool same_time(const struct stat *a, const struct stat *b)
{
	return a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* A file that was copied up, for its attributes or to be opened for writing, may say what it said before. */
static bool is_changed(const struct stat *a, const struct stat *b)
{
	if (a->st_mode != b->st_mode || a->st_uid != b->st_uid || a->st_gid != b->st_gid)
		return true;
	if (S_ISDIR(a->st_mode))
		return false;
	return a->st_size != b->st_size || a->st_rdev != b->st_rdev || !same_time(a, b);
}

/* For two lists to be compared: behind each path what there is. */
static bool signing;

static int sign(struct unpack *u, const struct stat *st)
{
	char text[160] = "";
	int n = st ? snprintf(text, sizeof(text), "%o %u %u", st->st_mode, st->st_uid, st->st_gid) : 0;

	if (st && !S_ISDIR(st->st_mode))
		snprintf(text + n, sizeof(text) - (size_t)n, " %lld %llu %lld.%ld", (long long)st->st_size,
			 (unsigned long long)st->st_rdev, (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	return put(u, text, strlen(text) + 1);
}

static int tell(struct unpack *u, char kind, const struct stat *st)
{
	char head[3] = {kind, '/', 0};

	if (put(u, head, 2) || put(u, here.text, here.len + 1))
		return -EINVAL;
	return signing ? sign(u, st) : 0;
}

static int open_lower(int lower, const char *base)
{
	return lower < 0 ? -1 : open_dir_in(lower, base);
}

/* ---- the list ---- */

static int diff_dir(struct unpack *u, const struct pair *pair, bool opaque, int *changes);

/* Everything of the lower directory that an opaque one does not have any more. */
static int diff_hidden(struct unpack *u, const struct pair *pair, int *changes)
{
	struct names names;
	size_t len = here.len;
	int err = read_names_of(u, pair->lower, &names);

	if (err)
		return err;
	for (size_t i = 0; !err && i < names.count; i++) {
		struct stat st;

		if (!fstatat(pair->upper, names.at[i], &st, AT_SYMLINK_NOFOLLOW))
			continue;
		err = push(u, names.at[i]);
		err = err ? err : tell(u, 'D', NULL);
		pop(len);
		++*changes;
	}
	free_names(&names);
	return err;
}

static int diff_below(struct unpack *u, const struct pair *pair, const char *base, int *changes)
{
	int fd = open_dir_in(pair->upper, base), lower = open_lower(pair->lower, base), err;
	struct pair below = {fd, lower};

	if (fd < 0)
		err = errno == ENOENT || errno == ENOTDIR ? 0 : fail_errno(u, "open");
	else
		err = diff_dir(u, &below, is_opaque(fd), changes);
	if (fd >= 0)
		close(fd);
	if (lower >= 0)
		close(lower);
	return err;
}

static int diff_one(struct unpack *u, const struct pair *pair, const char *base, int *changes)
{
	struct stat st, old;
	bool was = pair->lower >= 0 && !fstatat(pair->lower, base, &old, AT_SYMLINK_NOFOLLOW);
	int inside = 0, err = 0;

	if (fstatat(pair->upper, base, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : fail_errno(u, "stat");
	if (is_whiteout(&st)) {
		*changes += was;
		return was ? tell(u, 'D', NULL) : 0;
	}
	if (S_ISDIR(st.st_mode))
		err = diff_below(u, pair, base, &inside);
	if (err || (was && !inside && !is_changed(&st, &old)))
		return err;
	++*changes;
	return tell(u, was ? 'C' : 'A', &st);
}

static int diff_dir(struct unpack *u, const struct pair *pair, bool opaque, int *changes)
{
	struct names names;
	size_t len = here.len;
	int err = check_plain(u, pair->upper);

	err = err ? err : read_names_of(u, pair->upper, &names);
	if (err)
		return err;
	for (size_t i = 0; !err && i < names.count; i++) {
		show(u, here.text);
		err = push(u, names.at[i]);
		err = err ? err : diff_one(u, pair, names.at[i], changes);
		pop(len);
	}
	free_names(&names);
	return !err && opaque && pair->lower >= 0 ? diff_hidden(u, pair, changes) : err;
}

/* ---- the layer ---- */

static int put_mark(struct unpack *u, const char *what, const char *base)
{
	static const struct stat st = {.st_mode = S_IFREG};
	struct item item = {.name = here.text, .link = "", .st = &st, .fd = -1};
	char text[NAME_MAX + 8];

	if (snprintf(text, sizeof(text), "%s%s", what, base) > NAME_MAX)
		return fail(u, REFUSED, "a deleted name of more than 251 bytes, which no image can say");
	return push(u, text) ? -EINVAL : tar_entry(u, &item);
}

static int layer_dir(struct unpack *u, int dir);

static int layer_one(struct unpack *u, int dir, const char *base)
{
	struct stat st;
	int fd = -1, err;

	if (fstatat(dir, base, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : fail_errno(u, "stat");
	if (is_whiteout(&st))
		return put_mark(u, ".wh.", base);
	if (!strncmp(base, ".wh.", 4))
		return fail(u, REFUSED, "a name in it begins with \".wh.\", which an image cannot hold");
	if (push(u, base))
		return -EINVAL;
	if (!S_ISDIR(st.st_mode))
		return put_one(u, dir, base, here.text, false);
	fd = open_dir_in(dir, base);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : fail_errno(u, "open");
	err = fstat(fd, &st) ? fail_errno(u, "stat") : put_dir(u, fd, here.text, &st);
	err = err ? err : layer_dir(u, fd);
	close(fd);
	return err;
}

static int layer_dir(struct unpack *u, int dir)
{
	size_t len = here.len;
	struct names names;
	int err = check_plain(u, dir);

	if (!err && is_opaque(dir))
		err = put_mark(u, ".wh.", ".wh..opq");
	pop(len);
	err = err ? err : read_names_of(u, dir, &names);
	if (err)
		return err;
	for (size_t i = 0; !err && i < names.count; i++) {
		show(u, here.text);
		err = layer_one(u, dir, names.at[i]);
		pop(len);
	}
	free_names(&names);
	return err;
}

/* ---- both ---- */

static int open_both(struct unpack *u, char **argv, struct pair *pair)
{
	pop(0);
	if (*argv[0] && push(u, argv[0]))
		return -EINVAL;
	pair->upper = openat(AT_FDCWD, argv[1], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	pair->lower = openat(AT_FDCWD, argv[2], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return pair->upper < 0 || pair->lower < 0 ? fail_errno(u, "open") : 0;
}

int archive_diff(struct unpack *u, int argc, char **argv, bool with_signs)
{
	signing = with_signs;
	for (int i = 0; i + 3 <= argc; i += 3) {
		struct pair pair;
		int changes = 0;

		if (open_both(u, argv + i, &pair) || diff_dir(u, &pair, false, &changes))
			return -EINVAL;
	}
	return flush(u);
}

int archive_layer(struct unpack *u, int argc, char **argv)
{
	for (int i = 0; i + 3 <= argc; i += 3) {
		struct pair pair;
		struct stat st;

		if (open_both(u, argv + i, &pair))
			return -EINVAL;
		if (fstat(pair.upper, &st))
			return fail_errno(u, "stat");
		if (put_dir(u, pair.upper, here.len ? here.text : ".", &st) || layer_dir(u, pair.upper))
			return -EINVAL;
	}
	return tar_end(u);
}
