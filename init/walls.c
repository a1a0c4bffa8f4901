/*
 * Walls that a role of this program puts around itself before it reads anything of somebody else's: no system calls but
 * those it names, and no capability but those it needs.
 */
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "walls.h"

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

int walls_calls(const int *allowed, size_t count)
{
#if defined(ARCH) && !defined(__SANITIZE_ADDRESS__)
	struct sock_filter code[CALLS_MAX + 6], *c = code;
	struct sock_fprog prog = {.len = (unsigned short)(count + 6), .filter = code};

	if (count > CALLS_MAX)
		return -1;
	*c++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	*c++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
	*c++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	*c++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < count; i++)
		*c++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i],
						    (unsigned char)(count - i), 0);
	*c++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	*c++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
#else
	(void)allowed, (void)count;
	return 0;
#endif
}

static int keep_only(uint64_t keep)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[2] = {
		{.effective = (uint32_t)keep, .permitted = (uint32_t)keep},
		{.effective = keep >> 32, .permitted = keep >> 32},
	};

	return (int)syscall(SYS_capset, &head, caps);
}

int walls_capabilities(void)
{
	return keep_only(1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE | 1ull << CAP_FOWNER | 1ull << CAP_FSETID |
			 1ull << CAP_MKNOD | 1ull << CAP_SETFCAP | 1ull << CAP_SYS_ADMIN); /* trusted.overlay.* */
}

int walls_reading(void)
{
	return keep_only(1ull << CAP_DAC_READ_SEARCH);
}
