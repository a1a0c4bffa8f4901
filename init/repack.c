/*
 * repack: the archive that a layer was unpacked from, byte by byte.
 *
 *	cove-init repack DIR
 *
 * The recipe that unpack noted is on stdin, the layer's files are below DIR, the archive goes to stdout. The files have
 * names that a stranger chose: before the first one is looked up DIR is all there is, and nothing can be changed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cove.h"
#include "recipe.h"
#include "walls.h"

#define BUFFER (256u << 10)
#define SMALL  (32u << 10) /* files that are read into the buffer; larger ones go by sendfile(2) */

static const int allowed[] = {
	SYS_read,	SYS_pread64,  SYS_write,	  SYS_writev,	  SYS_close, SYS_openat2, SYS_fstat,
	SYS_newfstatat, SYS_statx,    SYS_lseek,	  SYS_brk,	  SYS_mmap,  SYS_munmap,  SYS_mprotect,
	SYS_madvise,	SYS_sendfile, SYS_rt_sigprocmask, SYS_exit_group,
};

static unsigned char in[64u << 10], out[BUFFER];
static size_t pos, end, full;

static int say(const char *what, int err)
{
	char text[PATH_MAX + 100];
	int n = snprintf(text, sizeof(text), "repack: %s: %s\n", what, strerror(err));

	write_all(2, text, (size_t)n);
	return err == EPIPE ? 4 : 3;
}

static int shut_in(const char *dir)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	syscall(SYS_close_range, 3, ~0u, 0);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount(dir, dir, NULL, MS_BIND, NULL) ||
	    mount(NULL, dir, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NODEV | MS_NOSUID | MS_NOEXEC, NULL) ||
	    chdir(dir) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		return -1;
	return walls_reading() || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
			       walls_calls(allowed, sizeof(allowed) / sizeof(allowed[0]))
		       ? -1
		       : 0;
}

/* n bytes of the recipe; 0 at its end, which is one only where `first`. */
static int take(void *data, size_t n, bool first)
{
	size_t done = 0;

	while (done < n) {
		size_t part = end - pos < n - done ? end - pos : n - done;

		memcpy((char *)data + done, in + pos, part);
		pos += part;
		done += part;
		if (pos == end && done < n) {
			ssize_t got = read(0, in, sizeof(in));

			if (got <= 0)
				return got < 0 ? -errno : first && !done ? 0 : -EINVAL;
			pos = 0;
			end = (size_t)got;
		}
	}
	return 1;
}

static int flush(void)
{
	int err = write_all(1, out, full);

	full = 0;
	return err;
}

static int open_file(const char *name)
{
	struct open_how how = {.flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
			       .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};
	struct stat st;
	int fd = (int)syscall(SYS_openat2, AT_FDCWD, name, &how, sizeof(how));

	if (fd < 0 || fstat(fd, &st))
		return -errno;
	return S_ISREG(st.st_mode) ? fd : -EINVAL;
}

static int send_file(const char *name, uint64_t at, uint64_t n)
{
	int fd = open_file(name), err = fd < 0 ? fd : 0;
	off_t offset = (off_t)at;

	if (!err && (n > SMALL || n > BUFFER - full))
		err = flush();
	while (!err && n) {
		ssize_t got = n <= SMALL ? pread(fd, out + full, n, offset)
					 : sendfile(1, fd, &offset, n < 1u << 30 ? n : 1u << 30);

		if (got <= 0) {
			err = got < 0 ? -errno : -ENODATA; /* shorter than it was */
		} else {
			n -= (uint64_t)got;
			if (n + (uint64_t)got <= SMALL) {
				full += (size_t)got;
				offset += got;
			}
		}
	}
	if (fd >= 0)
		close(fd);
	return err;
}

static int do_file(char *name, uint32_t len)
{
	struct recipe_span span;
	int err = len < PATH_MAX ? take(&span, sizeof(span), false) : -EINVAL;

	err = err > 0 ? take(name, len, false) : err;
	name[err > 0 ? len : 0] = 0;
	if (err > 0 && (span.at > INT64_MAX || span.size > INT64_MAX - span.at))
		err = -EINVAL;
	return err > 0 ? send_file(name, span.at, span.size) : err;
}

static int do_bytes(uint32_t kind, size_t n)
{
	int err = 0;

	while (!err && n) {
		size_t part = n < BUFFER - full ? n : BUFFER - full;

		if (kind == RECIPE_ZEROS)
			memset(out + full, 0, part);
		else
			err = take(out + full, part, false) > 0 ? 0 : -EINVAL;
		full += part;
		n -= part;
		if (!err && full == BUFFER)
			err = flush();
	}
	return err;
}

int repack_main(int argc, char **argv)
{
	static char name[PATH_MAX];
	uint32_t head;
	int err;

	if (argc != 3)
		return say("usage: cove-init repack DIR", EINVAL);
	if (shut_in(argv[2]))
		return say(argv[2], errno);
	while ((err = take(&head, sizeof(head), true)) > 0) {
		*name = 0;
		err = RECIPE_KIND(head) == RECIPE_FILE ? do_file(name, RECIPE_N(head))
						       : do_bytes(RECIPE_KIND(head), RECIPE_N(head));
		if (err)
			return say(*name ? name : "recipe", -err);
	}
	err = err ? err : flush();
	return err ? say("recipe", -err) : 0;
}
