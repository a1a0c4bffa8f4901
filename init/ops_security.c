/* Ops that take privileges away. */
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ops.h"

static int set_fsids(uint32_t uid, uint32_t gid)
{
	/* These two tell nothing: asking for an id that cannot be answers with the present one. */
	setfsgid(gid);
	setfsuid(uid);
	return (uint32_t)setfsgid((gid_t)-1) == gid && (uint32_t)setfsuid((uid_t)-1) == uid ? 0 : -EPERM;
}

void fsuid_reset(void)
{
	int bits = prctl(PR_GET_SECUREBITS);

	set_fsids((uint32_t)geteuid(), (uint32_t)getegid());
	if (bits > 0 && (bits & SECBIT_NO_SETUID_FIXUP))
		prctl(PR_SET_SECUREBITS, bits & ~SECBIT_NO_SETUID_FIXUP);
}

/* Without the securebit, an fsuid other than 0 loses the capabilities of file systems, which overlay is to keep. */
int op_setfsuid(struct run *run, const struct op *op)
{
	uint32_t uid = (uint32_t)word_u(op->argv[0]), gid = (uint32_t)word_u(op->argv[1]);
	int bits = prctl(PR_GET_SECUREBITS), err;

	if (bits < 0)
		return -errno;
	if (uid && prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP))
		return -errno;
	if ((err = set_fsids(uid, gid)))
		return fault(run, err, op->argv[0]);
	if (!uid && prctl(PR_SET_SECUREBITS, bits & ~SECBIT_NO_SETUID_FIXUP))
		return -errno;
	return 0;
}

int op_capbset(struct run *run, const struct op *op)
{
	uint64_t keep = word_x(op->argv[0]);

	(void)run;
	for (unsigned cap = 0; cap < 64; cap++) {
		if (keep >> cap & 1)
			continue;
		if (prctl(PR_CAPBSET_DROP, (unsigned long)cap, 0UL, 0UL, 0UL)) {
			if (errno == EINVAL) /* above the last this kernel has */
				return 0;
			return -errno;
		}
	}
	return 0;
}

int op_capset(struct run *run, const struct op *op)
{
	uint64_t mask = geteuid() ? 0 : word_x(op->argv[0]);
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct now[2], want[2] = {0};

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0UL, 0UL, 0UL))
		return -errno;
	if (syscall(SYS_capget, &head, now))
		return -errno;
	for (int i = 0; i < 2; i++) /* what this kernel does not know, or we lack, nobody can give */
		want[i].effective = want[i].permitted = (uint32_t)(mask >> 32 * i) & now[i].permitted;
	return done(run, syscall(SYS_capset, &head, want), op->argv[0]);
}

static unsigned nibble(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10);
}

/* Otherwise this process goes on under the filter, with its descriptors. */
static int ends_in_execve(const struct run *run)
{
	const struct part *part = &run->part[MACHINE];

	return part->count && OPS[part->ops[part->count - 1].code].run == op_execve;
}

/* The bytes take the place of their digits; the word is ours, but need not be aligned for the kernel. How many they
 * are. */
static size_t bytes_of(char *hex)
{
	size_t len = strlen(hex) / 2;

	for (size_t i = 0; i < len; i++)
		hex[i] = (char)(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
	return len;
}

static int bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

int op_device_list(struct run *run, const struct op *op)
{
	int program, err;
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
		.insn_cnt = (uint32_t)(bytes_of(op->argv[1]) / sizeof(struct bpf_insn)),
		.insns = (uintptr_t)op->argv[1],
		.license = (uintptr_t) "Apache-2.0",
		.prog_name = "cove_devices",
	};
	if ((program = bpf(BPF_PROG_LOAD, &load)) < 0)
		return -errno;
	union bpf_attr attach = {
		.target_fd = (uint32_t)word_fd(run, op->argv[0]),
		.attach_bpf_fd = (uint32_t)program,
		.attach_type = BPF_CGROUP_DEVICE,
	};
	err = bpf(BPF_PROG_ATTACH, &attach) ? -errno : 0;
	close(program);
	return err;
}

/* A group has one where its slot was made for a machine of another kind. */
int op_any_device(struct run *run, const struct op *op)
{
	union bpf_attr attr = {
		.target_fd = (uint32_t)word_fd(run, op->argv[0]),
		.attach_type = BPF_CGROUP_DEVICE,
	};

	if (!bpf(BPF_PROG_DETACH, &attr) || errno == ENOENT)
		return 0;
	return errno == EINVAL || errno == ENOSYS ? 0 : -errno; /* this kernel has none at all */
}

int op_seccomp(struct run *run, const struct op *op)
{
	char *bytes = op->argv[1];
	size_t len = bytes_of(bytes);
	int err;

	struct sock_fprog prog = {.len = (unsigned short)(len / sizeof(struct sock_filter)),
				  .filter = (struct sock_filter *)(void *)bytes};
	/* The filter may refuse what making ready needs, unless the payload's own ids are still to be set. */
	if (prctl(PR_GET_NO_NEW_PRIVS, 0UL, 0UL, 0UL, 0UL) == 1 && ends_in_execve(run) && (err = exec_alone(run)))
		return err;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, (unsigned)word_u(op->argv[0]), &prog) < 0 ? -errno : 0;
}
