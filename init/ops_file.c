/* Ops of files: what is made below a root that may be hostile, and values written to the kernel's own files. */
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "ops.h"

/* A node being made: who is to own it and its missing parents. */
struct making {
	int root;
	uint32_t uid, gid;
};

/* A parent that is missing: made in the directory before it, then opened as itself, for nobody may have replaced it. */
static int make_parent(const struct making *making, int dir, const char *name)
{
	int fd;

	if (mkdirat(dir, name, 0755))
		return errno == EEXIST ? -ENOENT : -errno; /* a symlink to nowhere */
	if (fchownat(dir, name, making->uid, making->gid, AT_SYMLINK_NOFOLLOW))
		return -errno;
	fd = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/*
 * The directory that is to hold the last component of path, and that component. Walks one component at a time so that
 * missing ones can be made; each step is resolved from the root again, so links and ".." never lead out of it.
 */
static int open_parent(const struct making *making, const char *path, char *walk, const char **last)
{
	size_t len = strlen(path);
	int dir;

	if (len >= PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(walk, path, len + 1);
	while (len > 1 && walk[len - 1] == '/')
		walk[--len] = 0;
	char *name = strrchr(walk, '/');
	*last = name ? name + 1 : walk;
	if (!name) /* directly in the root */
		return open_in(making->root, ".", O_PATH | O_DIRECTORY, 0);
	*name = 0;
	dir = open_in(making->root, *walk ? walk : "/", O_PATH | O_DIRECTORY, 0);
	if (dir != -ENOENT)
		return dir;
	dir = open_in(making->root, *walk == '/' || !*walk ? "/" : ".", O_PATH | O_DIRECTORY, 0);
	for (char *at = walk, *end; dir >= 0 && at < name; at = end + 1) {
		at += strspn(at, "/");
		end = at + strcspn(at, "/");
		char cut = *end;
		*end = 0;
		int next = open_in(making->root, walk, O_PATH | O_DIRECTORY, 0);
		if (next == -ENOENT)
			next = make_parent(making, dir, at);
		*end = cut;
		close(dir);
		dir = next;
		if (end >= name)
			break;
	}
	return dir;
}

static int prepare(struct run *run, const char *root, const char *path, struct making *making, char *walk,
		   const char **last)
{
	making->root = word_fd(run, root);
	mode_t mask = umask(0); /* modes are the plan's, whole */
	int dir = open_parent(making, path, walk, last);

	umask(mask);
	return dir < 0 ? fault(run, dir, path) : dir;
}

int op_mkdirat(struct run *run, const struct op *op)
{
	struct making making = {.uid = (uint32_t)word_u(op->argv[3]), .gid = (uint32_t)word_u(op->argv[4])};
	char walk[PATH_MAX];
	const char *last;
	int err = 0, fd;

	/* Also through a link, as long as it ends in a directory inside. */
	fd = open_in(word_fd(run, op->argv[0]), op->argv[1], O_PATH | O_DIRECTORY, 0);
	if (fd != -ENOENT)
		return fd < 0 ? fault(run, fd, op->argv[1]) : (close(fd), 0);
	int dir = prepare(run, op->argv[0], op->argv[1], &making, walk, &last);
	if (dir < 0)
		return dir;
	mode_t mask = umask(0);
	if (mkdirat(dir, last, word_o(op->argv[2])) || fchownat(dir, last, making.uid, making.gid, AT_SYMLINK_NOFOLLOW))
		err = fault(run, -errno, op->argv[1]);
	umask(mask);
	close(dir);
	return err;
}

int op_mknodat(struct run *run, const struct op *op)
{
	struct making making = {.uid = (uint32_t)word_u(op->argv[5]), .gid = (uint32_t)word_u(op->argv[6])};
	dev_t dev = makedev((unsigned)word_u(op->argv[3]), (unsigned)word_u(op->argv[4]));
	char walk[PATH_MAX];
	const char *last;
	int err = 0, fd;

	fd = open_in(word_fd(run, op->argv[0]), op->argv[1], O_PATH, 0);
	if (fd != -ENOENT)
		return fd < 0 ? fault(run, fd, op->argv[1]) : (close(fd), 0);
	int dir = prepare(run, op->argv[0], op->argv[1], &making, walk, &last);
	if (dir < 0)
		return dir;
	mode_t mask = umask(0);
	if (mknodat(dir, last, word_o(op->argv[2]), dev) ||
	    fchownat(dir, last, making.uid, making.gid, AT_SYMLINK_NOFOLLOW))
		err = fault(run, -errno, op->argv[1]);
	umask(mask);
	close(dir);
	return err;
}

int op_symlinkat(struct run *run, const struct op *op)
{
	struct making making = {.uid = (uint32_t)word_u(op->argv[3]), .gid = (uint32_t)word_u(op->argv[4])};
	char walk[PATH_MAX];
	const char *last;
	int err = 0;
	int dir = prepare(run, op->argv[1], op->argv[2], &making, walk, &last);

	if (dir < 0)
		return dir;
	if (!symlinkat(op->argv[0], dir, last)) {
		if (fchownat(dir, last, making.uid, making.gid, AT_SYMLINK_NOFOLLOW))
			err = fault(run, -errno, op->argv[2]);
	} else if (errno != EEXIST) {
		err = fault(run, -errno, op->argv[2]);
	}
	close(dir);
	return err;
}

int op_sysctl(struct run *run, const struct op *op)
{
	char path[256] = "sys/";
	size_t len = strlen(op->argv[1]);
	int err, fd;

	if (len >= sizeof(path) - 4)
		return fault(run, -ENAMETOOLONG, op->argv[1]);
	memcpy(path + 4, op->argv[1], len + 1);
	fd = open_in(word_fd(run, op->argv[0]), path, O_WRONLY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
	if (fd < 0)
		return fault(run, fd, op->argv[1]);
	err = check_fs(fd, PROC_SUPER_MAGIC);
	if (!err && write(fd, op->argv[2], strlen(op->argv[2])) < 0)
		err = -errno;
	close(fd);
	return err ? fault(run, err, op->argv[1]) : 0;
}

int op_cgroup_attach(struct run *run, const struct op *op)
{
	for (int i = 0; i < op->argc; i++) {
		int err = 0, fd = open(op->argv[i], O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "0", 1) != 1)
			err = -errno;
		if (fd >= 0)
			close(fd);
		if (err)
			return fault(run, err, op->argv[i]);
	}
	return 0;
}

int op_fchdir(struct run *run, const struct op *op)
{
	return fchdir(word_fd(run, op->argv[0])) ? fault(run, -errno, op->argv[0]) : 0;
}

/* Not chdir(2): an image may hold a link to /proc/self/fd/N, and descriptors of the host are still open here. */
int op_chdir(struct run *run, const struct op *op)
{
	char path[PATH_MAX];
	int fd = open_in(AT_FDCWD, op->argv[0], O_PATH | O_DIRECTORY, 0), err = 0;

	if (fd < 0)
		return fault(run, fd, op->argv[0]);
	if (fchdir(fd))
		err = -errno;
	/* "(unreachable)...": not below our root. */
	else if (syscall(SYS_getcwd, path, sizeof(path)) < 0 || *path != '/')
		err = -EXDEV;
	close(fd);
	return err ? fault(run, err, op->argv[0]) : 0;
}

int op_umask(struct run *run, const struct op *op)
{
	(void)run;
	umask(word_o(op->argv[0]));
	return 0;
}
