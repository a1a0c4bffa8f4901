/* Ops of a guest: what belongs to its whole system. Only the agent, PID 1 of a virtual machine, may be asked for them.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/random.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"
#include "ops.h"

#define APPEAR_MS 5000 /* a disk that is there at all is there by then */
#define SEED	  64

ssize_t read_file(const char *path, char *data, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, data, size - 1);

	if (fd >= 0)
		close(fd);
	data[n < 0 ? 0 : n] = 0;
	return n;
}

/* The name of the next entry that a file beside it makes the one meant; false: there is none. */
static bool next_with(DIR *dir, const char *base, const char *file, const char *want, char name[64])
{
	char path[300], word[64];
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		if (*entry->d_name == '.' || strlen(entry->d_name) > 63)
			continue;
		snprintf(path, sizeof(path), "%s/%.63s/%s", base, entry->d_name, file);
		read_file(path, word, sizeof(word));
		word[strcspn(word, "\n")] = 0;
		if (strcmp(word, want))
			continue;
		snprintf(name, 64, "%.63s", entry->d_name);
		return true;
	}
	return false;
}

int op_disk(struct run *run, const struct op *op)
{
	char name[64], device[80];
	bool found = false;

	for (int ms = 0; !found && ms < APPEAR_MS; ms++) {
		DIR *dir = opendir("/sys/block");
		found = next_with(dir, "/sys/block", "serial", op->argv[0], name);
		if (dir)
			closedir(dir);
		if (!found)
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	if (!found)
		return fault(run, -ENODEV, op->argv[0]);
	snprintf(device, sizeof(device), "/dev/%s", name);
	unlink(op->argv[1]);
	return done(run, symlink(device, op->argv[1]), op->argv[1]);
}

/* A file system leaves sysfs before its last block is written and its pages are dropped: another file that is put
 * behind the disk by then would be written to, and read from those pages. */
int op_unused(struct run *run, const struct op *op)
{
	for (int ms = 0;; ms++) {
		int fd = open(op->argv[0], O_RDONLY | O_EXCL | O_CLOEXEC);
		if (fd >= 0)
			return close(fd);
		if (errno != EBUSY || ms == APPEAR_MS)
			return fault(run, -errno, op->argv[0]);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
}

int op_write(struct run *run, const struct op *op)
{
	int fd = open(op->argv[0], O_WRONLY | O_CLOEXEC);
	int err = fd < 0 || write(fd, op->argv[1], strlen(op->argv[1])) < 0 ? -errno : 0;

	close(fd);
	return err ? fault(run, err, op->argv[0]) : 0;
}

int op_file(struct run *run, const struct op *op)
{
	struct open_how how = {.flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
			       .mode = 0600,
			       .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
	int root = word_fd(run, op->argv[0]);
	int fd = (int)syscall(SYS_openat2, root, op->argv[1], &how, sizeof(how)), err;

	if (fd < 0)
		return fault(run, -errno, op->argv[1]);
	err = write_all(fd, op->argv[3], strlen(op->argv[3]));
	if (!err &&
	    (fchown(fd, (uid_t)word_u(op->argv[4]), (gid_t)word_u(op->argv[5])) || fchmod(fd, word_o(op->argv[2]))))
		err = -errno;
	close(fd);
	return err ? fault(run, err, op->argv[1]) : 0;
}

int op_settime(struct run *run, const struct op *op)
{
	struct timespec now = {.tv_sec = (time_t)word_u(op->argv[0]), .tv_nsec = (long)word_u(op->argv[1])};

	return done(run, clock_settime(CLOCK_REALTIME, &now), op->argv[0]);
}

/* What a clone would share with its template is mixed with bytes of its own before anything asks for a number. */
int op_reseed(struct run *run, const struct op *op)
{
	struct {
		int entropy_count, buf_size;
		unsigned char buf[SEED];
	} pool = {.entropy_count = SEED * 8, .buf_size = SEED};
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC), err = fd < 0 ? -errno : 0;

	for (int i = 0; i < SEED; i++) {
		char digits[3] = {op->argv[0][2 * i], op->argv[0][2 * i + 1], 0};
		pool.buf[i] = (unsigned char)word_x(digits);
	}
	if (!err && (ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG, 0)))
		err = -errno;
	if (fd >= 0)
		close(fd);
	return done(run, err ? (errno = -err, -1) : 0, "/dev/urandom");
}
