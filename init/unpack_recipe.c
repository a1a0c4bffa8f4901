/* The recipe of a layer: the bytes of its stream that are no file's, and where which file's come in between. Headers
 * are mostly zeros, which are counted. */
#include <errno.h>
#include <string.h>

#include "recipe.h"
#include "unpack.h"

#define ZEROS 8	   /* as many are worth a record of their own */
#define RAW   4096 /* about as many bytes are in one at most */

int note_end(struct unpack *u)
{
	int err = u->lost ? 0 : write_all(u->recipe, u->note, u->noted);

	u->noted = 0;
	if (err)
		errno = -err;
	return err ? fail_errno(u, "write") : 0;
}

static int note(struct unpack *u, uint32_t kind, size_t n, const void *data, size_t len)
{
	uint32_t head = RECIPE_HEAD(kind, n);

	if (u->noted + sizeof(head) + len > NOTE && note_end(u))
		return -EINVAL;
	memcpy(u->note + u->noted, &head, sizeof(head));
	memcpy(u->note + u->noted + sizeof(head), data, len);
	u->noted += sizeof(head) + len;
	return 0;
}

/* Of at most BUFFER bytes. */
int note_raw(struct unpack *u, const unsigned char *data, size_t n)
{
	size_t at = 0, begin = 0;

	while (begin < n && u->note && !u->lost) {
		size_t zeros = 0;

		while (at + zeros < n && !data[at + zeros])
			zeros++;
		if (zeros < ZEROS && at + zeros < n && at - begin < RAW) {
			at += zeros + 1;
			continue;
		}
		if (zeros < ZEROS) {
			at += zeros;
			zeros = 0;
		}
		if (at > begin && note(u, RECIPE_RAW, at - begin, data + begin, at - begin))
			return -EINVAL;
		if (zeros && note(u, RECIPE_ZEROS, zeros, "", 0))
			return -EINVAL;
		begin = at += zeros;
	}
	return 0;
}

int note_file(struct unpack *u, uint64_t at, uint64_t n)
{
	struct recipe_span span = {.at = at, .size = n};
	char text[sizeof(span) + PATH_MAX];
	size_t len = strlen(u->entry.name);

	if (!n || !u->note || u->lost)
		return 0;
	memcpy(text, &span, sizeof(span));
	memcpy(text + sizeof(span), u->entry.name, len);
	return note(u, RECIPE_FILE, len, text, sizeof(span) + len);
}

/* The files are there already: what the entry's are is noted, and the stream read on. */
int note_entry(struct unpack *u)
{
	const struct entry *e = &u->entry;
	const char *slash = strrchr(e->name, '/');
	bool file = e->type == '0' && strncmp(slash ? slash + 1 : e->name, ".wh.", 4);

	if (file && e->real < 0 && (note_file(u, 0, (uint64_t)e->size) || pass(u, UNSAID, (uint64_t)e->size)))
		return -EINVAL;
	for (size_t i = 0; file && e->real >= 0 && i < e->pieces; i++) {
		if (note_file(u, u->piece[i].at, u->piece[i].len) || pass(u, UNSAID, u->piece[i].len))
			return -EINVAL;
	}
	if (!file && pass(u, -1, (uint64_t)e->size))
		return -EINVAL;
	u->bytes += (uint64_t)e->size;
	u->entries++;
	return pass(u, -1, (uint64_t)(BLOCK - e->size % BLOCK) % BLOCK);
}
