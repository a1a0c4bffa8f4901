/*
 * IPv6 of a guest's cards. An address is there at once: the rules outside let nobody have another one's, so nobody is
 * asked whether it is taken (no DAD), and nobody on the link is believed to be a router.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cards.h"
#include "ops.h"

/* linux/ipv6.h has it, which not every C library's headers stand beside. */
struct six_address {
	struct in6_addr address;
	uint32_t bits;
	int link;
};

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

/* ioctl(2) of IPv6; `request` has the number of the link already. */
static int ask_six(unsigned long what, void *request)
{
	int sock = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), err;

	if (sock < 0)
		return -errno;
	err = ioctl(sock, what, request) ? -errno : 0;
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
	return ask_six(SIOCADDRT, &route);
}

/* Words: machine, name, address, bits. */
int op_card_six(struct run *run, const struct op *op)
{
	struct six_address own = {.bits = (uint32_t)word_u(op->argv[3])};
	int back = card_enter(run, op->argv[0]), err = 0;

	if (back < 0)
		return back;
	for (size_t i = 0; !err && i < sizeof(switches) / sizeof(switches[0]); i++)
		err = set_switch(op->argv[1], switches[i][0], switches[i][1]);
	own.link = (int)if_nametoindex(op->argv[1]);
	if (!err && inet_pton(AF_INET6, op->argv[2], &own.address) != 1)
		err = -EINVAL;
	if (!err)
		err = ask_six(SIOCSIFADDR, &own);
	err = card_leave(back, err);
	return err ? fault(run, err, op->argv[1]) : 0;
}
