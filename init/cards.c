/*
 * Ops of a guest's cards. A card that the machine does not have is in the guest's own network namespace, where it is
 * known by the address that its emulator gave it.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cards.h"
#include "ops.h"

#define LINKS_MAX 256

static int own_namespace(void)
{
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* This process in the machine's network namespace, and a descriptor of the one it was in. */
int card_enter(struct run *run, const char *target)
{
	char path[64];
	int own = own_namespace(), to = word_fd(run, target), err = 0;

	if (own < 0)
		return own;
	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)run->child);
	int child = to < 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (setns(to < 0 ? child : to, CLONE_NEWNET))
		err = -errno;
	if (child >= 0)
		close(child);
	if (!err)
		return own;
	close(own);
	return err;
}

int card_leave(int own, int err)
{
	if (setns(own, CLONE_NEWNET) && !err)
		err = -errno;
	close(own);
	return err;
}

static void set_mac(struct sockaddr *to, const char *word)
{
	uint64_t mac = word_x(word);

	to->sa_family = ARPHRD_ETHER;
	for (int i = 0; i < 6; i++)
		to->sa_data[i] = (char)(mac >> (40 - 8 * i));
}

static int set_address(struct sockaddr *to, const char *word)
{
	struct sockaddr_in address = {.sin_family = AF_INET};

	if (*word && inet_pton(AF_INET, word, &address.sin_addr) != 1)
		return -EINVAL;
	memcpy(to, &address, sizeof(address));
	return 0;
}

/* The index of the link with this address; 0: there is none here. */
static int find_card(int sock, const char *mac)
{
	struct sockaddr want = {0};

	set_mac(&want, mac);
	for (int index = 1; index < LINKS_MAX; index++) {
		struct ifreq req = {.ifr_ifindex = index};
		if (!ioctl(sock, SIOCGIFNAME, &req) && !ioctl(sock, SIOCGIFHWADDR, &req) &&
		    !memcmp(req.ifr_hwaddr.sa_data, want.sa_data, 6))
			return index;
	}
	return 0;
}

int tell_links(int sock, const void *ask, size_t size)
{
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
	} said;

	if (send(sock, ask, size, 0) < 0 || recv(sock, &said, sizeof(said), 0) < 0)
		return -errno;
	return said.head.nlmsg_type == NLMSG_ERROR ? said.error.error : -EPROTO;
}

/* Into another network namespace, under this name; on the way it goes down and loses its addresses. */
static int move(int sock, int index, int ns, const char *name)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg link;
		struct nlattr to;
		int32_t ns;
		struct nlattr as;
		char name[IFNAMSIZ];
	} ask = {
		.head = {.nlmsg_len = sizeof(ask), .nlmsg_type = RTM_NEWLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
		.link = {.ifi_index = index},
		.to = {.nla_len = sizeof(ask.to) + sizeof(ask.ns), .nla_type = IFLA_NET_NS_FD},
		.ns = ns,
		.as = {.nla_len = sizeof(ask.as) + sizeof(ask.name), .nla_type = IFLA_IFNAME},
	};

	strcpy(ask.name, name);
	return tell_links(sock, &ask, sizeof(ask));
}

static int set_up(int sock, struct ifreq *req, short up)
{
	if (ioctl(sock, SIOCGIFFLAGS, req))
		return -errno;
	req->ifr_flags = (short)((req->ifr_flags & ~IFF_UP) | up);
	return ioctl(sock, SIOCSIFFLAGS, req) ? -errno : 0;
}

static int add_route(int sock, char *name, const char *gateway)
{
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = name};
	int err = 0;

	set_address(&route.rt_dst, "");
	set_address(&route.rt_genmask, "");
	if ((err = set_address(&route.rt_gateway, gateway)))
		return err;
	return ioctl(sock, SIOCADDRT, &route) ? -errno : 0;
}

/* Words of the plan: name, hardware address, address, mask, gateway or nothing. What it had before is gone. */
static int configure(char *const *word)
{
	struct ifreq req = {0};
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), err;

	if (sock < 0)
		return -errno;
	strcpy(req.ifr_name, word[0]);
	err = set_up(sock, &req, 0);
	set_mac(&req.ifr_hwaddr, word[1]);
	if (!err && ioctl(sock, SIOCSIFHWADDR, &req))
		err = -errno;
	if (!err && !(err = set_address(&req.ifr_addr, word[2])) && ioctl(sock, SIOCSIFADDR, &req))
		err = -errno;
	if (!err && !(err = set_address(&req.ifr_netmask, word[3])) && ioctl(sock, SIOCSIFNETMASK, &req))
		err = -errno;
	if (!err)
		err = set_up(sock, &req, IFF_UP);
	if (!err && *word[4])
		err = add_route(sock, word[0], word[4]);
	close(sock);
	return err;
}

/* A socket by which links of this namespace are moved, and one to ask of them. */
static int sockets(int sock[2])
{
	sock[0] = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	sock[1] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return sock[0] < 0 || sock[1] < 0 ? -errno : 0;
}

static int done_with(int sock[2], int err)
{
	close(sock[0]);
	close(sock[1]);
	return err;
}

/* Words: machine, card, name, and what configure() takes. One that the machine has already only changes. */
int op_card(struct run *run, const struct op *op)
{
	int sock[2], err = sockets(sock), own, ns = -1;

	if (err)
		return done_with(sock, err);
	int index = find_card(sock[1], op->argv[1]);
	if ((own = card_enter(run, op->argv[0])) < 0)
		return done_with(sock, own);
	if (index && (ns = own_namespace()) < 0)
		err = ns;
	else if (index)
		err = move(sock[0], index, ns, op->argv[2]);
	if (ns >= 0)
		close(ns);
	if (!err)
		err = configure(&op->argv[2]);
	err = card_leave(own, done_with(sock, err));
	return err ? fault(run, err, op->argv[2]) : 0;
}

/* Words: machine, card, name. One that is not there is nobody's to take: the machine's root may have renamed it. */
int op_card_back(struct run *run, const struct op *op)
{
	struct ifreq req = {0};
	int sock[2], own = card_enter(run, op->argv[0]), err;

	if (own < 0)
		return own;
	if ((err = sockets(sock)))
		return card_leave(own, done_with(sock, err));
	strcpy(req.ifr_name, op->argv[2]);
	if (!ioctl(sock[1], SIOCGIFINDEX, &req)) {
		int index = req.ifr_ifindex;
		if (!(err = set_up(sock[1], &req, 0))) {
			set_mac(&req.ifr_hwaddr, op->argv[1]);
			err = ioctl(sock[1], SIOCSIFHWADDR, &req) ? -errno : move(sock[0], index, own, "card%d");
		}
	}
	err = card_leave(own, done_with(sock, err));
	return err ? fault(run, err, op->argv[2]) : 0;
}

/* Words: machine, name, gateway. */
int op_card_route(struct run *run, const struct op *op)
{
	int own = card_enter(run, op->argv[0]), sock, err;

	if (own < 0)
		return own;
	if (strchr(op->argv[2], ':')) {
		err = route_six(op->argv[1], op->argv[2]);
	} else {
		sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		err = sock < 0 ? -errno : add_route(sock, op->argv[1], op->argv[2]);
		if (sock >= 0)
			close(sock);
	}
	err = card_leave(own, err);
	return err ? fault(run, err, op->argv[1]) : 0;
}
