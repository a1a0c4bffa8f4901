/*
 * Datagrams through a published port: each sender gets a socket of its own to the machine, so that answers find back,
 * and come from the address that was asked. Who says nothing for a while, or came first when there are too many, is
 * forgotten.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "relay.h"

#define IDLE_MS	     90000
#define SESSIONS_MAX 4096
#define BUCKETS	     1024 /* a power of two */
#define IN_A_ROW     32

union info {
	struct in_pktinfo v4;
	struct in6_pktinfo v6;
};

struct session {
	struct source source;
	const struct port *port;
	union address client;
	socklen_t client_len;
	union info local; /* where it sent to */
	uint64_t used;
	struct session *chain, *older, *newer;
};

static struct session *buckets[BUCKETS], *oldest, *newest, *dead;
static size_t sessions;
static char datagram[65536];

static size_t bucket_of(const struct port *port, const union address *client)
{
	const unsigned char *bytes = (const unsigned char *)client;
	uint32_t hash = 2166136261u ^ port->id;

	for (size_t i = 0; i < sizeof(*client); i++)
		hash = (hash ^ bytes[i]) * 16777619u;
	return (hash ^ hash >> 16) & (BUCKETS - 1);
}

static void unlink_age(struct session *s)
{
	*(s->older ? &s->older->newer : &oldest) = s->newer;
	*(s->newer ? &s->newer->older : &newest) = s->older;
}

static void touch(struct session *s, bool first)
{
	if (!first)
		unlink_age(s);
	s->used = clock_ms();
	s->older = newest;
	s->newer = NULL;
	*(newest ? &newest->newer : &oldest) = s;
	newest = s;
}

static void forget(struct session *s)
{
	struct session **at = &buckets[bucket_of(s->port, &s->client)];

	while (*at != s)
		at = &(*at)->chain;
	*at = s->chain;
	unlink_age(s);
	close(s->source.fd);
	s->source.fd = -1; /* epoll may still tell of it in this batch */
	s->chain = dead;
	dead = s;
	sessions--;
}

static struct session *session_of(const struct port *port, const union address *client, socklen_t len,
				  const union info *local)
{
	size_t bucket = bucket_of(port, client);
	struct session *s = buckets[bucket];

	while (s && (s->port != port || memcmp(&s->client, client, sizeof(*client)) ||
		     memcmp(&s->local, local, sizeof(*local))))
		s = s->chain;
	if (s) {
		touch(s, false);
		return s;
	}
	if (sessions >= SESSIONS_MAX)
		forget(oldest);
	if (!(s = calloc(1, sizeof(*s))))
		return NULL;
	*s = (struct session){.source = {SESSION, -1, 0},
			      .port = port,
			      .client = *client,
			      .client_len = len,
			      .local = *local,
			      .chain = buckets[bucket]};
	if (machine_connect(SOCK_DGRAM, port->number, &s->source.fd)) {
		free(s);
		return NULL;
	}
	buckets[bucket] = s;
	sessions++;
	touch(s, true);
	source_watch(&s->source, EPOLLIN);
	return s;
}

void udp_open(struct port *port)
{
	const int on = 1;

	setsockopt(port->source.fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
	setsockopt(port->source.fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
}

/* The host's address that was written to; nothing of the way it came by, which may change. */
static void local_of(struct msghdr *message, union info *local)
{
	struct in_pktinfo v4;

	memset(local, 0, sizeof(*local));
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			memcpy(&v4, CMSG_DATA(c), sizeof(v4));
			local->v4.ipi_spec_dst = v4.ipi_spec_dst;
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
			memcpy(&local->v6, CMSG_DATA(c), sizeof(local->v6));
			if (!IN6_IS_ADDR_LINKLOCAL(&local->v6.ipi6_addr))
				local->v6.ipi6_ifindex = 0;
		}
	}
}

void udp_receive(struct port *port)
{
	for (int i = 0; i < IN_A_ROW; i++) {
		union {
			char bytes[CMSG_SPACE(sizeof(union info))];
			struct cmsghdr align;
		} control;
		union address client = {0};
		struct iovec iov = {datagram, sizeof(datagram)};
		struct msghdr message = {.msg_name = &client,
					 .msg_namelen = sizeof(client),
					 .msg_iov = &iov,
					 .msg_iovlen = 1,
					 .msg_control = &control,
					 .msg_controllen = sizeof(control)};
		union info local;
		ssize_t n = recvmsg(port->source.fd, &message, MSG_DONTWAIT);
		if (n < 0)
			return;
		local_of(&message, &local);
		if (client.any.sa_family == AF_INET6)
			client.v6.sin6_flowinfo = 0;
		struct session *s = session_of(port, &client, message.msg_namelen, &local);
		/* The first may only fetch what became of an earlier one: that nobody listened then. */
		if (s && send(s->source.fd, datagram, (size_t)n, MSG_DONTWAIT) < 0 && errno == ECONNREFUSED)
			send(s->source.fd, datagram, (size_t)n, MSG_DONTWAIT);
	}
}

void udp_answer(struct source *source)
{
	struct session *s = (struct session *)source;
	const bool v6 = s->client.any.sa_family == AF_INET6;
	const size_t size = v6 ? sizeof(s->local.v6) : sizeof(s->local.v4);

	for (int i = 0; i < IN_A_ROW; i++) {
		union {
			char bytes[CMSG_SPACE(sizeof(union info))];
			struct cmsghdr align;
		} control = {0};
		ssize_t n = recv(source->fd, datagram, sizeof(datagram), MSG_DONTWAIT);
		if (n < 0 && errno == ECONNREFUSED)
			continue;
		if (n < 0)
			return;
		struct iovec iov = {datagram, (size_t)n};
		struct msghdr message = {.msg_name = &s->client,
					 .msg_namelen = s->client_len,
					 .msg_iov = &iov,
					 .msg_iovlen = 1,
					 .msg_control = &control,
					 .msg_controllen = CMSG_SPACE(size)};
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
		c->cmsg_type = v6 ? IPV6_PKTINFO : IP_PKTINFO;
		c->cmsg_len = CMSG_LEN(size);
		memcpy(CMSG_DATA(c), &s->local, size);
		sendmsg(s->port->source.fd, &message, MSG_DONTWAIT);
		touch(s, false);
	}
}

void udp_drop(const struct port *port)
{
	for (struct session *s = oldest, *next; s; s = next) {
		next = s->newer;
		if (s->port == port)
			forget(s);
	}
}

int udp_expire(void)
{
	uint64_t now = clock_ms();

	for (struct session *next; dead; dead = next) {
		next = dead->chain;
		free(dead);
	}
	while (oldest && oldest->used + IDLE_MS <= now)
		forget(oldest);
	return oldest ? (int)(oldest->used + IDLE_MS - now) + 1 : -1;
}
