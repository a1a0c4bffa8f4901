/* The roles of the one program, chosen by argv[0] and argv[1]. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ops.h"

/* clang-format off */
#define VERSION "1"
/* clang-format on */

/* A build of some rooms only: the others say so. */
#define MISSING(role)                                                                                                  \
	__attribute__((weak)) int role(int argc, char **argv)                                                          \
	{                                                                                                              \
		(void)argc, (void)argv;                                                                                \
		fputs("cove: " #role ": not built\n", stderr);                                                         \
		return 125;                                                                                            \
	}
MISSING(front_main)
MISSING(forker_main)
MISSING(unpack_main)
MISSING(repack_main)
MISSING(tsc_main)
MISSING(archive_main)
MISSING(copy_main)
__attribute__((weak)) int agent_main(void)
{
	return 125;
}
__attribute__((weak)) int relay_main(int ctl)
{
	(void)ctl;
	return 125;
}

static int usage(void)
{
	fputs("usage: cove-init forker ARGV... | unpack ... | repack ... | archive ... | copy ... | run-plan HOST "
	      "MACHINE "
	      "[NAME=FD...] |\n"
	      "       decode [HOST MACHINE]... | tsc | version\n",
	      stderr);
	return 125;
}

/* One whole file; the tail that does not fit is kept as one byte too many, which the decoder refuses. */
static char *slurp(const char *path, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *data = malloc(PLAN_MAX + 1);
	ssize_t n = 1;

	*len = 0;
	if (fd < 0 || !data) {
		fprintf(stderr, "cove-init: cannot read %s: %s\n", path, strerror(errno));
		exit(125);
	}
	while (*len <= PLAN_MAX && (n = read(fd, data + *len, PLAN_MAX + 1 - *len)) > 0)
		*len += (size_t)n;
	close(fd);
	return data;
}

static void print_report(const struct run *run)
{
	const struct report *report = &run->report;
	const struct part *part = &run->part[report->side & MACHINE];
	bool here = report->side <= MACHINE && part->ops && report->op < part->count;

	fprintf(stderr, "%s%s %u %s %d %s\n", report->side > MACHINE ? "guest " : "",
		(report->side & MACHINE) == HOST ? "host" : "machine", report->op,
		here ? OPS[part->ops[report->op].code].name : "-", report->err, report->detail);
}

static int decode_file(struct run *run, const char *host_path, const char *machine_path)
{
	size_t host_len, machine_len;
	char *host = slurp(host_path, &host_len), *machine = slurp(machine_path, &machine_len);
	int err = plan_decode(run, host, host_len, machine, machine_len);

	free(host);
	free(machine);
	return err;
}

/* Pairs of files: each is decoded, with the registers a daemon may give; one line each. For the fuzzer. */
static int decode_main(int argc, char **argv)
{
	static const char *const GIVEN[] = {"target", "cgroup", "bind0", "view0", "stdin", "stdout", "stderr"};
	static struct run run;
	int bad = 0;

	for (int i = 0; i + 1 < argc; i += 2) {
		plan_init(&run);
		for (size_t k = 0; k < sizeof(GIVEN) / sizeof(GIVEN[0]); k++)
			reg_set(&run.regs, GIVEN[k], -1);
		if (decode_file(&run, argv[i], argv[i + 1])) {
			print_report(&run);
			bad = 1;
		} else {
			fputs("ok\n", stderr);
		}
		plan_free(&run);
	}
	return bad;
}

/* The test verb's terminal: what the machine writes, until it hangs up. */
static void copy_pty(int pty)
{
	char buf[4096];
	ssize_t n;

	while ((n = read(pty, buf, sizeof(buf))) > 0)
		if (write_all(1, buf, (size_t)n))
			break;
}

/* A plan alone, without a monitor: to copy files in and out, and for tests of the ops. */
static int run_main(int argc, char **argv)
{
	static struct run run;
	int err, status;

	if (argc < 2)
		return usage();
	plan_init(&run);
	reg_set(&run.regs, "stdin", fcntl(0, F_DUPFD_CLOEXEC, 3));
	reg_set(&run.regs, "stdout", fcntl(1, F_DUPFD_CLOEXEC, 3));
	reg_set(&run.regs, "stderr", fcntl(2, F_DUPFD_CLOEXEC, 3));
	for (int i = 2; i < argc; i++) {
		char *fd = strchr(argv[i], '=');
		if (!fd)
			return usage();
		*fd++ = 0;
		if (reg_set(&run.regs, argv[i], atoi(fd)))
			return usage();
	}
	if (!(err = decode_file(&run, argv[0], argv[1])) && !(err = plan_run(&run)) && run.child)
		do
			err = plan_wait_exec(&run);
		while (err == -EAGAIN);
	if (err) {
		print_report(&run);
		return 125;
	}
	if (!run.child)
		return 0;
	if (run.pty >= 0)
		copy_pty(run.pty);
	while (waitpid(run.child, &status, 0) < 0 && errno == EINTR)
		;
	plan_free(&run);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

char *start_words;
size_t start_words_len;

int main(int argc, char **argv)
{
	const char *slash = argc ? strrchr(argv[0], '/') : NULL, *name = slash ? slash + 1 : argc ? argv[0] : "";

	if (!strcmp(name, "cove") || !strcmp(name, "docker")) /* a link of that name */
		return front_main(argc, argv);
	if (getpid() == 1 && !strcmp(name, "init"))
		return agent_main();
	if (argc < 2)
		return usage();
	start_words = argv[0];
	start_words_len = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]);
	if (!strcmp(argv[1], "forker"))
		return forker_main(argc, argv);
	if (!strcmp(argv[1], "unpack"))
		return unpack_main(argc, argv);
	if (!strcmp(argv[1], "repack"))
		return repack_main(argc, argv);
	if (!strcmp(argv[1], "archive"))
		return archive_main(argc, argv);
	if (!strcmp(argv[1], "copy"))
		return copy_main(argc, argv);
	if (!strcmp(argv[1], "run-plan"))
		return run_main(argc - 2, argv + 2);
	if (!strcmp(argv[1], "decode"))
		return decode_main(argc - 2, argv + 2);
	if (!strcmp(argv[1], "tsc"))
		return tsc_main(argc, argv);
	if (!strcmp(argv[1], "version")) {
		puts(VERSION);
		return 0;
	}
	return usage();
}
