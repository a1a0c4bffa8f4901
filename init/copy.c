/*
 * copy: writable layers into a tree of their own, exactly as overlayfs wrote them: whiteouts, opaque directories,
 * attributes, hard links, holes.
 *
 *	cove-init copy STAGING PART whole|hollow FROM...
 *
 * STAGING/PART gets what is in FROM; of several, which are the layers of one machine, lowest first, what they come to
 * as one layer. `hollow` files have their size and no content. STAGING/links.PART and gone.PART are the copier's own
 *and the caller's to remove. What it reads is a machine's, which may go on changing it: names are opened one by one,
 *never through a link, and only the system calls of `allowed` are made. An error is one line on stderr and an exit code
 *of enum verdict.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "archive.h"
#include "walls.h"

#define OVERLAY	  "trusted.overlay."
#define XATTR_MAX 65536
#define SOURCES	  512 /* overlayfs takes 500 */
#define OPAQUE	  OVERLAY "opaque"

static const int allowed[] = {
	SYS_read,      SYS_write,      SYS_close,
	SYS_lseek,     SYS_openat,     SYS_newfstatat,
	SYS_fstat,     SYS_getdents64, SYS_readlinkat,
	SYS_mkdirat,   SYS_mknodat,    SYS_symlinkat,
	SYS_linkat,    SYS_unlinkat,   SYS_renameat,
	SYS_fchown,    SYS_fchownat,   SYS_fchmod,
	SYS_fchmodat,  SYS_utimensat,  SYS_flistxattr,
	SYS_fgetxattr, SYS_fsetxattr,  SYS_fremovexattr,
	SYS_ftruncate, SYS_fcntl,      SYS_brk,
	SYS_mmap,      SYS_munmap,     SYS_mremap,
	SYS_mprotect,  SYS_madvise,    SYS_copy_file_range,
	SYS_writev,    SYS_getrandom,  SYS_exit_group,
	SYS_pread64,   SYS_pwrite64,
};

static struct {
	struct unpack u;
	int links, gone;
	unsigned source, gone_count;
	bool hollow;
} copy;

static int copy_dir(int from, int to, bool merged);

static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

static bool is_opaque(int fd)
{
	char value[2];

	return fgetxattr(fd, OPAQUE, value, sizeof(value)) == 1 && *value == 'y';
}

static int fail_at(const char *call)
{
	if (errno == EMFILE)
		return fail(&copy.u, LIMIT, "its directories are too deep");
	if (errno == ENOSPC || errno == EDQUOT)
		return fail(&copy.u, FULL, "no space left");
	return fail_errno(&copy.u, call);
}

/* ---- attributes ---- */

/* overlayfs's notes on where a file came from hold for the layer it was written in; opaque ones hold anywhere. */
static int copied(const char *name)
{
	if (strncmp(name, OVERLAY, sizeof(OVERLAY) - 1))
		return 1;
	if (!strcmp(name, OVERLAY "redirect") || !strcmp(name, OVERLAY "metacopy"))
		return fail(&copy.u, REFUSED, "this kernel's overlayfs wrote it as a redirection");
	return !strcmp(name, OPAQUE);
}

static int drop_xattrs(int to)
{
	static char names[XATTR_MAX];
	ssize_t len = flistxattr(to, names, sizeof(names));

	for (const char *name = names; name < names + (len < 0 ? 0 : len); name += strlen(name) + 1)
		if (strcmp(name, OPAQUE) && !strncmp(name, "user.", 5) && fremovexattr(to, name))
			return fail_at("removexattr");
	return 0;
}

static int copy_xattrs(int from, int to)
{
	static char names[XATTR_MAX], value[XATTR_MAX];
	ssize_t len = flistxattr(from, names, sizeof(names));

	if (len < 0)
		return errno == ENOTSUP ? 0 : fail_at("listxattr");
	for (const char *name = names; name < names + len; name += strlen(name) + 1) {
		int wanted = copied(name);
		ssize_t n;

		if (wanted <= 0) {
			if (wanted < 0)
				return wanted;
			continue;
		}
		n = fgetxattr(from, name, value, sizeof(value));
		if (n < 0 && errno == ENODATA)
			continue;
		if (n < 0)
			return fail_at("getxattr");
		/* what a security module labels is labelled by it */
		if (fsetxattr(to, name, value, (size_t)n, 0) &&
		    (strncmp(name, "security.", 9) || !strcmp(name, "security.capability")))
			return fail_at("setxattr");
	}
	return 0;
}

/* Of what is open; the owner first, whose change takes set-user-ID bits and capabilities away. */
static int copy_attributes(int from, int to, const struct stat *st)
{
	struct timespec times[2] = {st->st_atim, st->st_mtim};

	if (fchown(to, st->st_uid, st->st_gid))
		return fail_at("chown");
	if (fchmod(to, st->st_mode & 07777))
		return fail_at("chmod");
	if (copy_xattrs(from, to))
		return -EINVAL;
	return futimens(to, times) ? fail_at("utimensat") : 0;
}

/* ---- files ---- */

static int copy_bytes(int from, int to, off_t at, off_t end)
{
	while (at < end) {
		off_t in = at, out = at;
		ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - at), 0);

		if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS)) {
			n = pread(from, copy.u.buf, BUFFER < end - at ? BUFFER : (size_t)(end - at), at);
			n = n > 0 ? pwrite(to, copy.u.buf, (size_t)n, at) : n;
		}
		if (n < 0)
			return fail_at("copy");
		if (!n)
			return 0; /* it became shorter meanwhile */
		at += n;
	}
	return 0;
}

static int copy_content(int from, int to, const struct stat *st)
{
	off_t at = 0, hole;

	if (ftruncate(to, st->st_size))
		return fail_at("ftruncate");
	while (!copy.hollow && at < st->st_size) {
		at = lseek(from, at, SEEK_DATA);
		if (at < 0)
			return errno == ENXIO ? 0 : fail_at("lseek");
		hole = lseek(from, at, SEEK_HOLE);
		if (hole < 0)
			return fail_at("lseek");
		if (copy_bytes(from, to, at, hole < st->st_size ? hole : st->st_size))
			return -EINVAL;
		at = hole;
	}
	return 0;
}

static int copy_regular(int from, int to, const char *base)
{
	int in = openat(from, base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_NOATIME | O_CLOEXEC), out, err;
	struct stat st;

	if (in < 0)
		return errno == ENOENT || errno == ELOOP ? 0 : fail_at("open");
	if (fstat(in, &st) || !S_ISREG(st.st_mode)) {
		close(in);
		return 0; /* something else has the name by now */
	}
	out = openat(to, base, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	err = out < 0 ? fail_at("create") : copy_content(in, out, &st);
	err = err ? err : copy_attributes(in, out, &st);
	if (out >= 0 && close(out) && !err)
		err = fail_at("close");
	close(in);
	return err;
}

static int copy_special(int from, int to, const char *base, const struct stat *st)
{
	struct timespec times[2] = {st->st_atim, st->st_mtim};
	char target[PATH_MAX];

	if (S_ISLNK(st->st_mode)) {
		ssize_t n = readlinkat(from, base, target, sizeof(target) - 1);

		if (n < 0)
			return errno == ENOENT || errno == EINVAL ? 0 : fail_at("readlink");
		target[n] = 0;
		if (symlinkat(target, to, base))
			return fail_at("symlink");
	} else if (mknodat(to, base, st->st_mode, st->st_rdev)) {
		return fail_at("mknod");
	}
	if (fchownat(to, base, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW))
		return fail_at("chown");
	if (!S_ISLNK(st->st_mode) && fchmodat(to, base, st->st_mode & 07777, 0))
		return fail_at("chmod");
	return utimensat(to, base, times, AT_SYMLINK_NOFOLLOW) ? fail_at("utimensat") : 0;
}

/* ---- trees ---- */

static int put_away(int to, const char *base)
{
	char name[24];

	snprintf(name, sizeof(name), "%u", copy.gone_count++);
	return renameat(to, base, copy.gone, name) ? fail_at("rename") : 0;
}

/* A file of several names is linked from `links`, where its first copy has one more: no path is too long for that. */
static int copy_file(int from, int to, const char *base, const struct stat *st)
{
	char first[64];
	int err;

	snprintf(first, sizeof(first), "%u-%llu", copy.source, (unsigned long long)st->st_ino);
	/* overlayfs makes all whiteouts of one inode; as copies they need not be */
	if (st->st_nlink > 1 && !is_whiteout(st)) {
		if (!linkat(copy.links, first, to, base, 0))
			return 0;
		if (errno != ENOENT)
			return fail_at("link");
	}
	err = S_ISREG(st->st_mode) ? copy_regular(from, to, base) : copy_special(from, to, base, st);
	if (!err && st->st_nlink > 1 && !is_whiteout(st) && linkat(to, base, copy.links, first, 0) && errno != ENOENT)
		return fail_at("link");
	return err;
}

static int set_opaque(int fd)
{
	return fsetxattr(fd, OPAQUE, "y", 1, 0) ? fail_at("setxattr") : 0;
}

/* `was`: there is something else of that name already, which this layer is over. */
static int copy_below(int from, int to, const char *base, bool was, bool was_dir)
{
	int in = openat(from, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC), out = -1, err = 0;
	bool merged;

	if (in < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : fail_at("open");
	merged = was_dir && !is_opaque(in);
	if (was && !merged)
		err = put_away(to, base);
	if (!err && !merged && mkdirat(to, base, 0700))
		err = fail_at("mkdir");
	if (!err) {
		out = openat(to, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		err = out < 0 ? fail_at("open") : 0;
	}
	/* it stands where something else stood: what is below that stays hidden */
	if (!err && was && !merged)
		err = set_opaque(out);
	err = err ? err : copy_dir(in, out, merged);
	if (out >= 0)
		close(out);
	close(in);
	return err;
}

static int copy_one(int from, int to, const char *base)
{
	struct stat st, old;
	bool was = !fstatat(to, base, &old, AT_SYMLINK_NOFOLLOW);

	if (fstatat(from, base, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : fail_at("stat");
	if (S_ISDIR(st.st_mode))
		return copy_below(from, to, base, was, was && S_ISDIR(old.st_mode));
	if (was && put_away(to, base))
		return -EINVAL;
	return copy_file(from, to, base, &st);
}

static int copy_dir(int from, int to, bool merged)
{
	struct names names;
	struct stat st;
	int err = read_names_of(&copy.u, from, &names);

	if (err)
		return err;
	for (size_t i = 0; !err && i < names.count; i++) {
		show(&copy.u, names.at[i]);
		err = copy_one(from, to, names.at[i]);
	}
	free_names(&names);
	if (!err && fstat(from, &st))
		err = fail_at("stat");
	if (!err && merged)
		err = drop_xattrs(to);
	return err ? err : copy_attributes(from, to, &st);
}

/* ---- walls ---- */

static int open_made(int dir, const char *prefix, const char *part, unsigned mode)
{
	char name[NAME_MAX + 1];

	snprintf(name, sizeof(name), "%s%s", prefix, part);
	if (mkdirat(dir, name, mode) && errno != EEXIST)
		return -1;
	return openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static int shut_in(void)
{
	struct rlimit files;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	umask(0);
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (walls_capabilities() || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    walls_calls(allowed, sizeof(allowed) / sizeof(allowed[0])))
		return fail_errno(&copy.u, "seccomp");
	return 0;
}

static int copy_all(char **argv, int count)
{
	static int from[SOURCES];
	int staging = openat(AT_FDCWD, argv[0], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), to, err;

	if (count > SOURCES || !copy.u.buf)
		return fail(&copy.u, LIMIT, "too many layers");
	copy.links = open_made(staging, "links.", argv[1], 0700);
	copy.gone = open_made(staging, "gone.", argv[1], 0700);
	to = open_made(staging, "", argv[1], 0755);
	if (staging < 0 || copy.links < 0 || copy.gone < 0 || to < 0)
		return fail_errno(&copy.u, "open");
	for (int i = 0; i < count; i++) {
		from[i] = openat(AT_FDCWD, argv[3 + i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (from[i] < 0)
			return fail_errno(&copy.u, "open");
	}
	err = shut_in();
	for (int i = 0; !err && i < count; i++) {
		copy.source = (unsigned)i;
		err = copy_dir(from[i], to, true);
	}
	return err;
}

int copy_main(int argc, char **argv)
{
	copy.u.buf = malloc(BUFFER);
	if (argc < 6 || (strcmp(argv[4], "whole") && strcmp(argv[4], "hollow")))
		fail(&copy.u, USAGE, "usage: cove-init copy STAGING PART whole|hollow FROM...");
	else {
		copy.hollow = *argv[4] == 'h';
		if (!copy_all(argv + 2, argc - 5))
			return DONE;
	}
	report(&copy.u, copy.u.entry.shown);
	return copy.u.verdict ? (int)copy.u.verdict : SYSTEM;
}
