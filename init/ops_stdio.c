/* Ops of the machine's standard streams: the monitor's pipes, or a terminal of the machine's own devpts. */
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ops.h"

int own_stdio;

/* A copy above the three it is to replace. */
static int above(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	return copy < 0 ? -errno : copy;
}

static int place(const int fds[3])
{
	for (int i = 0; i < 3; i++)
		if (dup2(fds[i], i) < 0)
			return -errno;
	own_stdio = 1;
	return 0;
}

/* The machine's own, which a hostile one may have replaced: not to wait for a FIFO, and to be sure what it is. */
static int open_null(void)
{
	int fd = open_in(AT_FDCWD, "/dev/null", O_RDWR | O_NONBLOCK | O_NOCTTY, RESOLVE_NO_SYMLINKS), err;

	if (fd < 0)
		return fd;
	if ((err = check_chr(fd, 1, 3)) || fcntl(fd, F_SETFL, O_RDWR)) {
		close(fd);
		return err ? err : -errno;
	}
	return fd;
}

int op_stdio(struct run *run, const struct op *op)
{
	static const char *const NAMES[] = {"stdin", "stdout", "stderr"};
	int fds[3], err = 0;

	(void)op;
	for (int i = 0; i < 3; i++) {
		int fd = reg_get(&run->regs, NAMES[i]);
		fds[i] = fd < 0 && i == 0 ? open_null() : above(fd);
		if (fds[i] < 0)
			return fault(run, fds[i], fd < 0 && i == 0 ? "/dev/null" : NAMES[i]);
	}
	err = place(fds);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	return err;
}

static int open_master(struct run *run, const char *dir)
{
	int pts = open_in(AT_FDCWD, dir, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS), err, unlock = 0;

	if (pts < 0)
		return fault(run, pts, dir);
	int master = (err = check_fs(pts, DEVPTS_SUPER_MAGIC))
			     ? err
			     : open_in(pts, "ptmx", O_RDWR | O_NOCTTY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
	close(pts);
	if (master < 0)
		return fault(run, master, dir);
	if ((err = check_chr(master, 5, 2)) || ioctl(master, TIOCSPTLCK, &unlock)) {
		err = err ? err : -errno;
		close(master);
		return fault(run, err, dir);
	}
	return master;
}

int op_openpty(struct run *run, const struct op *op)
{
	struct winsize size = {.ws_row = (unsigned short)word_u(op->argv[1]),
			       .ws_col = (unsigned short)word_u(op->argv[2])};
	int master = open_master(run, op->argv[0]), err = 0;

	if (master < 0)
		return master;
	/* By the master, not by name: nobody can put another device in between. */
	int terminal = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (terminal < 0 || ioctl(terminal, TIOCSWINSZ, &size) || ioctl(terminal, TIOCSCTTY, 0))
		err = -errno;
	if (!err)
		err = place((int[3]){terminal, terminal, terminal});
	if (!err)
		err = msg_send(run->sync[1], SYNC_PTY, 0, NULL, 0, &master, 1);
	if (terminal > 2)
		close(terminal);
	close(master);
	return err;
}
