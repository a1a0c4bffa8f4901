/*
 * Ops of the jail that holds a virtual machine's QEMU: the emulator itself, and the process that stands in for one in
 * the guest. It has that one's streams and terminal, gets its signals and ends as it does, so a monitor need not know
 * where its machine runs.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "guest.h"
#include "ops.h"

#define PASSED	    3	/* the first number that a program finds its descriptors at */
#define END_SIGNAL  64	/* stands for SIGKILL, which cannot be passed on */
#define HALT_SIGNAL 63	/* for SIGSTOP */
#define KEPT	    600 /* above whatever the monitor has open */
#define CONSOLE_MAX (64 << 10)

static int passed[FDS_MAX];
static size_t passed_count;

int op_pass(struct run *run, const struct op *op)
{
	passed_count = 0;
	for (int i = 0; i < op->argc; i++)
		passed[passed_count++] = word_fd(run, op->argv[i]);
	return 0;
}

/* Above every number that is to be taken, so that none is overwritten before it was moved. */
static int pass_on(void)
{
	int high = PASSED + (int)passed_count;

	for (size_t i = 0; i < passed_count; i++)
		if ((passed[i] = fcntl(passed[i], F_DUPFD_CLOEXEC, high)) < 0)
			return -errno;
	for (size_t i = 0; i < passed_count; i++)
		if (dup2(passed[i], PASSED + (int)i) < 0)
			return -errno;
	return syscall(SYS_close_range, (unsigned)high, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */) ? -errno : 0;
}

/* Nothing to read and nobody's output: what it has to say goes where the plan says. */
static int quiet(int messages)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(messages, 2) < 0)
		return -errno;
	return 0;
}

static void spawned(char **argv, int messages, int tell) __attribute__((noreturn));
static void spawned(char **argv, int messages, int tell)
{
	static char *const EMPTY[] = {NULL};
	sigset_t none;
	int err;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!(err = quiet(messages)) && !(err = pass_on())) {
		execve(argv[0], argv, EMPTY);
		err = -errno;
	}
	write_all(tell, &err, sizeof(err));
	_exit(127);
}

int op_spawn(struct run *run, const struct op *op)
{
	int tell[2], err = 0;
	pid_t pid;

	if (pipe2(tell, O_CLOEXEC))
		return -errno;
	/* The pipe must not be where the program's own descriptors go. */
	int up = fcntl(tell[1], F_DUPFD_CLOEXEC, PASSED + FDS_MAX);
	close(tell[1]);
	pid = up < 0 ? -1 : fork();
	if (!pid)
		spawned(op->argv + 1, word_fd(run, op->argv[0]), up);
	err = pid < 0 ? -errno : 0;
	if (up >= 0)
		close(up);
	if (!err && read(tell[0], &err, sizeof(err)) != sizeof(err))
		err = 0;
	close(tell[0]);
	passed_count = 0;
	return err ? fault(run, err, op->argv[1]) : 0;
}

/* ---- the stand-in ---- */

struct stand_in {
	struct run *run;
	struct pump pump;
	int signals, end;
	bool tty, started;
	const char *plan;
	size_t sent, len;
	struct guest_run guest;
	uint32_t flags;
	char data[FRAME_MAX];
};

static int plan_map(struct stand_in *s, int fd)
{
	struct stat st;

	if (fstat(fd, &st) || st.st_size < (off_t)sizeof(s->guest))
		return -EPROTO;
	s->len = (size_t)st.st_size;
	s->plan = mmap(NULL, s->len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (s->plan == MAP_FAILED)
		return -errno;
	memcpy(&s->guest, s->plan, sizeof(s->guest));
	s->sent = sizeof(s->guest);
	return 0;
}

/* As much of the plan as the window takes; then the word to run it. */
static int plan_send(struct stand_in *s)
{
	int err = 0;

	while (!err && s->plan && s->pump.room > 0) {
		size_t n = s->len - s->sent < FRAME_MAX ? s->len - s->sent : FRAME_MAX;
		if (n && !(err = pump_say(&s->pump, MSG_PLAN, 0, s->plan + s->sent, n)))
			s->pump.room--;
		s->sent += n;
		if (err || s->sent < s->len)
			continue;
		munmap((void *)s->plan, s->len);
		s->plan = NULL;
		err = pump_say(&s->pump, s->flags & RUN_ADOPT ? MSG_ADOPT : MSG_RUN, (int32_t)s->flags, &s->guest,
			       sizeof(s->guest));
	}
	return err;
}

/* The guest has its program: what the launcher waits for is the same as after an execve. */
static int standing(struct stand_in *s)
{
	int sync = s->run->sync[1], err = msg_send(sync, SYNC_EXEC, 0, NULL, 0, NULL, 0);

	close(sync);
	s->run->sync[1] = -1;
	s->started = true;
	s->pump.in[0].fd = s->flags & RUN_STDIN || s->tty ? 0 : -1;
	s->pump.in[0].kind = MSG_INPUT;
	return err;
}

static void finish(struct stand_in *s, const struct msg *head) __attribute__((noreturn));
static void finish(struct stand_in *s, const struct msg *head)
{
	if (s->end >= 0 && head->len == sizeof(struct guest_exit))
		write_all(s->end, s->data, head->len);
	pump_flush(&s->pump);
	_exit(head->value & 255);
}

static int heard(struct stand_in *s, const struct msg *head)
{
	if (head->kind == MSG_STARTED && !s->started) {
		uint32_t waiting = 0;
		if (head->len == sizeof(waiting))
			memcpy(&waiting, s->data, sizeof(waiting));
		pump_flush(&s->pump);
		s->pump.adopting = false;
		s->pump.room -= waiting < WINDOW ? (int)waiting : WINDOW;
		return standing(s);
	}
	if (head->kind == MSG_FAILED && !s->started && head->len == sizeof(s->run->report)) {
		memcpy(&s->run->report, s->data, head->len);
		s->run->report.side = (s->run->report.side & 1) + GUEST_SIDE;
		s->run->report.detail[sizeof(s->run->report.detail) - 1] = 0;
		return s->run->report.err > 0 && s->run->report.err < 4096 ? -s->run->report.err : -EPROTO;
	}
	if (head->kind == MSG_EXITED && s->started)
		finish(s, head);
	return -EPROTO;
}

/* A reader that has gone: nothing that anybody sent. */
static bool own_fault(const struct signalfd_siginfo *info)
{
	return info->ssi_signo == SIGPIPE && info->ssi_pid == (uint32_t)getpid();
}

static int signalled(struct stand_in *s)
{
	struct signalfd_siginfo info;
	struct winsize size;

	if (read(s->signals, &info, sizeof(info)) != sizeof(info))
		return 0;
	if (info.ssi_signo == SIGWINCH && s->tty) {
		if (ioctl(0, TIOCGWINSZ, &size))
			return 0;
		struct resize now = {size.ws_row, size.ws_col};
		return pump_say(&s->pump, MSG_RESIZE, 0, &now, sizeof(now));
	}
	if (info.ssi_signo == SIGCHLD || own_fault(&info) || !s->started)
		return 0;
	/* SIGKILL itself would end the emulator, with all that the guest has not yet written to its disk. */
	int sig = info.ssi_signo == END_SIGNAL	  ? SIGKILL
		  : info.ssi_signo == HALT_SIGNAL ? SIGSTOP
						  : (int)info.ssi_signo;
	return pump_say(&s->pump, MSG_SIGNAL, sig, NULL, 0);
}

/* Bytes as they are: the terminal's rules are kept by the one in the guest. */
static void terminal_raw(struct stand_in *s)
{
	struct termios mode;
	struct winsize size;

	s->tty = !tcgetattr(0, &mode);
	if (!s->tty)
		return;
	mode.c_iflag = IGNBRK;
	mode.c_oflag = 0;
	mode.c_lflag = 0;
	mode.c_cflag |= CS8;
	mode.c_cc[VMIN] = 1;
	mode.c_cc[VTIME] = 0;
	tcsetattr(0, TCSANOW, &mode);
	s->flags |= RUN_TTY;
	if (!ioctl(0, TIOCGWINSZ, &size)) {
		s->guest.rows = size.ws_row;
		s->guest.cols = size.ws_col;
	}
}

/* Every signal is the guest's; a blocked one is queued even for a PID 1. */
static int signals_open(void)
{
	sigset_t all;

	sigfillset(&all);
	for (const int *sig = (const int[]){SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGABRT, 0}; *sig; sig++)
		sigdelset(&all, *sig);
	sigprocmask(SIG_SETMASK, &all, NULL);
	return signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int stand_in(struct run *run, int conn, int plan, int end, uint32_t flags)
{
	static struct stand_in s;
	struct pollfd signals;
	struct msg head;
	int err;

	s.run = run;
	s.end = end;
	s.flags = flags;
	pump_init(&s.pump, conn);
	s.signals = signals_open();
	if ((err = plan_map(&s, plan)))
		return err;
	s.pump.adopting = flags & RUN_ADOPT;
	terminal_raw(&s);
	for (int i = 0; i < 3; i++)
		fcntl(i, F_SETFL, O_RDWR | O_NONBLOCK);
	s.pump.out[0].fd = 1;
	s.pump.out[1].fd = 2;
	signals = (struct pollfd){.fd = s.signals, .events = POLLIN};
	while (!err && !(err = plan_send(&s))) {
		err = pump_turn(&s.pump, &signals, 1, -1, &head, s.data);
		if (!err && signals.revents)
			err = signalled(&s);
		if (err == 1)
			err = heard(&s, &head);
	}
	if (s.started) { /* the guest is gone, or lies: there is nobody left to say more */
		fcntl(conn, F_SETFL, O_RDWR | O_NONBLOCK);
		pump_say(&s.pump, MSG_CLOSE, err, NULL, 0);
		_exit(137);
	}
	if (!run->report.err)
		run->report.err = -err;
	return err;
}

/* ---- its hub ---- */

/* What the guest's kernel prints, up to a size: it is read when a guest ended badly. */
static void console(struct pollfd *from, int to)
{
	char data[4096];
	static size_t kept;
	ssize_t n = from->fd < 0 || !from->revents ? -1 : read(from->fd, data, sizeof(data));

	if (from->fd < 0 || !from->revents)
		return;
	if (!n || (n < 0 && errno != EAGAIN)) {
		close(from->fd);
		from->fd = -1;
	}
	if (n > 0 && kept < CONSOLE_MAX) {
		kept += (size_t)n;
		write_all(to, data, (size_t)n);
	}
}

/* What the monitor sends to its child is meant for the one that stands in; a size comes to both by the terminal. */
static void forward(int signals, pid_t child)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo != SIGCHLD && info.ssi_signo != SIGWINCH && !own_fault(&info))
			kill(child, (int)info.ssi_signo);
}

static struct mux mux;

/* The first process of the jail: it ends as the one that stands in does, and the emulator with it. */
static void hub(int from, int to, int signals, pid_t child) __attribute__((noreturn));
static void hub(int from, int to, int signals, pid_t child)
{
	struct pollfd extra[2] = {{.fd = signals, .events = POLLIN}, {.fd = from, .events = POLLIN}};
	int err = 0;

	prctl(PR_SET_NAME, "cove-guest");
	fcntl(from, F_SETFL, O_RDONLY | O_NONBLOCK);
	while (!err) {
		err = mux_turn(&mux, extra, extra[1].fd < 0 ? 1 : 2);
		console(&extra[1], to);
		if (extra[0].revents) { /* seen together with what it said last, which was read */
			forward(extra[0].fd, child);
			reap(child);
		}
	}
	/* Without a guest every channel ends; whoever stands in for a process there sees it, and ends. */
	mux_close(&mux, err);
	while (extra[1].fd >= 0 && poll(&extra[1], 1, 100) > 0)
		console(&extra[1], to);
	for (;;) {
		reap(child);
		poll(extra, 1, -1);
		forward(extra[0].fd, child);
	}
}

/* A monitor's own ends of the pipes, above all, must not be held open by those at the other end. The words' descriptors
   stay, and the socket to the launcher; the numbers are new. */
static int keep_only(struct run *run, const struct op *op, int *fd, int count)
{
	fd[count] = run->sync[1];
	for (int i = 0; i <= count; i++) {
		int from = i < count ? word_fd(run, op->argv[i]) : fd[count];
		if ((fd[i] = fcntl(from, F_DUPFD_CLOEXEC, KEPT)) < 0)
			return -errno;
	}
	run->sync[1] = fd[count];
	run->regs.count = 0;
	if (syscall(SYS_close_range, 3u, KEPT - 1u, 0u) ||
	    syscall(SYS_close_range, (unsigned)(KEPT + count + 1), ~0u, 0u))
		return -errno;
	return 0;
}

int op_guest(struct run *run, const struct op *op)
{
	int pair[2], fd[7], err = keep_only(run, op, fd, 6), signals;
	pid_t child;

	if (err)
		return err;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	mux_init(&mux, fd[0], fd[1]);
	mux.log = fd[4];
	if ((err = mux_add(&mux, pair[1], ++mux.last)))
		return err;
	signals = signals_open(); /* before there is a child whose end could be missed */
	child = fork();
	if (child < 0)
		return -errno;
	if (child) {
		close(run->sync[1]); /* its end of file is how the launcher knows that the guest's program runs */
		for (int i = 0; i < 3; i++)
			close(i);
		close(pair[0]);
		hub(fd[3], fd[4], signals, child);
	}
	close(fd[0]);
	close(fd[1]);
	close(fd[3]);
	close(signals);
	close(pair[1]);
	return stand_in(run, pair[0], fd[2], fd[5], (uint32_t)word_u(op->argv[6]) | RUN_MACHINE);
}

int op_guest_exec(struct run *run, const struct op *op)
{
	int fd[3], err = keep_only(run, op, fd, 2);

	return err ? err : stand_in(run, fd[0], fd[1], -1, (uint32_t)word_u(op->argv[2]));
}
