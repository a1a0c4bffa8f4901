/* The walls around the unpacker: its directory is all there is, and the kernel mostly closed. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "unpack.h"
#include "walls.h"

static const int allowed[] = {
	SYS_read,      SYS_write,  SYS_close,	       SYS_lseek,      SYS_openat,    SYS_openat2,   SYS_newfstatat,
	SYS_fstat,     SYS_statx,  SYS_mkdirat,	       SYS_mknodat,    SYS_symlinkat, SYS_linkat,    SYS_unlinkat,
	SYS_renameat,  SYS_fchown, SYS_fchownat,       SYS_fchmod,     SYS_fchmodat,  SYS_utimensat, SYS_fsetxattr,
	SYS_ftruncate, SYS_brk,	   SYS_mmap,	       SYS_munmap,     SYS_mremap,    SYS_mprotect,  SYS_madvise,
	SYS_getrandom, SYS_writev, SYS_rt_sigprocmask, SYS_exit_group,
};

int confine(struct unpack *u, const char *dir)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	syscall(SYS_close_range, 3, ~0u, 0);
	umask(0);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount(dir, dir, NULL, MS_BIND, NULL) || chdir(dir) || syscall(SYS_pivot_root, ".", ".") ||
	    umount2(".", MNT_DETACH) || chdir("/"))
		return fail_errno(u, "pivot_root");
	if ((mkdir("fs", 0755) && errno != EEXIST) || (mkdir("gone", 0700) && errno != EEXIST))
		return fail_errno(u, "mkdir");
	u->root = open("fs", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	u->gone = open("gone", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	u->implied = open("implied", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	u->recipe = open("recipe", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (u->root < 0 || u->gone < 0 || u->implied < 0 || u->recipe < 0)
		return fail_errno(u, "open");
	if (walls_capabilities() || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    walls_calls(allowed, sizeof(allowed) / sizeof(allowed[0])))
		return fail_errno(u, "seccomp");
	return 0;
}
