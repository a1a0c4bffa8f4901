/*
 * setuser: who the payload runs as, by the machine's own /etc/passwd and /etc/group, with Docker's meaning of
 * "user", "uid", "user:group" and "uid:gid". The files may be hostile: regular, small, and found inside the root.
 */
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ops.h"

#define FILE_MAX   (1u << 20)
#define GROUPS_MAX 1024
#define FIELDS	   7

struct field {
	const char *at;
	size_t len;
};

static struct {
	char text[FILE_MAX + 1];
	size_t len;
} file; /* one at a time; untouched pages cost nothing */

static char home[4096] = "HOME=";

struct identity {
	uint32_t uid, gid;
	size_t count;
	uint32_t groups[GROUPS_MAX];
};

/* A machine need not have the file; then it is empty. */
static int load(const char *path)
{
	struct stat st;
	int fd = open_in(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0), err = 0;
	ssize_t n;

	file.len = 0;
	if (fd < 0)
		return fd == -ENOENT || fd == -ENOTDIR ? 0 : fd;
	if (fstat(fd, &st))
		err = -errno;
	else if (!S_ISREG(st.st_mode))
		err = -EINVAL;
	while (!err && (n = read(fd, file.text + file.len, sizeof(file.text) - file.len)) != 0) {
		if (n < 0)
			err = errno == EINTR ? 0 : -errno;
		else if ((file.len += (size_t)n) > FILE_MAX)
			err = -EFBIG;
	}
	close(fd);
	return err;
}

/* The next line's fields, of which the missing are empty; NULL at the end. */
static const char *next_line(const char *at, struct field fields[FIELDS])
{
	const char *end = file.text + file.len;

	if (at >= end)
		return NULL;
	const char *nl = memchr(at, '\n', (size_t)(end - at)), *stop = nl ? nl : end;
	for (int i = 0; i < FIELDS; i++) {
		const char *colon = memchr(at, ':', (size_t)(stop - at)), *last = colon ? colon : stop;
		fields[i] = (struct field){at, (size_t)(last - at)};
		at = colon ? colon + 1 : stop;
	}
	return nl ? nl + 1 : end;
}

static int same(struct field a, struct field b)
{
	return a.len == b.len && !memcmp(a.at, b.at, a.len);
}

/* A number, when it is one, is always an id and never a name. */
static int matches(struct field wanted, struct field name, struct field id)
{
	uint32_t want, have;

	if (word_id(wanted.at, wanted.len, &want))
		return same(wanted, name);
	return !word_id(id.at, id.len, &have) && have == want;
}

static int find_user(struct identity *who, struct field wanted, struct field *name)
{
	struct field fields[FIELDS];
	int err = load("/etc/passwd");

	if (err)
		return err;
	for (const char *at = file.text; (at = next_line(at, fields));) {
		uint32_t uid, gid;
		if (!matches(wanted, fields[0], fields[2]) || word_id(fields[2].at, fields[2].len, &uid) ||
		    word_id(fields[3].at, fields[3].len, &gid))
			continue;
		static char found[256];
		*who = (struct identity){.uid = uid, .gid = gid};
		snprintf(home, sizeof(home), "HOME=%.*s", (int)fields[5].len, fields[5].at);
		if (!fields[5].len)
			strcpy(home, "HOME=/");
		if (fields[0].len >= sizeof(found))
			return -EINVAL;
		memcpy(found, fields[0].at, fields[0].len); /* the file's bytes will be the group file's */
		*name = (struct field){found, fields[0].len};
		return 0;
	}
	strcpy(home, "HOME=/");
	return word_id(wanted.at, wanted.len, &who->uid) ? -ENOENT : 0;
}

static int add_group(struct identity *who, uint32_t gid)
{
	for (size_t i = 0; i < who->count; i++)
		if (who->groups[i] == gid)
			return 0;
	if (who->count == GROUPS_MAX)
		return -E2BIG;
	who->groups[who->count++] = gid;
	return 0;
}

static int find_group(struct field wanted, uint32_t *gid)
{
	struct field fields[FIELDS];

	for (const char *at = file.text; (at = next_line(at, fields));)
		if (matches(wanted, fields[0], fields[2]) && !word_id(fields[2].at, fields[2].len, gid))
			return 0;
	return word_id(wanted.at, wanted.len, gid) ? -ENOENT : 0;
}

/* Every group whose members name the user. */
static int add_memberships(struct identity *who, struct field name)
{
	struct field fields[FIELDS];
	int err = 0;

	for (const char *at = file.text; !err && (at = next_line(at, fields));) {
		struct field members = fields[3];
		uint32_t gid;
		while (members.len && !err) {
			const char *comma = memchr(members.at, ',', members.len);
			size_t len = comma ? (size_t)(comma - members.at) : members.len;
			if (same((struct field){members.at, len}, name) && !word_id(fields[2].at, fields[2].len, &gid))
				err = add_group(who, gid);
			members.at += len + !!comma;
			members.len -= len + !!comma;
		}
	}
	return err;
}

static int find_groups(struct run *run, const struct op *op, struct identity *who, struct field wanted,
		       struct field name)
{
	int err = load("/etc/group");

	if (err)
		return fault(run, err, "/etc/group");
	if (wanted.len && (err = find_group(wanted, &who->gid)))
		return fault(run, err, wanted.at);
	if ((err = add_group(who, who->gid)))
		return err;
	if (!wanted.len && name.len && (err = add_memberships(who, name)))
		return fault(run, err, op->argv[0]);
	for (int i = 1; i < op->argc; i++) {
		uint32_t gid;
		if ((err = find_group((struct field){op->argv[i], strlen(op->argv[i])}, &gid)) ||
		    (err = add_group(who, gid)))
			return fault(run, err, op->argv[i]);
	}
	return 0;
}

int op_setuser(struct run *run, const struct op *op)
{
	static struct identity who;
	struct field user = {op->argv[0], strcspn(op->argv[0], ":")}, group = {"", 0}, name = {"", 0};
	int err;

	if (user.at[user.len])
		group = (struct field){user.at + user.len + 1, strlen(user.at + user.len + 1)};
	if (!user.len)
		user = (struct field){"0", 1};
	who = (struct identity){0};
	if ((err = find_user(&who, user, &name)))
		return fault(run, err, err == -ENOENT ? op->argv[0] : "/etc/passwd");
	if ((err = find_groups(run, op, &who, group, name)))
		return err;
	run->home = home;
	/* So that /dev/stdout can be opened again. Refused only where they are somebody else's, who keeps them (tests).
	 */
	for (int fd = 0; own_stdio && fd < 3; fd++)
		if (fchown(fd, who.uid, (gid_t)-1) && errno != EPERM)
			return fault(run, -errno, op->argv[0]);
	err = set_ids(who.uid, who.gid, who.groups, who.count);
	return err ? fault(run, err, op->argv[0]) : 0;
}
