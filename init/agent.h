/* Between the agent and the processes that carry its channels. */
#pragma once

#include "guest.h"

/* The first program of the machine as the agent sees it, 0 while there is none, and the process that carries its
   channel; shared by the agent's processes. */
extern volatile pid_t *machine_pid;

/* One channel: takes a plan, runs it, carries the streams, tells the end. */
void channel_main(int conn) __attribute__((noreturn));

/* One channel: who connects next to a socket of the machine's, and what he says. guest_socket.c */
void accept_main(int conn) __attribute__((noreturn));
