/* What unpacker, archiver and copier close before they read a tree or an archive of somebody else's. */
#pragma once

#include <stddef.h>

#define CALLS_MAX 64

/* Any other system call ends the process: a mistake in a parser is no way to the rest of the kernel. 0, or -1 and
 * errno.
 */
int walls_calls(const int *allowed, size_t count);

/* Those that make files of any owner, mode and kind, and no others. 0, or -1 and errno. */
int walls_capabilities(void);

/* The one that reads files whoever may. 0, or -1 and errno. */
int walls_reading(void);
