/* The walls around the unpacker: its directory is all there is, and the kernel mostly closed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "unpack.h"

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

static const int allowed[] = {
	SYS_read,      SYS_write,  SYS_close,	       SYS_lseek,      SYS_openat,    SYS_openat2,   SYS_newfstatat,
	SYS_fstat,     SYS_statx,  SYS_mkdirat,	       SYS_mknodat,    SYS_symlinkat, SYS_linkat,    SYS_unlinkat,
	SYS_renameat,  SYS_fchown, SYS_fchownat,       SYS_fchmod,     SYS_fchmodat,  SYS_utimensat, SYS_fsetxattr,
	SYS_ftruncate, SYS_brk,	   SYS_mmap,	       SYS_munmap,     SYS_mremap,    SYS_mprotect,  SYS_madvise,
	SYS_getrandom, SYS_writev, SYS_rt_sigprocmask, SYS_exit_group,
};

/* A mistake in the parser above must not become a way to call the rest of the kernel. */
static int close_kernel(void)
{
#if defined(ARCH) && !defined(__SANITIZE_ADDRESS__)
	enum { COUNT = sizeof(allowed) / sizeof(allowed[0]) };
	struct sock_filter code[COUNT + 6], *c = code;
	struct sock_fprog prog = {.len = COUNT + 6, .filter = code};

	*c++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	*c++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
	*c++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	*c++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < COUNT; i++)
		*c++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i],
						    (unsigned char)(COUNT - i), 0);
	*c++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	*c++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
#else
	(void)allowed;
	return 0;
#endif
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	const uint64_t keep = 1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE | 1ull << CAP_FOWNER | 1ull << CAP_FSETID |
			      1ull << CAP_MKNOD | 1ull << CAP_SETFCAP | 1ull << CAP_SYS_ADMIN; /* trusted.overlay.* */
	struct __user_cap_data_struct caps[2] = {
		{.effective = (uint32_t)keep, .permitted = (uint32_t)keep},
		{.effective = keep >> 32, .permitted = keep >> 32},
	};

	return (int)syscall(SYS_capset, &head, caps);
}

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
	if (u->root < 0 || u->gone < 0 || u->implied < 0)
		return fail_errno(u, "open");
	if (drop_capabilities() || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || close_kernel())
		return fail_errno(u, "seccomp");
	return 0;
}
