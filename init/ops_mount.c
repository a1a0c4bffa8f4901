/* Ops of mounts. A path of the machine is resolved below its root, and what was found is mounted on by descriptor. */
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "ops.h"

/* <sys/mount.h> and <linux/mount.h> exclude each other in some C libraries. */
#define DETACH	  2 /* MNT_DETACH */
#define NO_FOLLOW 8 /* UMOUNT_NOFOLLOW */

int open_in(int root, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve | RESOLVE_NO_MAGICLINKS};

	if (root != AT_FDCWD)
		how.resolve |= RESOLVE_IN_ROOT;
	if (!*path)
		path = ".";
	/* EAGAIN: somebody renamed or mounted meanwhile, and ".." could not be proven to stay inside. */
	for (int tries = 0;; tries++) {
		long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));
		if (fd >= 0)
			return (int)fd;
		if (errno != EAGAIN || tries == 64)
			return -errno;
	}
}

int check_fs(int fd, uint64_t magic)
{
	struct statfs fs;

	if (fstatfs(fd, &fs))
		return -errno;
	return (uint64_t)fs.f_type == magic ? 0 : -EXDEV;
}

int check_chr(int fd, unsigned major, unsigned minor)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	return S_ISCHR(st.st_mode) && st.st_rdev == makedev(major, minor) ? 0 : -ENODEV;
}

static int attach(int mount, int target)
{
	unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;

	return syscall(SYS_move_mount, mount, "", target, "", flags) ? -errno : 0;
}

static int clone_mount(int fd, unsigned recursive)
{
	long tree = syscall(SYS_open_tree, fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);

	return tree < 0 ? -errno : (int)tree;
}

int op_open_tree(struct run *run, const struct op *op)
{
	unsigned flags = (unsigned)word_u(op->argv[3]) | OPEN_TREE_CLOEXEC | (*op->argv[2] ? 0 : AT_EMPTY_PATH);
	long fd = syscall(SYS_open_tree, word_fd(run, op->argv[1]), op->argv[2], flags);

	return fd < 0 ? fault(run, -errno, op->argv[2]) : reg_set(&run->regs, op->argv[0], (int)fd);
}

int op_mount_setattr(struct run *run, const struct op *op)
{
	int userns = word_fd(run, op->argv[6]);
	struct mount_attr attr = {.attr_set = word_u(op->argv[3]),
				  .attr_clr = word_u(op->argv[4]),
				  .propagation = word_u(op->argv[5]),
				  .userns_fd = userns < 0 ? 0 : (uint64_t)userns};
	unsigned flags = (unsigned)word_u(op->argv[2]) | (*op->argv[1] ? 0 : AT_EMPTY_PATH);

	return done(run, syscall(SYS_mount_setattr, word_fd(run, op->argv[0]), op->argv[1], flags, &attr, sizeof(attr)),
		    op->argv[1]);
}

/* Where links of an image are followed, one may lead to /proc: that would be what the image has from then on. */
int op_move_mount(struct run *run, const struct op *op)
{
	int target = open_in(word_fd(run, op->argv[1]), op->argv[2], O_PATH, word_u(op->argv[3]));

	if (target < 0)
		return fault(run, target, op->argv[2]);
	int links = (word_u(op->argv[3]) & (RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)) == RESOLVE_IN_ROOT;
	int shut = links && !check_fs(target, PROC_SUPER_MAGIC);
	int err = shut ? -EXDEV : attach(word_fd(run, op->argv[0]), target);
	close(target);
	return err ? fault(run, err, op->argv[2]) : 0;
}

/* A link on the way would lead to another mount, as one that hides something. */
int op_umount(struct run *run, const struct op *op)
{
	const char *path = op->argv[0], *name = strrchr(path, '/');
	char parent[4096];
	int err = 0;

	if (!name || (size_t)snprintf(parent, sizeof(parent), "%.*s/", (int)(name - path), path) >= sizeof(parent))
		return fault(run, -EINVAL, path);
	int fd = open_in(AT_FDCWD, parent, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
	if (fd < 0)
		return fault(run, fd, path);
	if (fchdir(fd) || syscall(SYS_umount2, name + 1, NO_FOLLOW))
		err = -errno;
	close(fd);
	return err ? fault(run, err, path) : 0;
}

static const char *or_null(const char *word)
{
	return *word ? word : NULL;
}

int op_mount(struct run *run, const struct op *op)
{
	return done(run,
		    syscall(SYS_mount, or_null(op->argv[0]), op->argv[1], or_null(op->argv[2]), word_u(op->argv[3]),
			    or_null(op->argv[4])),
		    op->argv[1]);
}

/* `key=value` or a bare flag; the word is cut at its "=" and made whole again for the report. */
static int set_option(struct run *run, int fs, char *word)
{
	char *value = strchr(word, '=');

	if (value)
		*value = 0;
	long r = value ? syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, word, value + 1, 0)
		       : syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, word, NULL, 0);
	int err = r ? -errno : 0;
	if (value)
		*value = '=';
	return err ? fault(run, err, word) : 0;
}

int op_fsmount(struct run *run, const struct op *op)
{
	int fs = (int)syscall(SYS_fsopen, op->argv[1], FSOPEN_CLOEXEC), err = 0, mount;

	if (fs < 0)
		return fault(run, -errno, op->argv[1]);
	for (int i = 3; !err && i < op->argc; i++)
		err = set_option(run, fs, op->argv[i]);
	if (!err && syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		err = fault(run, -errno, op->argv[1]);
	if (!err) {
		mount = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, (unsigned)word_u(op->argv[2]));
		err = mount < 0 ? fault(run, -errno, op->argv[1]) : reg_set(&run->regs, op->argv[0], mount);
	}
	close(fs);
	return err;
}

/* The target of a mask: only ever what procfs or sysfs itself shows. A path this kernel has not is nothing to hide. */
static int open_kernel_path(struct run *run, const char *root, const char *path)
{
	int fd = open_in(word_fd(run, root), path, O_PATH, 0);

	if (fd < 0)
		return fd == -ENOENT ? fd : fault(run, fd, path);
	if (check_fs(fd, PROC_SUPER_MAGIC) && check_fs(fd, SYSFS_MAGIC)) {
		close(fd);
		return fault(run, -EXDEV, path);
	}
	return fd;
}

static int mask_one(int target, int null, int empty)
{
	struct stat st;
	int tree, err;

	if (fstat(target, &st))
		return -errno;
	tree = clone_mount(S_ISDIR(st.st_mode) ? empty : null, 0);
	/* Kernels before 6.15 clone no detached mount: then the empty directory itself goes where it is first needed.
	 */
	if (tree == -EINVAL && S_ISDIR(st.st_mode))
		return attach(empty, target);
	if (tree < 0)
		return tree;
	err = attach(tree, target);
	close(tree);
	return err;
}

static int readonly_one(int target)
{
	struct mount_attr attr = {.attr_set =
					  MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC};
	int tree = clone_mount(target, AT_RECURSIVE), err;

	if (tree < 0)
		return tree;
	if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)))
		err = -errno;
	else
		err = attach(tree, target);
	close(tree);
	return err;
}

/* Covers each path from `first` on; the two registers are mask's, -1 for readonly. */
static int cover(struct run *run, const struct op *op, int first, int null, int empty)
{
	for (int i = first, err = 0; i < op->argc; i++) {
		int target = open_kernel_path(run, op->argv[0], op->argv[i]);
		if (target == -ENOENT)
			continue;
		if (target < 0)
			return target;
		err = null < 0 ? readonly_one(target) : mask_one(target, null, empty);
		close(target);
		if (err)
			return fault(run, err, op->argv[i]);
	}
	return 0;
}

int op_mask(struct run *run, const struct op *op)
{
	int null = word_fd(run, op->argv[1]), err = check_chr(null, 1, 3);

	return err ? fault(run, err, op->argv[1]) : cover(run, op, 3, null, word_fd(run, op->argv[2]));
}

int op_readonly(struct run *run, const struct op *op)
{
	return cover(run, op, 1, -1, -1);
}

int op_pivot_root(struct run *run, const struct op *op)
{
	if (fchdir(word_fd(run, op->argv[0])) || syscall(SYS_pivot_root, ".", ".") ||
	    syscall(SYS_umount2, ".", DETACH) || chdir("/"))
		return -errno;
	return 0;
}
