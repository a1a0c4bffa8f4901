/*
 * The archiver's parts: archive.c chooses and shuts in, archive_tar.c writes a tar, archive_walk.c reads trees into
 * one, archive_layer.c reads a writable layer, archive_in.c unpacks. What it reads is hostile: a machine's own files,
 * which the machine changes meanwhile, or an archive of somebody's.
 */
#pragma once

#include "unpack.h"

/* ---- archive_tar.c: onto standard output ---- */

/* One entry, with what its header says. */
struct item {
	const char *name;
	const char *link; /* or "" */
	char type;	  /* as in ustar; 0: by the mode */
	const struct stat *st;
	int fd; /* for xattrs and data; -1: none */
};

int tar_entry(struct unpack *u, const struct item *item);
int tar_end(struct unpack *u);
int put(struct unpack *u, const void *data, size_t len);
int flush(struct unpack *u);

/* ---- archive_walk.c ---- */

/* The names in a directory, sorted, each ended by NUL; the caller frees names and index. */
struct names {
	char *text;
	const char **at;
	size_t count;
};
int read_names_of(struct unpack *u, int dir, struct names *names);
void free_names(struct names *names);

/* 1: the file was put into the archive before, under what is in `link`. */
int known_link(struct unpack *u, const struct stat *st, const char *name, const char **link);

/* What is no directory, as it is in `dir` by now; what went meanwhile, or is a socket, is left out. */
int put_one(struct unpack *u, int dir, const char *base, const char *name, bool follow);

/* A directory's own entry, with "/" after its name. */
int put_dir(struct unpack *u, int fd, const char *name, const struct stat *st);

/* The name of what is being read, kept in one place: trees are as deep as names are long. */
extern struct path {
	char text[PATH_MAX];
	size_t len;
} here;
int push(struct unpack *u, const char *base);
void pop(size_t len);
/* What a failure is about. */
void show(struct unpack *u, const char *name);
int open_dir_in(int dir, const char *base);

int archive_out(struct unpack *u, const char *from, const char *name, bool follow);
int archive_stat(struct unpack *u, const char *from);

/* ---- archive_layer.c: argv is PREFIX UPPER LOWER, repeated ---- */

int archive_diff(struct unpack *u, int argc, char **argv, bool with_signs);
int archive_layer(struct unpack *u, int argc, char **argv);

/* ---- archive_in.c ---- */

enum owner { ROOT, ARCHIVE, CALLER };

struct into {
	int base;     /* the directory */
	bool beneath; /* no symlink may lead out of it */
	bool special; /* set-user-ID bits and capabilities are kept */
	bool top;     /* the archive says what the directory itself is */
	enum owner owner;
};
int archive_in(struct unpack *u, const struct into *into);

int archive_run(int argc, char **argv);
