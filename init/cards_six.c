/*
 * IPv6 of a guest's cards. An address is there at once: the rules outside let nobody have another one's, so nobody is
 * asked whether it is taken (no DAD), and nobody on the link is believed to be a router.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cards.h"
#include "ops.h"

/* Off, and on again with other rules: what addresses it had before are gone. */
static const char *const switches[][2] = {
	{"disable_ipv6", "1"},	   {"accept_ra", "0"}, {"accept_dad", "0"},
	{"accept_redirects", "0"}, {"autoconf", "0"},  {"disable_ipv6", "0"},
};

/* Of this process's network namespace. */
static int set_switch(const char *link, const char *name, const char *value)
{
	char path[128];
	int fd, err = 0;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/%s", link, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -EAFNOSUPPORT : -errno;
	if (write(fd, value, 1) != 1)
		err = -errno;
	close(fd);
	return err;
}

/*
 * By rtnetlink, which can be told IFA_F_NODAD. Without it an address is tentative until a worker of the kernel's has
 * had its turn, even where nobody is asked whose it is, and nothing can be sent from it before.
 */
static int add_address(const char *name, const char *address, uint8_t bits)
{
	struct {
		struct nlmsghdr head;
		struct ifaddrmsg link;
		struct nlattr as;
		struct in6_addr own;
	} ask = {
		.head = {sizeof(ask), RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, 0, 0},
		.link = {AF_INET6, bits, IFA_F_NODAD, RT_SCOPE_UNIVERSE, if_nametoindex(name)},
		.as = {.nla_len = sizeof(ask.as) + sizeof(ask.own), .nla_type = IFA_LOCAL},
	};
	int sock, err;

	if (inet_pton(AF_INET6, address, &ask.own) != 1)
		return -EINVAL;
	if ((sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)) < 0)
		return -errno;
	err = tell_links(sock, &ask, sizeof(ask));
	close(sock);
	return err;
}

int route_six(const char *name, const char *gateway)
{
	struct in6_rtmsg route = {
		.rtmsg_flags = RTF_UP | RTF_GATEWAY, .rtmsg_metric = 1, .rtmsg_ifindex = (int)if_nametoindex(name)};

	if (!route.rtmsg_ifindex)
		return -ENODEV;
	if (inet_pton(AF_INET6, gateway, &route.rtmsg_gateway) != 1)
		return -EINVAL;
	int sock = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int err = sock < 0 || ioctl(sock, SIOCADDRT, &route) ? -errno : 0;
	if (sock >= 0)
		close(sock);
	return err;
}

/* Words: machine, name, address, bits. */
int op_card_six(struct run *run, const struct op *op)
{
	int back = card_enter(run, op->argv[0]), err = 0;

	if (back < 0)
		return back;
	for (size_t i = 0; !err && i < sizeof(switches) / sizeof(switches[0]); i++)
		err = set_switch(op->argv[1], switches[i][0], switches[i][1]);
	if (!err)
		err = add_address(op->argv[1], op->argv[2], (uint8_t)word_u(op->argv[3]));
	err = card_leave(back, err);
	return err ? fault(run, err, op->argv[1]) : 0;
}
