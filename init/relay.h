/* What relay.c, relay_tcp.c and relay_udp.c share: the published ports of one machine, and who comes through them. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "cove.h"
#include "session.h"

#define RETRY_MS 100 /* until a listener without descriptors is tried again */

enum kind { CONTROL, CALLER, MACHINE_END, PORT_TCP, PORT_UDP, SIDE, SESSION };

/* What epoll tells of; the first member of whatever it is. */
struct source {
	enum kind kind;
	int fd;
	uint32_t events; /* that are watched; 0: it is not */
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct port {
	struct source source;
	uint32_t id;
	uint16_t number; /* of the machine's, in network order */
	struct port *next;
};

struct relay {
	int epoll;
	uid_t owner; /* the daemon's; nobody else may give orders */
	struct source control, caller, machine;
	union address target; /* of family AF_UNSPEC: the machine has no way out */
	struct port *ports, *dropped;
	uint64_t full; /* not 0: no descriptor is left for one more, and the listeners' queues wait until then */
	bool ending;   /* nothing new; what the machine has said still goes to its clients */
	bool silent;   /* and it says no more */
	uint64_t ended;
	size_t connections, most; /* of connections */
};

extern struct relay relay;

uint64_t clock_ms(void);

/* Watches for these events, or no more (0). */
void source_watch(struct source *source, uint32_t events);

/* A socket to this port of the machine: connected, or about to be (-EINPROGRESS is no error). -errno. */
int machine_connect(int type, uint16_t number, int *fd);

/* ---- relay_tcp.c ---- */
void tcp_accept(struct port *port);
void tcp_event(struct source *source, uint32_t events);
void tcp_drop(const struct port *port); /* ends its connections */
void tcp_end(void);			/* the machine has ended: nothing goes to it any more */
void tcp_sweep(void);			/* after each batch of events: frees what was closed in it */

/* ---- relay_udp.c ---- */
void udp_open(struct port *port);
void udp_receive(struct port *port);
void udp_answer(struct source *source);
void udp_drop(const struct port *port);
int udp_expire(void); /* frees who was forgotten; milliseconds until the next one is, or -1 */
