/*
 * The decoder: a plan's bytes become ops, and every word of both parts is checked before the first op runs.
 *
 * Nothing here touches the machine; the bytes may come from anybody (decoder fuzz).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ops.h"

static const char MAGIC[] = "cove-plan 1";

const struct op_row OPS[] = {
#define X(name, sides, signature, doc) {#name, #sides[0], signature, op_##name},
#include "ops.def"
#undef X
};
#define ROWS (sizeof(OPS) / sizeof(OPS[0]))

enum code {
#define X(name, sides, signature, doc) OP_##name,
#include "ops.def"
#undef X
};

/* Words of kind f that may be "-", and words of kind u wider than 32 bits. */
static const struct {
	enum code code;
	int word;
} NO_FD[] = {{OP_clone3, 1},	 {OP_clone3_in, 1}, {OP_open_tree, 1},	{OP_mount_setattr, 0}, {OP_mount_setattr, 6},
	     {OP_move_mount, 1}, {OP_mkdirat, 0},   {OP_mknodat, 0},	{OP_symlinkat, 1},     {OP_file, 0},
	     {OP_card, 0},	 {OP_card_back, 0}, {OP_card_route, 0}, {OP_card_six, 0}},
  WIDE[] = {{OP_clone3, 0}, {OP_clone3_in, 0}, {OP_prctl, 1}};

int in_guest;

struct cursor {
	char *at, *end;
};

static char *next_word(struct cursor *c)
{
	char *word = c->at, *nul = word < c->end ? memchr(word, 0, (size_t)(c->end - word)) : NULL;

	if (!nul)
		return NULL;
	c->at = nul + 1;
	return word;
}

int fault(struct run *run, int err, const char *word)
{
	snprintf(run->report.detail, sizeof(run->report.detail), "%s", word);
	return err;
}

int done(struct run *run, long result, const char *word)
{
	return result < 0 ? fault(run, -errno, word) : 0;
}

/* ---- words ---- */

static int parse_digits(const char *word, unsigned base, uint64_t max, uint64_t *value)
{
	*value = 0;
	if (!*word)
		return -EINVAL;
	for (; *word; word++) {
		unsigned digit = *word >= '0' && *word <= '9'	? (unsigned)(*word - '0')
				 : *word >= 'a' && *word <= 'f' ? (unsigned)(*word - 'a' + 10)
								: 99;
		if (digit >= base || *value > (max - digit) / base)
			return -EINVAL;
		*value = *value * base + digit;
	}
	return 0;
}

uint64_t word_u(const char *word)
{
	uint64_t value;

	parse_digits(word, 10, UINT64_MAX, &value);
	return value;
}

uint32_t word_o(const char *word)
{
	uint64_t value;

	parse_digits(word, 8, UINT32_MAX, &value);
	return (uint32_t)value;
}

uint64_t word_x(const char *word)
{
	uint64_t value;

	parse_digits(word, 16, UINT64_MAX, &value);
	return value;
}

int word_id(const char *word, size_t len, uint32_t *id)
{
	char digits[12];
	uint64_t value;

	if (len >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, word, len);
	digits[len] = 0;
	if (parse_digits(digits, 10, UINT32_MAX - 1, &value))
		return -EINVAL;
	*id = (uint32_t)value;
	return 0;
}

int word_fd(const struct run *run, const char *word)
{
	return strcmp(word, "-") ? reg_get(&run->regs, word) : AT_FDCWD;
}

/* ---- registers ---- */

int reg_set(struct regs *regs, const char *name, int fd)
{
	size_t len = strlen(name);

	if (!len || len >= REG_NAME || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != len)
		return -EINVAL;
	for (size_t i = 0; i < regs->count; i++) {
		if (strcmp(regs->reg[i].name, name))
			continue;
		if (regs->reg[i].fd >= 0 && regs->reg[i].fd != fd)
			close(regs->reg[i].fd);
		regs->reg[i].fd = fd;
		return 0;
	}
	if (regs->count == REGS_MAX)
		return -E2BIG;
	memcpy(regs->reg[regs->count].name, name, len + 1);
	regs->reg[regs->count++].fd = fd;
	return 0;
}

int reg_get(const struct regs *regs, const char *name)
{
	for (size_t i = 0; i < regs->count; i++)
		if (!strcmp(regs->reg[i].name, name))
			return regs->reg[i].fd;
	return -1;
}

static int reg_known(const struct regs *regs, const char *name)
{
	for (size_t i = 0; i < regs->count; i++)
		if (!strcmp(regs->reg[i].name, name))
			return 1;
	return 0;
}

/* ---- one op ---- */

static int is_wide(enum code code, int word)
{
	for (size_t i = 0; i < sizeof(WIDE) / sizeof(WIDE[0]); i++)
		if (WIDE[i].code == code && WIDE[i].word == word)
			return 1;
	return 0;
}

static int may_lack_fd(enum code code, int word)
{
	for (size_t i = 0; i < sizeof(NO_FD) / sizeof(NO_FD[0]); i++)
		if (NO_FD[i].code == code && NO_FD[i].word == word)
			return 1;
	return 0;
}

static int check_word(struct run *run, struct regs *known, const struct op *op, char kind, int index)
{
	const char *word = op->argv[index];
	uint64_t value;
	int err = 0;

	switch (kind) {
	case 'u':
		err = parse_digits(word, 10, is_wide((enum code)op->code, index) ? UINT64_MAX : UINT32_MAX, &value);
		break;
	case 'o':
		err = parse_digits(word, 8, 0177777, &value);
		break;
	case 'x':
		if (!*word || strspn(word, "0123456789abcdef") != strlen(word))
			err = -EINVAL;
		break;
	case 'f':
		if (!strcmp(word, "-") ? !may_lack_fd((enum code)op->code, index) : !reg_known(known, word))
			err = -EBADF;
		break;
	case 'F':
		err = reg_set(known, word, -1);
		break;
	default: /* s: any text */
		break;
	}
	return err ? fault(run, err, word) : 0;
}

/* After it there is no plan any more. */
static int is_last(const struct op *op)
{
	return op->code == OP_execve || op->code == OP_archive || op->code == OP_guest || op->code == OP_guest_exec;
}

/* What the signature cannot say. */
static int check_op(struct run *run, struct regs *known, const struct op *op)
{
	switch ((int)op->code) {
	case OP_id_map:
		return reg_set(known, "userns", -1);
	case OP_stdio:
		if (!reg_known(known, "stdout") || !reg_known(known, "stderr"))
			return fault(run, -EBADF, "stdout");
		return 0;
	case OP_capbset:
	case OP_capset:
		return strlen(op->argv[0]) > 16 ? fault(run, -EINVAL, op->argv[0]) : 0;
	case OP_spawn:
		return op->argc < 2 || *op->argv[1] != '/' ? fault(run, -EINVAL, "spawn") : 0;
	case OP_card:
		if (strlen(op->argv[1]) != 12 || strlen(op->argv[2]) > 15 || strlen(op->argv[3]) != 12)
			return fault(run, -EINVAL, op->argv[2]);
		return 0;
	case OP_card_back:
		return strlen(op->argv[1]) != 12 || strlen(op->argv[2]) > 15 ? fault(run, -EINVAL, op->argv[2]) : 0;
	case OP_card_six:
		if (strchr(op->argv[1], '/') || word_u(op->argv[3]) > 128)
			return fault(run, -EINVAL, op->argv[1]);
		/* fallthrough */
	case OP_card_route:
		return strlen(op->argv[1]) > 15 ? fault(run, -EINVAL, op->argv[1]) : 0;
	case OP_reseed:
		return strlen(op->argv[0]) != 128 ? fault(run, -EINVAL, op->argv[0]) : 0;
	case OP_device_list:
	case OP_seccomp: /* 8 bytes an instruction, BPF_MAXINSNS of them */
		if (strlen(op->argv[1]) % 16 || strlen(op->argv[1]) > 4096 * 16)
			return fault(run, -EINVAL, op->argv[1]);
		return 0;
	case OP_setrlimit:
		for (int i = 1; i < 3; i++) {
			uint64_t value;
			if (strcmp(op->argv[i], "unlimited") && parse_digits(op->argv[i], 10, UINT64_MAX, &value))
				return fault(run, -EINVAL, op->argv[i]);
		}
		return 0;
	case OP_execve:
		if (word_u(op->argv[0]) < 1 || word_u(op->argv[0]) > (uint64_t)op->argc - 1)
			return fault(run, -EINVAL, op->argv[0]);
		return 0;
	default:
		if (op->code != OP_send && op->code != OP_recv && op->code != OP_barrier && op->code != OP_pass)
			return 0;
		return op->argc > FDS_MAX ? fault(run, -E2BIG, OPS[op->code].name) : 0;
	}
}

static int check_words(struct run *run, struct regs *known, const struct op *op)
{
	const char *kinds = OPS[op->code].signature;
	int word = 0, err;

	for (; *kinds; kinds++) {
		int repeat = kinds[1] == '*';
		if (!repeat && word >= op->argc)
			return fault(run, -EINVAL, OPS[op->code].name);
		for (int left = repeat ? op->argc - word : 1; left; left--)
			if ((err = check_word(run, known, op, *kinds, word++)))
				return err;
		kinds += repeat;
	}
	if (word != op->argc)
		return fault(run, -EINVAL, OPS[op->code].name);
	return check_op(run, known, op);
}

/* Cuts one op out of the bytes. A word needs a slot; name and count give the two a terminated argv and execve's HOME
 * want. */
static int next_op(struct run *run, struct cursor *c, char ***slots, enum side side, struct op *op)
{
	char *name = next_word(c), *count = name ? next_word(c) : NULL;
	uint64_t argc;
	size_t row = 0;

	if (!count)
		return -EBADMSG;
	while (row < ROWS && strcmp(OPS[row].name, name))
		row++;
	if (row == ROWS)
		return fault(run, -ENOSYS, name);
	if (parse_digits(count, 10, UINT16_MAX, &argc))
		return fault(run, -EINVAL, count);
	if (OPS[row].side == (side == HOST ? 'm' : 'h') || (OPS[row].side == 'g' && (side == MACHINE || !in_guest)))
		return fault(run, -EOPNOTSUPP, name);
	op->code = (uint16_t)row;
	op->argc = (uint16_t)argc;
	op->argv = *slots;
	for (uint64_t i = 0; i < argc; i++)
		if (!(op->argv[i] = next_word(c)))
			return fault(run, -EBADMSG, name);
	op->argv[argc] = op->argv[argc + 1] = NULL;
	*slots += argc + 2;
	return 0;
}

/* ---- a part, and both together ---- */

static int decode_part(struct run *run, enum side side, struct cursor c, char ***slots, struct regs *known)
{
	struct part *part = &run->part[side];
	const char *magic = next_word(&c);
	struct regs child = {0};
	int err, cloned = side == HOST && run->half == REST;

	run->report = (struct report){.side = side};
	if (!magic || strcmp(magic, MAGIC))
		return -EPROTO;
	for (; c.at < c.end; part->count++) {
		struct op *op = &part->ops[part->count];
		run->report.op = run->first[side] + (uint32_t)part->count;
		if (part->count == OPS_MAX)
			return -E2BIG;
		if ((err = next_op(run, &c, slots, side, op)))
			return err;
		int clones = op->code == OP_clone3 || op->code == OP_clone3_in;
		if (clones && cloned++)
			return fault(run, -EINVAL, "clone3");
		if (side == HOST && !cloned &&
		    (op->code == OP_id_map || op->code == OP_oom_score_adj || op->code == OP_barrier ||
		     op->code == OP_send || op->code == OP_recv))
			return fault(run, -ECHILD, OPS[op->code].name);
		if ((err = check_words(run, known, op)))
			return err;
		if (clones) /* what the child inherits */
			child = *known;
		if (is_last(op) && (c.at < c.end || run->half == AHEAD))
			return fault(run, -EINVAL, OPS[op->code].name);
	}
	if (side == HOST)
		*known = child;
	if (side == HOST ? cloned != (run->part[MACHINE].ops != NULL)
			 : run->half != AHEAD && (!part->count || !is_last(&part->ops[part->count - 1])))
		return fault(run, -EINVAL, side == HOST ? "clone3" : "execve");
	return 0;
}

/* Every send has its recv, of as many registers: else one part would wait for ever. */
static int match(struct run *run, enum side from)
{
	const struct part *a = &run->part[from], *b = &run->part[!from];
	size_t i = 0, k = 0;

	for (;; i++, k++) {
		while (i < a->count && a->ops[i].code != OP_send)
			i++;
		while (k < b->count && b->ops[k].code != OP_recv)
			k++;
		if (i == a->count && k == b->count)
			return 0;
		if (i == a->count || k == b->count || a->ops[i].argc != b->ops[k].argc)
			break;
	}
	int sent = i < a->count;
	run->report.side = sent ? from : !from;
	run->report.op = run->first[run->report.side] + (uint32_t)(sent ? i : k);
	return fault(run, -EPROTO, sent ? "send" : "recv");
}

/* Memory for both parts: words, ops, text; and how many words there are. Neither part may end within a word. */
static int reserve(struct run *run, const char *const bytes[2], const size_t len[2], size_t *words)
{
	for (int side = HOST; side <= MACHINE; side++) {
		run->report = (struct report){.side = (uint32_t)side, .op = run->first[side]};
		if (len[side] > PLAN_MAX)
			return -E2BIG;
		if (bytes[side] && (len[side] ? bytes[side][len[side] - 1] != 0 : side == HOST))
			return -EBADMSG;
		for (size_t i = 0; i < len[side]; i++)
			*words += !bytes[side][i];
	}
	run->memory_len = *words * (sizeof(char *) + sizeof(struct op)) + len[HOST] + len[MACHINE];
	run->memory = mmap(NULL, run->memory_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (run->memory != MAP_FAILED)
		return 0;
	run->memory = NULL;
	return -ENOMEM;
}

/* The child of a half run ahead has its own registers, and those that plan_hand() gives it. */
static int know_inside(const struct run *run, struct regs *known, const struct regs *inside)
{
	int err = 0;

	*known = *inside;
	for (size_t i = run->told; !err && i < run->regs.count; i++)
		err = reg_set(known, run->regs.reg[i].name, -1);
	return err;
}

/* Without a host part: the child decodes its rest, which the launcher has decoded before. */
static int decode(struct run *run, const char *host, size_t host_len, const char *machine, size_t machine_len)
{
	static struct regs known, inside; /* large; the decoder is not reentrant */
	size_t words = 0;
	int err = reserve(run, (const char *[]){host, machine}, (size_t[]){host_len, machine_len}, &words);

	if (err)
		return err;
	char **slots = run->memory;
	struct op *ops = (struct op *)(slots + words);
	char *text = (char *)(ops + words);
	known = run->regs;
	if (host)
		memcpy(text, host, host_len);
	if (machine_len)
		memcpy(text + host_len, machine, machine_len);
	run->part[HOST].ops = ops;
	run->part[MACHINE].ops = machine_len ? ops + words / 2 : NULL;
	if (host && (err = decode_part(run, HOST, (struct cursor){text, text + host_len}, &slots, &known)))
		return err;
	if (!machine_len)
		return run->half == AHEAD ? fault(run, -EINVAL, "clone3") : 0;
	if (host && run->half == REST && (err = know_inside(run, &known, &inside)))
		return err;
	run->part[MACHINE].ops = ops + run->part[HOST].count;
	text += host_len;
	if ((err = decode_part(run, MACHINE, (struct cursor){text, text + machine_len}, &slots, &known)))
		return err;
	if (run->half == AHEAD)
		inside = known;
	if (!host)
		return 0;
	return (err = match(run, HOST)) ? err : match(run, MACHINE);
}

int plan_decode(struct run *run, const char *host, size_t host_len, const char *machine, size_t machine_len)
{
	int err = decode(run, host, host_len, machine, machine_len);

	if (!err)
		run->report = (struct report){0};
	run->report.err = -err;
	return err;
}

void plan_init(struct run *run)
{
	*run = (struct run){.sync = {-1, -1}, .ctl = -1, .pidfd = -1, .pty = -1, .mntns = -1};
}

void plan_unmap(struct run *run)
{
	if (run->memory)
		munmap(run->memory, run->memory_len);
	run->memory = NULL;
	run->part[HOST] = run->part[MACHINE] = (struct part){0};
}
