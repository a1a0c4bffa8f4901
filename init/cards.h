/* What cards.c and cards_six.c share. */
#pragma once

#include <stddef.h>

struct run;

/* This process in the machine's network namespace (-: that of the plan's own child): a descriptor of the one it was in,
 * which card_leave() goes back to. -errno. */
int card_enter(struct run *run, const char *target);
int card_leave(int own, int err);

/* The way out of a link of this namespace, to an IPv6 gateway. */
int route_six(const char *name, const char *gateway);

/* A request of rtnetlink, and the answer to it: its -errno. */
int tell_links(int sock, const void *ask, size_t size);
