/*
 * Connections through a published port. Bytes go from socket to socket through a pipe in the kernel (splice(2)): this
 * process never has them. A side that is full stops the other one; each direction ends by itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "relay.h"

#define ACCEPTS	  16 /* in a row, and rounds of one connection: others wait meanwhile */
#define ROUNDS	  8
#define PIPE_SIZE (1 << 18)
#define PIPES_MAX 64

/* One of the two sockets, and what was read from it that the other has not taken yet. */
struct end {
	struct source source;
	struct connection *connection;
	int pipe[2];
	size_t held;
	bool eof;  /* it says no more */
	bool shut; /* it was told that no more comes */
};

enum { CLIENT, SERVER };

struct connection {
	struct end side[2];
	bool connecting, dead;
	const struct port *port;
	struct connection *next, *prev, *grave;
};

static struct connection *all, *dead;

/* Empty pipes of nobody: most connections need one only for a moment. */
static int idle[PIPES_MAX][2];
static size_t idles;

static int pipe_take(struct end *side)
{
	if (side->pipe[0] >= 0)
		return 0;
	if (idles) {
		idles--;
		side->pipe[0] = idle[idles][0];
		side->pipe[1] = idle[idles][1];
		return 0;
	}
	if (pipe2(side->pipe, O_NONBLOCK | O_CLOEXEC))
		return -errno;
	fcntl(side->pipe[1], F_SETPIPE_SZ, PIPE_SIZE); /* the host may allow less */
	return 0;
}

/* One that holds something goes with it. */
static void pipe_give(struct end *side)
{
	if (side->pipe[0] >= 0 && !side->held && idles < PIPES_MAX) {
		idle[idles][0] = side->pipe[0];
		idle[idles++][1] = side->pipe[1];
	} else if (side->pipe[0] >= 0) {
		close(side->pipe[0]);
		close(side->pipe[1]);
	}
	side->pipe[0] = side->pipe[1] = -1;
	side->held = 0;
}

/* `broken`: whoever is still there learns it by a reset, not by an end that looks whole. */
static void finish(struct connection *c, bool broken)
{
	struct linger reset = {.l_onoff = 1};

	if (c->dead)
		return;
	for (int i = 0; i < 2; i++) {
		struct end *side = &c->side[i];
		pipe_give(side);
		if (broken)
			setsockopt(side->source.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(side->source.fd);
		side->source.fd = -1;
	}
	c->dead = true;
	c->grave = dead;
	dead = c;
	*(c->prev ? &c->prev->next : &all) = c->next;
	if (c->next)
		c->next->prev = c->prev;
	relay.connections--;
}

static void watch(struct connection *c)
{
	for (int i = 0; i < 2; i++) {
		struct end *side = &c->side[i];
		uint32_t events = 0;
		if (c->connecting)
			events = i == SERVER ? EPOLLOUT : 0;
		else
			events = (!side->eof && !side->held ? EPOLLIN : 0u) | (c->side[!i].held ? EPOLLOUT : 0u);
		source_watch(&side->source, events);
	}
}

/* What one side has said, to the other. -errno: the connection is broken. */
static int carry(struct connection *c, int from)
{
	struct end *a = &c->side[from], *b = &c->side[!from];
	const unsigned flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;
	ssize_t n;
	int err;

	for (int round = 0; round < ROUNDS; round++) {
		if (!a->held && !a->eof) {
			if ((err = pipe_take(a)))
				return err;
			n = splice(a->source.fd, NULL, a->pipe[1], NULL, PIPE_SIZE, flags);
			if (n < 0 && errno != EAGAIN)
				return -errno;
			a->eof = !n || (n < 0 && relay.silent);
			a->held = n > 0 ? (size_t)n : 0;
		}
		if (!a->held)
			break;
		n = splice(a->pipe[0], NULL, b->source.fd, NULL, a->held, flags);
		if (n <= 0 && errno != EAGAIN)
			return n ? -errno : -EPIPE;
		if (n < 0)
			break;
		a->held -= (size_t)n;
	}
	if (!a->held)
		pipe_give(a);
	if (a->eof && !a->held && !b->shut) {
		shutdown(b->source.fd, SHUT_WR);
		b->shut = true;
	}
	return 0;
}

/* Both directions may have something to do: the one that can is known by trying. */
static void go_on(struct connection *c, bool from_client, bool from_server)
{
	if ((from_client && carry(c, CLIENT)) || (from_server && carry(c, SERVER)))
		finish(c, true);
	else if (c->side[CLIENT].shut && c->side[SERVER].shut)
		finish(c, false);
	else
		watch(c);
}

void tcp_event(struct source *source, uint32_t events)
{
	struct end *side = (struct end *)source;
	struct connection *c = side->connection;
	int i = side == &c->side[SERVER], err = 0;
	socklen_t len = sizeof(err);

	if (events & (EPOLLERR | EPOLLHUP) || c->connecting)
		getsockopt(source->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err) {
		finish(c, true);
		return;
	}
	c->connecting = false;
	bool reads = events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP), writes = events & (EPOLLOUT | EPOLLHUP);
	go_on(c, i == CLIENT ? reads : writes, i == SERVER ? reads : writes);
}

static void options(int fd)
{
	const struct {
		int level, name, value;
	} wanted[] = {
		{IPPROTO_TCP, TCP_NODELAY, 1}, /* what it gets it passes on as it came */
		{SOL_SOCKET, SO_KEEPALIVE, 1}, /* who vanished without a word does not stay */
		{IPPROTO_TCP, TCP_KEEPIDLE, 60}, {IPPROTO_TCP, TCP_KEEPINTVL, 15}, {IPPROTO_TCP, TCP_KEEPCNT, 8},
	};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++)
		setsockopt(fd, wanted[i].level, wanted[i].name, &wanted[i].value, sizeof(int));
}

static void begin(struct port *port, int client)
{
	struct linger reset = {.l_onoff = 1};
	struct connection *c = calloc(1, sizeof(*c));
	int server = -1;

	if (!c || machine_connect(SOCK_STREAM, port->number, &server)) {
		setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(client);
		free(c);
		return;
	}
	for (int i = 0; i < 2; i++) {
		c->side[i] = (struct end){
			.source = {SIDE, i == CLIENT ? client : server, 0}, .connection = c, .pipe = {-1, -1}};
		options(c->side[i].source.fd);
	}
	c->connecting = true;
	c->port = port;
	c->next = all;
	if (all)
		all->prev = c;
	all = c;
	relay.connections++;
	watch(c);
}

void tcp_accept(struct port *port)
{
	for (int i = 0; i < ACCEPTS; i++) {
		int fd = relay.connections < relay.most
				 ? accept4(port->source.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
				 : (errno = EMFILE, -1);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
			relay.full = clock_ms() + RETRY_MS;
			for (struct port *each = relay.ports; each; each = each->next)
				if (each->source.kind == PORT_TCP)
					source_watch(&each->source, 0);
		}
		if (fd < 0)
			return;
		begin(port, fd);
	}
}

void tcp_drop(const struct port *port)
{
	for (struct connection *c = all, *next; c; c = next) {
		next = c->next;
		if (c->port == port)
			finish(c, true);
	}
}

void tcp_end(void)
{
	for (struct connection *c = all, *next; c; c = next) {
		next = c->next;
		if (c->connecting) {
			finish(c, true);
			continue;
		}
		pipe_give(&c->side[CLIENT]); /* nobody is there to hear it */
		c->side[CLIENT].eof = true;
		go_on(c, true, true);
	}
}

void tcp_sweep(void)
{
	while (dead) {
		struct connection *c = dead;
		dead = c->grave;
		free(c);
	}
}
