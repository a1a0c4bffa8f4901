/*
 * The published ports of one machine: listens for it on the host and carries what comes to the machine's own address.
 * A listener obeys the host's firewall as any server does. It reads nothing of what it carries.
 *
 * The daemon opens the sockets and hands them over; this process has no right but to carry: an id of its own, no
 * capability, no file, few system calls. It outlives the daemon, and ends when the machine does.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "relay.h"
#include "walls.h"

#define EVENTS	    64
#define SILENCE_MS  300	  /* after a machine's end, for what is on its way between two queues of the kernel */
#define GRACE_MS    10000 /* for clients that take their time with a machine's last words */
#define FDS_OF_ONE  6	  /* of a connection: two sockets, a pipe each way */
#define FDS_SPARE   64
#define CONNECTIONS 16384

struct relay relay;

static const int allowed[] = {
	SYS_epoll_pwait,     SYS_epoll_ctl, SYS_accept4,	SYS_socket,	  SYS_connect,
	SYS_splice,	     SYS_pipe2,	    SYS_close,		SYS_shutdown,	  SYS_setsockopt,
	SYS_getsockopt,	     SYS_recvmsg,   SYS_sendmsg,	SYS_recvfrom,	  SYS_sendto,
	SYS_clock_gettime,   SYS_brk,	    SYS_mmap,		SYS_munmap,	  SYS_mremap,
	SYS_madvise,	     SYS_getrandom, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_exit_group,
	SYS_restart_syscall, SYS_fcntl,
};

uint64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* What is watched for nothing is not watched at all: the kernel would tell of hang-ups again and again. */
void source_watch(struct source *source, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	if (events == source->events || source->fd < 0)
		return;
	epoll_ctl(relay.epoll,
		  !source->events ? EPOLL_CTL_ADD
		  : events	  ? EPOLL_CTL_MOD
				  : EPOLL_CTL_DEL,
		  source->fd, &event);
	source->events = events;
}

static void source_close(struct source *source)
{
	if (source->fd >= 0)
		close(source->fd);
	source->fd = -1;
	source->events = 0;
}

int machine_connect(int type, uint16_t number, int *fd)
{
	union address to = relay.target;
	socklen_t len = to.any.sa_family == AF_INET ? sizeof(to.v4) : sizeof(to.v6);

	if (to.any.sa_family == AF_UNSPEC)
		return -ENETUNREACH;
	to.v4.sin_port = number; /* in the same place of both */
	*fd = socket(to.any.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (*fd < 0)
		return -errno;
	if (!connect(*fd, &to.any, len) || errno == EINPROGRESS)
		return 0;
	int err = -errno;
	close(*fd);
	return err;
}

/* ---- what the daemon says; each word is answered with what there is then ---- */

static void answer(void)
{
	static uint32_t words[MSG_MAX / sizeof(uint32_t)];
	size_t n = 0;

	words[n++] = RELAY_PROTOCOL;
	words[n++] = (uint32_t)relay.connections;
	for (struct port *port = relay.ports; port && n < sizeof(words) / sizeof(*words); port = port->next)
		words[n++] = port->id;
	if (msg_send(relay.control.fd, MSG_RELAY_STATE, 0, words, n * sizeof(*words), NULL, 0))
		source_close(&relay.control);
}

static void ports_watch(void)
{
	for (struct port *port = relay.ports; port; port = port->next)
		source_watch(&port->source, relay.full && port->source.kind == PORT_TCP ? 0 : EPOLLIN);
}

static void ports_add(const struct relay_port *asked, size_t count, const int *fds)
{
	for (size_t i = 0; i < count; i++) {
		struct port *port = malloc(sizeof(*port));
		if (!port || relay.ending) {
			free(port);
			close(fds[i]);
			continue;
		}
		*port = (struct port){.source = {asked[i].udp ? PORT_UDP : PORT_TCP, fds[i], 0},
				      .id = asked[i].id,
				      .number = htons(asked[i].number),
				      .next = relay.ports};
		fcntl(fds[i], F_SETFL, O_NONBLOCK);
		if (asked[i].udp)
			udp_open(port);
		relay.ports = port;
	}
	ports_watch();
}

/* With whoever is in it. */
static void port_drop(uint32_t id)
{
	for (struct port **at = &relay.ports; *at; at = &(*at)->next) {
		struct port *port = *at;
		if (port->id != id)
			continue;
		*at = port->next;
		source_close(&port->source);
		tcp_drop(port);
		udp_drop(port);
		port->next = relay.dropped;
		relay.dropped = port;
		return;
	}
}

/* Who sent datagrams has a socket to where the machine was: somebody else may be there next. */
static void target_set(const void *data, size_t len)
{
	const union address before = relay.target;

	memset(&relay.target, 0, sizeof(relay.target));
	relay.target.any.sa_family = len == 4 ? AF_INET : len == 16 ? AF_INET6 : AF_UNSPEC;
	if (len == 4)
		memcpy(&relay.target.v4.sin_addr, data, len);
	else if (len == 16)
		memcpy(&relay.target.v6.sin6_addr, data, len);
	if (memcmp(&before, &relay.target, sizeof(before)))
		for (struct port *port = relay.ports; port; port = port->next)
			udp_drop(port);
}

/* The ports are free at once; the connections get what the machine has said. */
static void end(void)
{
	if (relay.ending)
		return;
	relay.ending = true;
	relay.ended = clock_ms();
	source_close(&relay.machine);
	for (struct port *port = relay.ports; port; port = port->next) {
		source_close(&port->source);
		udp_drop(port);
	}
	relay.ports = NULL; /* connections still name them: none is freed any more */
	tcp_end();
}

static void control_read(void)
{
	static char data[4096] __attribute__((aligned(8)));
	int fds[FDS_MAX];
	size_t nfds = FDS_MAX, count;
	struct msg head;
	ssize_t n = msg_recv(relay.control.fd, &head, data, sizeof(data), fds, &nfds, MSG_DONTWAIT);

	if (n == -EAGAIN)
		return;
	if (n < 0) { /* the daemon went; the next one finds us at our listener */
		source_close(&relay.control);
		return;
	}
	count = (size_t)n / sizeof(struct relay_port);
	if (head.kind == MSG_RELAY_ADD && count == nfds) {
		ports_add((const struct relay_port *)data, count, fds);
		nfds = 0;
	} else if (head.kind == MSG_RELAY_DROP) {
		for (size_t i = 0; i < (size_t)n / sizeof(uint32_t); i++)
			port_drop(((const uint32_t *)data)[i]);
	} else if (head.kind == MSG_RELAY_TARGET) {
		target_set(data, (size_t)n);
	} else if (head.kind == MSG_RELAY_END) {
		end();
	}
	while (nfds)
		close(fds[--nfds]);
	answer();
}

/* A daemon that came after ours. */
static void caller_accept(void)
{
	int fd = accept4(relay.caller.fd, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) || peer.uid != relay.owner) {
		close(fd);
		return;
	}
	source_close(&relay.control);
	relay.control.fd = fd;
	source_watch(&relay.control, EPOLLIN);
}

/* ---- life ---- */

static void happened(struct source *source, uint32_t events)
{
	if (source->fd < 0)
		return; /* closed by what came before it */
	switch (source->kind) {
	case CONTROL:
		control_read();
		break;
	case CALLER:
		caller_accept();
		break;
	case MACHINE_END:
		end();
		break;
	case PORT_TCP:
		tcp_accept((struct port *)source);
		break;
	case PORT_UDP:
		udp_receive((struct port *)source);
		break;
	case SIDE:
		tcp_event(source, events);
		break;
	case SESSION:
		udp_answer(source);
		break;
	}
}

static int patience(void)
{
	int wait = udp_expire();

	return (relay.full || relay.ending) && (wait < 0 || wait > RETRY_MS) ? RETRY_MS : wait;
}

/* After each batch of events: nobody speaks of what was dropped any more. */
static void sweep(void)
{
	tcp_sweep();
	for (struct port *next; relay.dropped; relay.dropped = next) {
		next = relay.dropped->next;
		free(relay.dropped);
	}
	if (relay.full && clock_ms() >= relay.full && relay.connections < relay.most) {
		relay.full = 0;
		ports_watch();
	}
	if (relay.ending && !relay.silent && clock_ms() >= relay.ended + SILENCE_MS) {
		relay.silent = true;
		tcp_end();
		tcp_sweep();
	}
}

static void loop(void)
{
	struct epoll_event events[EVENTS];

	while (!relay.ending || (relay.connections && clock_ms() < relay.ended + GRACE_MS)) {
		int n = epoll_pwait(relay.epoll, events, EVENTS, patience(), NULL);
		for (int i = 0; i < n; i++)
			happened(events[i].data.ptr, events[i].events);
		sweep();
	}
}

/* As many as there are descriptors for. */
static void limits(void)
{
	struct rlimit files;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	size_t have = files.rlim_cur > (1u << 20) ? 1u << 20 : (size_t)files.rlim_cur;
	size_t kept = FDS_SPARE + have / 4;
	relay.most = (have - kept) / FDS_OF_ONE;
	if (relay.most > CONNECTIONS)
		relay.most = CONNECTIONS;
}

static int confine(uid_t id)
{
	limits();
	if (chdir("/") || setgroups(0, NULL) || setresgid(id, id, id) || setresuid(id, id, id) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_DUMPABLE, 0))
		return -errno;
	return walls_calls(allowed, sizeof(allowed) / sizeof(allowed[0])) ? -errno : 0;
}

int relay_main(int ctl)
{
	struct relay_begin begin;
	int fds[2] = {-1, -1};
	size_t nfds = 2;
	struct msg head;

	prctl(PR_SET_NAME, "cove-relay");
	for (int sig = 1; sig < NSIG; sig++) /* only SIGKILL ends it, and its machine's end */
		if (sig != SIGSEGV && sig != SIGBUS && sig != SIGSYS && sig != SIGILL && sig != SIGFPE &&
		    sig != SIGABRT)
			signal(sig, SIG_IGN);
	if (msg_recv(ctl, &head, &begin, sizeof(begin), fds, &nfds, 0) != sizeof(begin) ||
	    head.kind != MSG_RELAY_BEGIN || nfds != 2)
		return 1;
	relay.owner = geteuid();
	relay.control = (struct source){CONTROL, ctl, 0};
	relay.caller = (struct source){CALLER, fds[0], 0};
	relay.machine = (struct source){MACHINE_END, fds[1], 0};
	relay.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (relay.epoll < 0 || confine(begin.id))
		return 1;
	source_watch(&relay.control, EPOLLIN);
	source_watch(&relay.caller, EPOLLIN);
	source_watch(&relay.machine, EPOLLIN);
	answer();
	loop();
	return 0;
}
