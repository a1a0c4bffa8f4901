/* The rate of the host's time stamp counter, which an emulated guest reads too and must be told. */
#include <inttypes.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "ops.h"

#ifdef __x86_64__
#define TRIES	50
#define SPAN_MS 40

struct moment {
	uint64_t tick, ns;
};

static uint64_t nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Both clocks at one moment: of many readings the one that nothing interrupted. */
static struct moment read_both(void)
{
	struct moment best = {0, 0};
	uint64_t narrowest = UINT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		uint64_t before = __builtin_ia32_rdtsc(), ns = nanoseconds(), after = __builtin_ia32_rdtsc();

		if (after - before < narrowest) {
			narrowest = after - before;
			best = (struct moment){before + narrowest / 2, ns};
		}
	}
	return best;
}

static uint64_t kilohertz(void)
{
	struct moment first = read_both();

	poll(NULL, 0, SPAN_MS);

	struct moment last = read_both();

	return (last.tick - first.tick) * 1000000 / (last.ns - first.ns);
}
#else
static uint64_t kilohertz(void)
{
	return 0;
}
#endif

int tsc_main(int argc, char **argv)
{
	(void)argc, (void)argv;
	printf("%" PRIu64 "\n", kilohertz());
	return 0;
}
