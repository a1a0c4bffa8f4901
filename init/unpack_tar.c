/* The tar stream: ustar, GNU long names and sparse files, pax. Everything in it is hostile; nothing here touches a
 * file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "unpack.h"

int fail(struct unpack *u, enum verdict verdict, const char *reason)
{
	if (u->verdict == DONE) {
		u->verdict = verdict;
		snprintf(u->reason, sizeof(u->reason), "%s", reason);
	}
	return -EINVAL;
}

int fail_errno(struct unpack *u, const char *call)
{
	int err = errno;

	if (u->verdict == DONE) {
		u->verdict = err == ENOSPC || err == EDQUOT ? FULL : SYSTEM;
		snprintf(u->reason, sizeof(u->reason), "%s: %s", call, strerror(err));
	}
	return -err;
}

/* At least `want` bytes in the buffer, or all there is before the end. */
static int fill(struct unpack *u, size_t want)
{
	if (u->len - u->pos >= want || u->ended)
		return 0;
	memmove(u->buf, u->buf + u->pos, u->len - u->pos);
	u->base += u->pos;
	u->len -= u->pos;
	u->pos = 0;
	while (u->len < want && !u->ended) {
		ssize_t n = read(0, u->buf + u->len, BUFFER - u->len);

		if (n < 0 && errno != EINTR)
			return fail_errno(u, "read");
		if (n == 0)
			u->ended = true;
		if (n > 0)
			u->len += (size_t)n;
	}
	return 0;
}

/* The next block, or NULL: with *err = 0 at the end of the stream. */
static const unsigned char *next_block(struct unpack *u, int *err)
{
	*err = fill(u, BLOCK);
	if (*err)
		return NULL;
	if (u->len - u->pos < BLOCK) {
		if (u->len != u->pos)
			*err = u->base + u->pos ? fail(u, TRUNCATED, "the archive ends in the middle of a header")
						: fail(u, DAMAGED, "it is not a tar archive");
		return NULL;
	}
	*err = note_raw(u, u->buf + u->pos, BLOCK);
	if (*err)
		return NULL;
	u->pos += BLOCK;
	return u->buf + u->pos - BLOCK;
}

int pass(struct unpack *u, int fd, uint64_t n)
{
	while (n) {
		size_t part;
		int err = u->pos == u->len ? fill(u, 1) : 0;

		if (err)
			return err;
		if (u->pos == u->len)
			return fail(u, TRUNCATED, "the archive ends in the middle of it");
		part = u->len - u->pos < n ? u->len - u->pos : (size_t)n;
		if (fd >= 0 && (err = write_all(fd, u->buf + u->pos, part)) < 0) {
			errno = -err;
			return fail_errno(u, "write");
		}
		if (fd == -1 && note_raw(u, u->buf + u->pos, part))
			return -EINVAL;
		u->pos += part;
		n -= part;
	}
	return 0;
}

int drain(struct unpack *u)
{
	uint64_t end = u->base + u->pos;
	int err = 0;

	while (!err) {
		err = note_raw(u, u->buf + u->pos, u->len - u->pos);
		u->pos = u->len;
		if (err || u->ended)
			break;
		err = fill(u, 1);
		if (u->base + u->len - end > TRAILING_MAX)
			return fail(u, LIMIT, "more than 64 MiB follow the end of the archive");
	}
	return err;
}

/* ---- fields ---- */

static int number(const unsigned char *field, size_t len, int64_t *out)
{
	uint64_t value = 0;
	size_t i = 0;

	if (field[0] & 0x80) { /* base 256, two's complement */
		unsigned char flip = field[0] & 0x40 ? 0xff : 0;

		for (; i < len; i++) {
			unsigned char c = field[i] ^ flip;

			if (value >> 55)
				return -ERANGE;
			value = value << 8 | (i ? c : c & 0x7f);
		}
		*out = flip ? (int64_t)~value : (int64_t)value;
		return 0;
	}
	while (i < len && field[i] == ' ')
		i++;
	for (; i < len && field[i] >= '0' && field[i] <= '7'; i++)
		value = value << 3 | (unsigned)(field[i] - '0'); /* 12 digits at most */
	if (i < len && field[i] != ' ' && field[i] != 0)
		return -EINVAL;
	*out = (int64_t)value;
	return 0;
}

static bool checksum_holds(const unsigned char *h)
{
	int64_t want;
	int sum = 8 * ' ', old = 8 * ' '; /* old writers summed signed bytes */

	for (size_t i = 0; i < BLOCK; i++) {
		if (i >= 148 && i < 156)
			continue;
		sum += h[i];
		old += (signed char)h[i];
	}
	return !number(h + 148, 8, &want) && (want == sum || want == old);
}

static int copy_word(struct unpack *u, char *out, struct word text)
{
	if (text.n >= PATH_MAX)
		return fail(u, REFUSED, "a name of more than 4095 bytes");
	if (memchr(text.s, 0, text.n))
		return fail(u, REFUSED, "a name with a NUL in it");
	memcpy(out, text.s, text.n);
	out[text.n] = 0;
	return 0;
}

int clean(struct unpack *u, char *out, const char *in, bool *slash)
{
	char *begin = out;

	*slash = false;
	while (*in) {
		size_t n = strcspn(in, "/");

		if (n == 2 && in[0] == '.' && in[1] == '.')
			return fail(u, REFUSED, "a name with \"..\" in it");
		if (n > NAME_MAX)
			return fail(u, REFUSED, "a name with a part of more than 255 bytes");
		if (n && !(n == 1 && *in == '.')) {
			if (out != begin)
				*out++ = '/';
			memmove(out, in, n); /* out and in may be one buffer */
			out += n;
		}
		in += n;
		*slash = *in == '/';
		in += *slash;
	}
	*out = 0;
	return 0;
}

static bool is(struct word w, const char *text)
{
	return w.n == strlen(text) && !memcmp(w.s, text, w.n);
}

static bool begins(struct word *w, const char *text)
{
	size_t n = strlen(text);

	if (w->n <= n || memcmp(w->s, text, n))
		return false;
	w->s += n;
	w->n -= n;
	return true;
}

static int decimal(struct unpack *u, struct word w, int64_t *out)
{
	int64_t value = 0;

	for (size_t i = 0; i < w.n; i++) {
		if (w.s[i] < '0' || w.s[i] > '9' || value > INT64_MAX / 10 - 1)
			return fail(u, DAMAGED, "its extended header is damaged");
		value = value * 10 + (w.s[i] - '0');
	}
	*out = value;
	return w.n ? 0 : fail(u, DAMAGED, "its extended header is damaged");
}

/* Seconds with a fraction, perhaps negative; a wrong time harms nobody. */
static struct timespec seconds(struct word w)
{
	bool negative = w.n && w.s[0] == '-';
	int64_t whole = 0;
	long nano = 0, scale = 100000000;
	size_t i = negative;

	for (; i < w.n && w.s[i] >= '0' && w.s[i] <= '9' && whole < INT64_MAX / 100; i++)
		whole = whole * 10 + (w.s[i] - '0');
	if (i < w.n && w.s[i] == '.')
		for (i++; i < w.n && w.s[i] >= '0' && w.s[i] <= '9'; i++, scale /= 10)
			nano += (w.s[i] - '0') * scale;
	if (negative && nano) {
		whole++;
		nano = 1000000000 - nano;
	}
	return (struct timespec){.tv_sec = negative ? -whole : whole, .tv_nsec = nano};
}

/* ---- sparse files ---- */

static int add_piece(struct unpack *u, int64_t at, int64_t len)
{
	uint64_t end = 0;

	if (u->entry.pieces == PIECES)
		return fail(u, REFUSED, "a sparse file of more than 65536 pieces");
	if (u->entry.pieces)
		end = u->piece[u->entry.pieces - 1].at + u->piece[u->entry.pieces - 1].len;
	if (at < 0 || len < 0 || (uint64_t)at < end || len > INT64_MAX - at)
		return fail(u, DAMAGED, "its sparse map is damaged");
	u->piece[u->entry.pieces++] = (struct piece){(uint64_t)at, (uint64_t)len};
	return 0;
}

/* The old GNU form: four pieces in the header, 21 in each block that follows while its flag says so. */
static int old_sparse(struct unpack *u, const unsigned char *h)
{
	size_t at = 386, count = 4, more = 482;
	int err = number(h + 483, 12, &u->entry.real);

	for (;;) {
		for (size_t i = 0; !err && i < count && h[at + 24 * i]; i++) {
			int64_t offset = 0, len = 0;

			err = number(h + at + 24 * i, 12, &offset);
			err = err ? err : number(h + at + 24 * i + 12, 12, &len);
			err = err ? err : add_piece(u, offset, len);
		}
		if (err)
			return fail(u, DAMAGED, "its sparse map is damaged");
		if (!h[more])
			return 0;
		h = next_block(u, &err);
		if (!h)
			return err ? err : fail(u, TRUNCATED, "the archive ends in the middle of it");
		at = 0, count = 21, more = 504;
	}
}

/* One decimal line of the map that pax 1.0 puts before the data. */
static int map_line(struct unpack *u, const unsigned char **block, size_t *at, int64_t *out)
{
	int err, digits = 0;

	for (*out = 0;; ++*at) {
		if (*at == BLOCK) {
			*block = u->entry.size >= BLOCK ? next_block(u, &err) : NULL;
			if (!*block)
				return fail(u, TRUNCATED, "the archive ends in its sparse map");
			u->entry.size -= BLOCK;
			*at = 0;
		}
		if ((*block)[*at] == '\n' && digits) {
			++*at;
			return 0;
		}
		if ((*block)[*at] < '0' || (*block)[*at] > '9' || digits++ == 18)
			return fail(u, DAMAGED, "its sparse map is damaged");
		*out = *out * 10 + ((*block)[*at] - '0');
	}
}

static int read_map(struct unpack *u)
{
	const unsigned char *block = NULL;
	size_t at = BLOCK;
	int64_t count, offset, len;

	if (map_line(u, &block, &at, &count))
		return -EINVAL;
	for (; count > 0; count--) {
		if (map_line(u, &block, &at, &offset) || map_line(u, &block, &at, &len) || add_piece(u, offset, len))
			return -EINVAL;
	}
	return 0;
}

static int check_sparse(struct unpack *u)
{
	const struct entry *e = &u->entry;
	uint64_t data = 0;

	if (e->map_in_data && read_map(u))
		return -EINVAL;
	for (size_t i = 0; i < e->pieces; i++)
		data += u->piece[i].len;
	if (e->pieces && u->piece[e->pieces - 1].at + u->piece[e->pieces - 1].len > (uint64_t)e->real)
		data = UINT64_MAX;
	if (e->real < 0 || data != (uint64_t)e->size)
		return fail(u, DAMAGED, "its sparse map does not fit its size");
	return 0;
}

/* ---- extended headers ---- */

static int apply_sparse(struct unpack *u, struct word key, struct word value)
{
	if (is(key, "name"))
		return copy_word(u, u->long_name, value); /* wins over "path", wherever that stands */
	if (is(key, "realsize"))
		return decimal(u, value, &u->entry.real);
	if (is(key, "major") && is(value, "1"))
		u->entry.map_in_data = true;
	else if (!is(key, "minor"))
		return fail(u, REFUSED, "a sparse file in the form of pax 0: write it with --sparse-version=1.0");
	return 0;
}

static int apply_record(struct unpack *u, struct word key, struct word value)
{
	struct entry *e = &u->entry;

	if (is(key, "path"))
		return copy_word(u, e->shown, value);
	if (is(key, "linkpath"))
		return copy_word(u, e->link, value);
	if (is(key, "size"))
		return decimal(u, value, &e->size);
	if (is(key, "uid"))
		return decimal(u, value, &e->uid);
	if (is(key, "gid"))
		return decimal(u, value, &e->gid);
	if (is(key, "mtime"))
		e->mtime = seconds(value);
	else if (begins(&key, "GNU.sparse."))
		return apply_sparse(u, key, value);
	else if (begins(&key, "SCHILY.xattr.")) {
		if (e->xattrs == XATTRS || key.n > 255)
			return 0;
		e->xattr[e->xattrs].name = key;
		e->xattr[e->xattrs++].value = value;
	}
	return 0;
}

/* Records are "<length> <key>=<value>\n". */
static int apply_pax(struct unpack *u)
{
	const char *at = u->pax.data, *end = at + u->pax.len;

	while (at < end) {
		const char *space = memchr(at, ' ', (size_t)(end - at)), *equals;
		int64_t len;

		if (!space || decimal(u, (struct word){at, (size_t)(space - at)}, &len) || len > end - at ||
		    len <= space - at + 1 || at[len - 1] != '\n')
			return fail(u, DAMAGED, "its extended header is damaged");
		space++;
		equals = memchr(space, '=', (size_t)(at + len - space));
		if (!equals)
			return fail(u, DAMAGED, "its extended header is damaged");
		if (apply_record(u, (struct word){space, (size_t)(equals - space)},
				 (struct word){equals + 1, (size_t)(at + len - 1 - equals - 1)}))
			return -EINVAL;
		at += len;
	}
	return 0;
}

/* The data of an extended header into u->pax, or with `name` into a buffer of PATH_MAX bytes. */
static int read_text(struct unpack *u, int64_t size, char *name)
{
	char *data;
	size_t done = 0;

	if (size < 0 || size > HEADER_MAX)
		return fail(u, REFUSED, "an extended header of more than 1 MiB");
	data = realloc(u->pax.data, (size_t)size + 1);
	if (!data)
		return fail_errno(u, "realloc");
	u->pax.data = data;
	while (done < (size_t)size) {
		size_t part;
		int err = fill(u, 1);

		if (err)
			return err;
		part = u->len - u->pos < (size_t)size - done ? u->len - u->pos : (size_t)size - done;
		if (!part)
			return fail(u, TRUNCATED, "the archive ends in the middle of an extended header");
		if (note_raw(u, u->buf + u->pos, part))
			return -EINVAL;
		memcpy(data + done, u->buf + u->pos, part);
		u->pos += part;
		done += part;
	}
	data[size] = 0;
	u->pax.len = name ? 0 : (size_t)size;
	if (name && copy_word(u, name, (struct word){data, strlen(data)}))
		return -EINVAL;
	return pass(u, -1, (uint64_t)(BLOCK - size % BLOCK) % BLOCK);
}

/* ---- entries ---- */

static void read_names(struct unpack *u, const unsigned char *h)
{
	struct entry *e = &u->entry;
	bool posix = !memcmp(h + 257, "ustar", 6);
	size_t prefix = posix ? strnlen((const char *)h + 345, 155) : 0;
	size_t len = strnlen((const char *)h, 100), link_len = strnlen((const char *)h + 157, 100);

	if (*u->long_name) {
		strcpy(e->shown, u->long_name); /* both have PATH_MAX bytes */
	} else {
		memcpy(e->shown, h + 345, prefix);
		if (prefix)
			e->shown[prefix++] = '/';
		memcpy(e->shown + prefix, h, len);
		e->shown[prefix + len] = 0;
	}
	if (*u->long_link) {
		strcpy(e->link, u->long_link);
	} else {
		memcpy(e->link, h + 157, link_len);
		e->link[link_len] = 0;
	}
	*u->long_name = *u->long_link = 0;
}

static int read_numbers(struct unpack *u, const unsigned char *h)
{
	struct entry *e = &u->entry;
	int64_t mode, mtime, major, minor;

	if (number(h + 100, 8, &mode) || number(h + 108, 8, &e->uid) || number(h + 116, 8, &e->gid) ||
	    number(h + 124, 12, &e->size) || number(h + 136, 12, &mtime))
		return fail(u, DAMAGED, "its header is damaged");
	/* some writers leave rubbish here for what is no device */
	if (number(h + 329, 8, &major) || number(h + 337, 8, &minor))
		major = minor = -1;
	e->device = major | minor;
	e->mode = (unsigned)mode & 07777;
	e->mtime = (struct timespec){.tv_sec = mtime};
	return 0;
}

static int read_entry(struct unpack *u, const unsigned char *h)
{
	struct entry *e = &u->entry;
	bool slash;

	e->pieces = e->xattrs = 0;
	e->real = -1;
	e->map_in_data = false;
	e->type = h[156] == 0 || h[156] == '7' || h[156] == 'S' ? '0' : (char)h[156];
	read_names(u, h);
	if (read_numbers(u, h))
		return -EINVAL;
	if (h[156] == 'S' && old_sparse(u, h)) /* h is gone */
		return -EINVAL;
	if (u->pax.len && apply_pax(u))
		return -EINVAL;
	u->pax.len = 0;
	if (*u->long_name)
		strcpy(e->shown, u->long_name);
	*u->long_name = 0;
	if (clean(u, e->name, e->shown, &slash))
		return -EINVAL;
	if (e->type < '0' || e->type > '6')
		return fail(u, REFUSED, "an entry of a type that cove does not know");
	if (e->type == '0' && slash) /* as tars had it before directories had a type */
		e->type = '5';
	if (e->type != '0')
		e->size = 0;
	if (e->real >= 0 || e->map_in_data || e->pieces)
		return check_sparse(u);
	return 0;
}

static int end_of_archive(struct unpack *u)
{
	static const unsigned char zero[BLOCK];
	int err;
	const unsigned char *h = next_block(u, &err);

	if (h && memcmp(h, zero, BLOCK))
		return fail(u, DAMAGED, "after it, a lone block of zeros");
	u->terminated = true;
	return err;
}

int next_entry(struct unpack *u)
{
	static const unsigned char zero[BLOCK];

	for (;;) {
		int err;
		int64_t size;
		bool first = u->base + u->pos == 0;
		const unsigned char *h = next_block(u, &err);

		if (!h)
			return err || !first ? err : fail(u, DAMAGED, "it is empty");
		if (!memcmp(h, zero, BLOCK))
			return end_of_archive(u);
		if (!checksum_holds(h) || number(h + 124, 12, &size))
			return fail(u, DAMAGED, first ? "it is not a tar archive" : "the header after it is damaged");
		switch (h[156]) {
		case 'x':
		case 'X':
			err = read_text(u, size, NULL);
			break;
		case 'g': /* for all entries: read over, as Docker does */
			err = read_text(u, size, NULL);
			u->pax.len = 0;
			break;
		case 'L':
			err = read_text(u, size, u->long_name);
			break;
		case 'K':
			err = read_text(u, size, u->long_link);
			break;
		case 'V': /* a volume's label */
			break;
		default:
			err = read_entry(u, h);
			return err ? err : 1;
		}
		if (err)
			return err;
	}
}
