/* Ops of files: what is made below a root that may be hostile, and values written to the kernel's own files. */
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "ops.h"

/* What is to be made: a directory, a file or device, or (link) a symlink. Its missing parents get the same owner. */
struct node {
	int root;
	const char *path, *link;
	mode_t mode;
	dev_t dev;
	uint32_t uid, gid;
	int links; /* to nowhere, followed so far */
};

static int make_path(const struct node *node);

/* A link to nowhere (/etc/resolv.conf of many images): what it points to is made instead, inside the root all the same.
 */
static int make_behind(const struct node *node, int dir, const char *where, const char *name, mode_t mode)
{
	char target[PATH_MAX], path[PATH_MAX];
	ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
	struct node behind = *node;

	if (n < 0)
		return errno == EINVAL ? -EEXIST : -errno;
	if (behind.links++ == 8)
		return -ELOOP;
	target[n] = 0;
	if (snprintf(path, sizeof(path), "%s/%s", *target == '/' ? "" : where, target) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	behind.path = path;
	behind.mode = mode;
	return make_path(&behind);
}

/* -1 and -1, as in chown(2): it stays the maker's. */
static int own(const struct node *node, int dir, const char *name)
{
	if (node->uid == UINT32_MAX && node->gid == UINT32_MAX)
		return 0;
	return fchownat(dir, name, node->uid, node->gid, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

/* A parent that is missing: made in the directory before it, then opened as itself, for nobody may have replaced it. */
static int make_parent(const struct node *node, int dir, const char *name)
{
	int fd;

	if (mkdirat(dir, name, 0755))
		return -errno;
	if ((fd = own(node, dir, name)))
		return fd;
	fd = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* The next directory on the way, walk, whose last component is at. */
static int open_or_make(const struct node *node, int dir, char *walk, char *at)
{
	int fd = open_in(node->root, walk, O_PATH | O_DIRECTORY, 0);

	if (fd == -ENOENT)
		fd = make_parent(node, dir, at);
	if (fd != -EEXIST)
		return fd;
	if (at > walk)
		at[-1] = 0;
	fd = make_behind(node, dir, at > walk ? walk : ".", at, S_IFDIR | 0755);
	if (at > walk)
		at[-1] = '/';
	return fd ? fd : open_in(node->root, walk, O_PATH | O_DIRECTORY, 0);
}

/*
 * The directory that is to hold the last component of the path, and (in walk) that component. One component at a time,
 * so that missing ones can be made; each step is resolved from the root again, so links and ".." never lead out of it.
 */
static int open_parent(const struct node *node, char *walk, const char **last)
{
	size_t len = strlen(node->path);
	int dir;

	if (len >= PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(walk, node->path, len + 1);
	while (len > 1 && walk[len - 1] == '/')
		walk[--len] = 0;
	char *name = strrchr(walk, '/');
	*last = name ? name + 1 : walk;
	if (name)
		*name = 0;
	const char *from = *node->path == '/' ? "/" : ".";
	dir = open_in(node->root, name && *walk ? walk : from, O_PATH | O_DIRECTORY, 0);
	if (dir != -ENOENT)
		return dir;
	dir = open_in(node->root, from, O_PATH | O_DIRECTORY, 0);
	for (char *at = walk, *end; dir >= 0 && at < name; at = end + 1) {
		at += strspn(at, "/");
		end = at + strcspn(at, "/");
		char cut = *end;
		*end = 0;
		int next = open_or_make(node, dir, walk, at);
		*end = cut;
		close(dir);
		dir = next;
	}
	return dir;
}

static int make_in(const struct node *node, int dir, const char *name)
{
	int r = node->link	      ? symlinkat(node->link, dir, name)
		: S_ISDIR(node->mode) ? mkdirat(dir, name, node->mode & 07777)
				      : mknodat(dir, name, node->mode, node->dev);

	if (r)
		return node->link && errno == EEXIST ? 0 : -errno;
	return own(node, dir, name);
}

/* What is there already is kept, also through a link, as long as that ends inside and in the right kind. */
static int make_path(const struct node *node)
{
	char walk[PATH_MAX];
	const char *last;
	int dir, err;

	if (!node->link) {
		int fd = open_in(node->root, node->path, O_PATH | (S_ISDIR(node->mode) ? O_DIRECTORY : 0), 0);
		if (fd >= 0)
			close(fd);
		if (fd != -ENOENT)
			return fd < 0 ? fd : 0;
	}
	if ((dir = open_parent(node, walk, &last)) < 0)
		return dir;
	err = make_in(node, dir, last);
	if (err == -EEXIST && !node->link)
		err = make_behind(node, dir, last == walk ? "." : *walk ? walk : "/", last, node->mode);
	close(dir);
	return err;
}

static int make_node(struct run *run, const struct node *node)
{
	mode_t mask = umask(0); /* modes are the plan's, whole */
	int err = make_path(node);

	umask(mask);
	return err ? fault(run, err, node->path) : 0;
}

int op_mkdirat(struct run *run, const struct op *op)
{
	return make_node(run, &(struct node){.root = word_fd(run, op->argv[0]),
					     .path = op->argv[1],
					     .mode = S_IFDIR | (word_o(op->argv[2]) & 07777),
					     .uid = (uint32_t)word_u(op->argv[3]),
					     .gid = (uint32_t)word_u(op->argv[4])});
}

int op_mknodat(struct run *run, const struct op *op)
{
	return make_node(run,
			 &(struct node){.root = word_fd(run, op->argv[0]),
					.path = op->argv[1],
					.mode = word_o(op->argv[2]),
					.dev = makedev((unsigned)word_u(op->argv[3]), (unsigned)word_u(op->argv[4])),
					.uid = (uint32_t)word_u(op->argv[5]),
					.gid = (uint32_t)word_u(op->argv[6])});
}

int op_symlinkat(struct run *run, const struct op *op)
{
	return make_node(run, &(struct node){.root = word_fd(run, op->argv[1]),
					     .path = op->argv[2],
					     .link = op->argv[0],
					     .uid = (uint32_t)word_u(op->argv[3]),
					     .gid = (uint32_t)word_u(op->argv[4])});
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

int op_binfmt(struct run *run, const struct op *op)
{
	int fd = open_in(word_fd(run, op->argv[0]), "register", O_WRONLY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV), err;

	if (fd < 0)
		return fault(run, fd, op->argv[0]);
	err = check_fs(fd, BINFMTFS_MAGIC);
	if (!err && write(fd, op->argv[1], strlen(op->argv[1])) < 0)
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
	return done(run, fchdir(word_fd(run, op->argv[0])), op->argv[0]);
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
