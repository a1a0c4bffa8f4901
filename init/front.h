/* What the files of the front share: reaching the daemon, the user's terminal, the detach keys in what is typed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "cove.h"
#include "session.h"

/* fd 0 as raw or as it was before. Both obey job control: raw in the background stops the process as a shell expects,
   restoring there is left out, because the shell has its own modes on the terminal by then. */
void terminal_raw(void);
void terminal_restore(void);
struct resize terminal_size(void);
bool terminal_background(void);

/* Ctrl-Z, typed or sent: gives the terminal back and stops until SIGCONT; where nobody could send that, goes on. */
void terminal_stop(void);

/* Restores the terminal and ends as a process ends that never caught the signal. */
void die_by(int signal) __attribute__((noreturn));

/* A description of our own of a terminal or pipe, so that it can be non-blocking without the caller's becoming so;
   the fd itself where that cannot be. */
int reopen(int fd, int flags);

#define KEYS_MAX 64

struct keys {
	unsigned char key[KEYS_MAX];
	size_t len, held; /* held: how many bytes of the sequence have come and wait for the next */
};

/* Copies what may go on to `to` (room for len + KEYS_MAX bytes). True: the sequence is complete. */
bool keys_filter(struct keys *keys, const unsigned char *from, size_t len, unsigned char *to, size_t *out);

/* Version and time of this build, in words. */
extern const char *const build_stamp;

/* One message; 0 or -errno. */
int post(int sock, struct msg head, const void *data, int flags, const int *fds, size_t nfds);

/* `--root DIR` and `--host URL` before the command say which daemon; the command line itself goes to it untouched. */
void obey_options(char **argv);
int open_daemon(void);
int send_request(int sock, char **argv, char *buffer); /* MSG_MAX bytes to build it in */

/* The same commands in Python, over HTTP; it starts a daemon where there is none. Returns only on error. */
int go_python(char **argv, const char *why);
