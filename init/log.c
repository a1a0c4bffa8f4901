/*
 * The log of a machine: records in `log`; when that is full it becomes `log.1`, that `log.2` and so on, the oldest
 * goes, and a new one begins, with a line's beginning. A full disk loses lines, never the machine: what is lost is
 * counted, and said in the log once there is room. Each record has its length also at its end, so that the last lines
 * are found from there.
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

#define FILE_MIN   4096
#define FILES_MOST 1000
#define LINE_MOST  16384 /* for the rest of a line; Docker cuts longer ones, too */
#define FRAMES	   192	 /* around a record, and a note of what was lost before it */
#define NOTE	   "bytes of output are missing here: the disk was full"

void log_open(struct log *log, int dir)
{
	struct stat st;

	log->dir = dir;
	log->files = 1;
	log->most = UINT64_MAX;
	log->fd = openat(dir, "log", O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	log->size = log->fd < 0 || fstat(log->fd, &st) ? 0 : (uint64_t)st.st_size;
}

/* One file would have to be emptied when it is full: it is kept as two halves instead. */
void log_cap(struct log *log, uint64_t max, uint32_t files)
{
	log->files = files > FILES_MOST ? FILES_MOST : files;
	if (files == 1 && max) {
		log->files = 2;
		max /= 2;
	}
	log->most = !max ? UINT64_MAX : max < FILE_MIN ? FILE_MIN : max;
}

static const char *log_name(char name[16], unsigned number)
{
	snprintf(name, 16, number ? "log.%u" : "log", number);
	return name;
}

/* On error the old file goes on: better over the cap by a little than no log. */
static void log_rotate(struct log *log)
{
	char from[16], to[16];

	for (unsigned i = log->files - 1; i; i--)
		if (renameat(log->dir, log_name(from, i - 1), log->dir, log_name(to, i)) && i == 1)
			return;
	int fd = openat(log->dir, "log", O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	close(log->fd);
	log->fd = fd;
	log->size = 0;
}

/* One record, whole or not at all: half of one would make the rest of the file unreadable. What was lost is told before
   it, and only with it, or a full disk would fill up with notes. */
static bool log_record(struct log *log, uint8_t stream, const void *data, size_t len)
{
	struct log_record head = {.time_ns = clock_ns(CLOCK_REALTIME),
				  .len = (uint32_t)len,
				  .stream = stream,
				  .end = sizeof(head.len)},
			  told = head;
	char note[96];
	int noted = log->lost ? snprintf(note, sizeof(note), "%llu " NOTE "\n", (unsigned long long)log->lost) : 0;
	struct iovec iov[6] = {{&told, sizeof(told)}, {note, (size_t)noted}, {&told.len, sizeof(told.len)},
			       {&head, sizeof(head)}, {(void *)data, len},   {&head.len, sizeof(head.len)}};
	size_t frame = sizeof(head) + sizeof(head.len), size = frame + len + (noted ? frame + (size_t)noted : 0);
	ssize_t n;

	told.len = (uint32_t)noted;
	told.stream = 0;
	do
		n = noted ? writev(log->fd, iov, 6) : writev(log->fd, iov + 3, 3);
	while (n < 0 && errno == EINTR);
	if (n > 0 && (size_t)n < size && !ftruncate(log->fd, (off_t)log->size))
		n = 0;
	log->size += n > 0 ? (size_t)n : 0;
	return n == (ssize_t)size;
}

/* How much of it this file takes: whole lines, and of one that has no end yet what leaves room for the rest. */
static size_t log_takes(const struct log *log, const char *data, size_t len)
{
	const uint64_t rest = log->most / 4 < LINE_MOST ? log->most / 4 : LINE_MOST, used = log->size + FRAMES;
	const size_t room = used >= log->most ? 0 : log->most - used < len ? (size_t)(log->most - used) : len;
	const char *end = memrchr(data, '\n', room);

	if (room == len && (used + len + rest <= log->most || (log->open && !end)))
		return len;
	return end ? (size_t)(end + 1 - data) : 0;
}

void log_write(struct log *log, uint8_t stream, const void *data, size_t len)
{
	const size_t most = log->most < CHUNK_MAX ? (size_t)log->most - FRAMES : CHUNK_MAX;
	const char *p = data;

	while (log->fd >= 0 && log->files && len) {
		size_t n = log_takes(log, p, len);
		if (!n && log->size) {
			log_rotate(log);
			n = log_takes(log, p, len);
		}
		n = n ? n : len < most ? len : most;
		log->lost = log_record(log, stream, p, n) ? 0 : log->lost + n;
		log->open = (uint8_t)((log->open & ~(1 << stream)) | (p[n - 1] != '\n') << stream);
		p += n;
		len -= n;
	}
}
