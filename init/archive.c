/*
 * archive: files into a tar, and out of one. The last op of a plan, inside a machine's namespaces, or a role for the
 * caller's own side of a copy:
 *
 *	stat PATH                what is there, and where its links lead
 *	out PATH NAME FOLLOW     a tar of PATH on stdout, its first entry called NAME, or (empty) without one
 *	in DIR OWNER             a tar from stdin into DIR; links lead where they lead inside; `tree`: DIR itself, too
 *	beneath DIR OWNER        the same, but no link is followed out of DIR
 *	diff, layer              PREFIX UPPER LOWER ...: what a writable layer changed, as a list or an image's tar
 *	hold                     says a word, and waits for the end of stdin: others are beside it meanwhile
 *	signs                    the same list, each path followed by what is there, for two of them to be compared
 *
 * Nothing is executed, and only the system calls of `allowed` are made. A path is the tree's own business: in a machine
 * the root is the machine's. Names are opened one by one, never through what was looked at before. An error is one
 * line on stderr and an exit code of enum verdict.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "archive.h"
#include "ops.h"
#include "walls.h"

static const int allowed[] = {
	SYS_read,	SYS_write,	SYS_readv,   SYS_writev,     SYS_close,	    SYS_lseek,	    SYS_openat,
	SYS_openat2,	SYS_newfstatat, SYS_fstat,   SYS_statx,	     SYS_fstatfs,   SYS_getdents64, SYS_readlinkat,
	SYS_flistxattr, SYS_fgetxattr,	SYS_mkdirat, SYS_mknodat,    SYS_symlinkat, SYS_linkat,	    SYS_unlinkat,
	SYS_fchown,	SYS_fchownat,	SYS_fchmod,  SYS_fchmodat,   SYS_utimensat, SYS_fsetxattr,  SYS_ftruncate,
	SYS_brk,	SYS_mmap,	SYS_munmap,  SYS_mremap,     SYS_mprotect,  SYS_madvise,    SYS_getrandom,
	SYS_fcntl,	SYS_exit,	SYS_ppoll,   SYS_exit_group, SYS_sysinfo, /* glibc's qsort */
};

static int shut_in(struct unpack *u)
{
	struct rlimit files;

	umask(0);
	/* a directory of a tree costs a descriptor for each level, and 2048 levels have a name */
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || walls_calls(allowed, sizeof(allowed) / sizeof(allowed[0])))
		return fail_errno(u, "seccomp");
	return 0;
}

static int run_in(struct unpack *u, char **argv, bool beneath)
{
	struct into into = {.beneath = beneath, .owner = ROOT};

	into.top = !strcmp(argv[2], "tree");
	if (into.top || !strcmp(argv[2], "archive"))
		into.owner = ARCHIVE;
	else if (!strcmp(argv[2], "caller"))
		into.owner = CALLER;
	into.special = !beneath || into.owner == ARCHIVE;
	into.base = openat(AT_FDCWD, argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (into.base < 0)
		return errno == ENOENT || errno == ENOTDIR ? fail(u, USAGE, "no such directory")
							   : fail_errno(u, "open");
	return archive_in(u, &into);
}

/* Who joins its namespaces has a root to stand on for as long as it waits. */
static int hold(struct unpack *u)
{
	char buf[64];
	ssize_t n = write(1, "\n", 1);

	while (n > 0)
		n = read(0, buf, sizeof(buf));
	return n ? fail_errno(u, "read") : 0;
}

static int dispatch(struct unpack *u, int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[0], "stat"))
		return archive_stat(u, argv[1]);
	if (argc == 4 && !strcmp(argv[0], "out"))
		return archive_out(u, argv[1], argv[2], *argv[3] == '1');
	if (argc == 3 && (!strcmp(argv[0], "in") || !strcmp(argv[0], "beneath")))
		return run_in(u, argv, *argv[0] == 'b');
	if (argc > 1 && argc % 3 == 1 && !strcmp(argv[0], "diff"))
		return archive_diff(u, argc - 1, argv + 1, false);
	if (argc > 1 && argc % 3 == 1 && !strcmp(argv[0], "signs"))
		return archive_diff(u, argc - 1, argv + 1, true);
	if (argc > 1 && argc % 3 == 1 && !strcmp(argv[0], "layer"))
		return archive_layer(u, argc - 1, argv + 1);
	if (argc == 1 && !strcmp(argv[0], "hold"))
		return hold(u);
	return fail(u, USAGE,
		    "usage: archive stat PATH | out PATH NAME FOLLOW | in DIR OWNER | beneath DIR OWNER | "
		    "diff ... | signs ... | layer ... | hold");
}

int archive_run(int argc, char **argv)
{
	static struct unpack u;
	int err;

	for (size_t i = 0; i < DIRS; i++)
		u.dirs[i].fd = -1;
	u.max_bytes = u.max_entries = UINT64_MAX;
	u.buf = malloc(BUFFER);
	err = u.buf ? shut_in(&u) : fail(&u, SYSTEM, "out of memory");
	err = err ? err : dispatch(&u, argc, argv);
	if (!err)
		return DONE;
	report(&u, u.entry.shown);
	return u.verdict ? (int)u.verdict : SYSTEM;
}

int op_archive(struct run *run, const struct op *op)
{
	char **argv = op->argv;
	int err = exec_alone(run);

	if (err)
		return err;
	close(run->sync[1]); /* its end of file is how the launcher knows that the plan has run */
	_exit(archive_run(op->argc, argv));
}

int archive_main(int argc, char **argv)
{
	return archive_run(argc - 2, argv + 2);
}
