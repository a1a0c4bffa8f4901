/* How an archive is made again of the files that were unpacked from it: records, one after another. Each begins with
 * four bytes: its kind, and a number of 30 bits. */
#pragma once

#include <stdint.h>

#define RECIPE_RAW   0u /* so many bytes follow */
#define RECIPE_ZEROS 1u /* so many zeros */
#define RECIPE_FILE  2u /* a span and a name of so many bytes follow: what the file holds there */

#define RECIPE_HEAD(kind, n) ((kind) << 30 | (uint32_t)(n))
#define RECIPE_KIND(head)    ((head) >> 30)
#define RECIPE_N(head)	     ((head)&0x3fffffff)

struct recipe_span {
	uint64_t at, size;
};
