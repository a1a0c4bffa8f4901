// SPDX-License-Identifier: Apache-2.0
// PID 1 of a test guest, until the agent stands in its place: loads the modules in order, mounts
// the disk called "root", says so over the port cove.agent, and ends QEMU when it hears a line.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <sys/io.h>
#endif

static char answer[4096];
static size_t length;

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	int n = vsnprintf(answer + length, sizeof(answer) - length, format, args);
	va_end(args);
	if (n > 0 && length + (size_t)n < sizeof(answer))
		length += (size_t)n;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int text(const char *path, char *out, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);

	out[n < 0 ? 0 : n] = 0;
	out[strcspn(out, "\n")] = 0;
	if (fd >= 0)
		close(fd);
	return n < 0 ? -1 : 0;
}

static void load(const char *name)
{
	char path[300];

	snprintf(path, sizeof(path), "/modules/%s", name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		say("module %s: %s\n", name, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void load_all(void)
{
	FILE *file = fopen("/modules/order", "re");
	char line[200];

	while (file && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = 0;
		load(line);
	}
	if (file)
		fclose(file);
}

// The device below `class` whose `attribute` has `value`: its path in /dev.
static int find(const char *class, const char *attribute, const char *value, char *out, size_t size)
{
	DIR *dir = opendir(class);
	struct dirent *entry;
	char path[600], have[100];
	int found = -1;

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s/%s", class, entry->d_name, attribute);
		if (entry->d_name[0] != '.' && !text(path, have, sizeof(have)) && !strcmp(have, value)) {
			snprintf(out, size, "/dev/%s", entry->d_name);
			found = 0;
		}
	}
	if (dir)
		closedir(dir);
	return found;
}

static void off(void)
{
#ifdef __x86_64__
	if (!ioperm(0x501, 1, 1))
		outb(0, 0x501);
#endif
	reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);
}

static void describe(void)
{
	struct utsname name;
	char line[200];

	uname(&name);
	say("kernel %s\n", name.release);
	say("cpus %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
	text("/proc/sys/kernel/random/entropy_avail", line, sizeof(line));
	say("entropy %s\n", line);
	text("/sys/devices/system/clocksource/clocksource0/current_clocksource", line, sizeof(line));
	say("clock %s\n", line);
	text("/proc/filesystems", line, sizeof(line));
	FILE *file = fopen("/proc/filesystems", "re");

	say("filesystems");
	while (file && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = 0;
		say(" %s", line + strcspn(line, "\t") + 1);
	}
	if (file)
		fclose(file);
	say("\n");
}

int main(void)
{
	char disk[300], port[300], line[200];

	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	double start = now();

	load_all();
	double loaded = now();

	if (find("/sys/block", "serial", "root", disk, sizeof(disk)))
		say("disk root: none\n");
	else if (mount(disk, "/root", "erofs", MS_RDONLY, NULL))
		say("mount %s: %s\n", disk, strerror(errno));
	if (!text("/root/hello", line, sizeof(line)))
		say("hello %s\n", line);
	double mounted = now();

	describe();
	while (find("/sys/class/virtio-ports", "name", "cove.agent", port, sizeof(port)))
		poll(NULL, 0, 1);
	int fd = open(port, O_RDWR | O_CLOEXEC);

	say("times %.3f %.3f %.3f\nready\n", start, loaded, mounted);
	if (fd < 0 || write(fd, answer, length) < 0)
		off();
	while (read(fd, line, sizeof(line)) <= 0)
		poll(NULL, 0, 1);
	if (line[0] == 'p')
		_exit(0); // a kernel without its PID 1 panics
	off();
	return 0;
}
