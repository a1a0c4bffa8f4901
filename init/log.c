/*
 * The log of a machine: records in `log`; when that holds half of the cap it becomes `log.1` and a new one begins. A full
 * disk loses lines, never the machine: what is lost is counted, and said in the log once there is room.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "monitor.h"

#define HALF_MIN 4096
#define NOTE "bytes of output are missing here: the disk was full"

int log_open(struct log *log, int dir, uint64_t max)
{
	struct stat st;

	log->dir = dir;
	log->half = !max ? UINT64_MAX : max / 2 < HALF_MIN ? HALF_MIN : max / 2;
	log->fd = openat(dir, "log", O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (log->fd < 0)
		return -errno;
	log->size = fstat(log->fd, &st) ? 0 : (uint64_t)st.st_size;
	return 0;
}

/* On error the old file goes on: better over the cap by a little than no log. */
static void log_rotate(struct log *log)
{
	if (renameat(log->dir, "log", log->dir, "log.1"))
		return;
	int fd = openat(log->dir, "log", O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	close(log->fd);
	log->fd = fd;
	log->size = 0;
}

static int log_record(struct log *log, uint8_t stream, const void *data, size_t len)
{
	struct log_record head = {.time_ns = clock_ns(CLOCK_REALTIME), .len = (uint32_t)len, .stream = stream};
	struct iovec iov[2] = {{&head, sizeof(head)}, {(void *)data, len}};
	ssize_t n;

	if (log->size && log->size + sizeof(head) + len > log->half)
		log_rotate(log);
	do
		n = writev(log->fd, iov, 2);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)(sizeof(head) + len)) {
		log->size += (size_t)n;
		return 0;
	}
	/* half a record would make the rest of the file unreadable */
	if (n > 0 && ftruncate(log->fd, (off_t)log->size))
		log->size += (size_t)n;
	return -ENOSPC;
}

void log_write(struct log *log, uint8_t stream, const void *data, size_t len)
{
	const char *p = data;

	if (log->fd < 0)
		return;
	if (log->lost) {
		char note[96];
		int n = snprintf(note, sizeof(note), "%llu " NOTE "\n", (unsigned long long)log->lost);
		if (log_record(log, 0, note, (size_t)n)) {
			log->lost += len;
			return;
		}
		log->lost = 0;
	}
	while (len) {
		size_t n = len < log->half - sizeof(struct log_record) ? len : (size_t)(log->half - sizeof(struct log_record));
		if (log_record(log, stream, p, n))
			log->lost += n;
		p += n;
		len -= n;
	}
}
