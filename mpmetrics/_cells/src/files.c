/* The file operations that a request may need: make a process's slab, claim its ordinal, grow it, read removals.

   Each function is atomic for the threads of the process: it keeps the GIL, so that no thread can fork while a
   descriptor is open here. It opens the directory again and checks that it is still the same. */

#include "cells.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Words of the shared page, as offsets from the generation: the successor of this epoch, and how often the list of
   removals was shortened. */
enum { SUCCESSOR = 1, SHORTENED = 2 };
enum { AUXILIARY = 900000000, MOST_REMOVALS = 1 << 24, EARLY = 64 };

static PyObject *fail(void) { return PyErr_SetFromErrno(PyExc_OSError); }

int directory_converter(PyObject *where, void *result)
{
    Directory *directory = result;
    if (where == NULL) {
        Py_CLEAR(directory->path);
        return 1;
    }
    if (!PyTuple_Check(where))
        PyErr_Format(PyExc_TypeError, "a directory must be its path, device, number and owner, not %R", where);
    else if (PyArg_ParseTuple(where, "O&KKk", PyUnicode_FSConverter, &directory->path, &directory->device,
                              &directory->number, &directory->owner))
        return Py_CLEANUP_SUPPORTED;
    return 0;
}

static int open_directory(const Directory *directory)
{
    struct stat status;
    int dir_fd = open(PyBytes_AS_STRING(directory->path), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir_fd >= 0 && fstat(dir_fd, &status) == 0 && status.st_dev == directory->device
        && status.st_ino == directory->number && status.st_uid == directory->owner)
        return dir_fd;
    if (dir_fd >= 0) {
        close(dir_fd);
        errno = ESTALE; /* another directory is in its place */
    }
    PyObject *path = PyUnicode_DecodeFSDefault(PyBytes_AS_STRING(directory->path));
    if (path != NULL)
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    Py_XDECREF(path);
    return -1;
}

static int open_and_look(int dir_fd, const char *name, int flags, struct stat *status)
{
    int file = openat(dir_fd, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (file >= 0 && (fstat(file, status) != 0 || !S_ISREG(status->st_mode))) {
        close(file);
        errno = EINVAL;
        return -1;
    }
    return file;
}

static int open_at(int dir_fd, const char *name, int flags)
{
    struct stat status;
    return open_and_look(dir_fd, name, flags, &status);
}

static int allocate(int file, size_t offset, size_t size)
{
    int error;
    while ((error = posix_fallocate(file, (off_t)offset, (off_t)size)) == EINTR)
        ;
    errno = error;
    return error == 0 ? 0 : -1;
}

/* ---- A new slab */

/* Lock the file, give it blocks and a head, and map it twice. `lease` holds the lock; children do not inherit it. */
static int fill_slab(int dir_fd, const char *name, int file, const Py_buffer *head, PyObject **lease, PyObject **words)
{
    if (flock(file, LOCK_EX | LOCK_NB) != 0 || allocate(file, 0, 2 * HEAD_SIZE) < 0
        || allocate(file, AREA_0, HEAD_SIZE) < 0 || pwrite(file, head->buf, (size_t)head->len, 0) != head->len) {
        fail();
        return -1;
    }
    /* Opened once more for the words: a child inherits their map, and a map of the locked open file would keep the lock
       after the owner's death. */
    int unlocked = open_at(dir_fd, name, O_RDWR);
    if (unlocked < 0) {
        fail();
        return -1;
    }
    PyObject *options = Py_BuildValue("{s:O}", "forked", Py_False), *write = Py_BuildValue("{s:O}", "write", Py_True);
    PyObject *first = Py_BuildValue("(in)", file, (Py_ssize_t)HEAD_SIZE);
    PyObject *second = Py_BuildValue("(in)", unlocked, (Py_ssize_t)SLAB_SIZE);
    if (options != NULL && write != NULL && first != NULL && second != NULL) {
        *lease = PyObject_Call((PyObject *)&Map_Type, first, options);
        *words = *lease == NULL ? NULL : PyObject_Call((PyObject *)&Map_Type, second, write);
    }
    Py_XDECREF(options);
    Py_XDECREF(write);
    Py_XDECREF(first);
    Py_XDECREF(second);
    close(unlocked);
    if (*words == NULL)
        return -1;
    /* Fault the first pages in now: on a disk, each fault costs as much as the rest of a first use. An older kernel
       refuses the advice and faults them in at the first use. */
    Py_buffer view;
    if (PyObject_GetBuffer(*words, &view, PyBUF_WRITABLE) < 0)
        return -1;
    madvise(view.buf, 2 * HEAD_SIZE, MADV_POPULATE_WRITE);
    PyBuffer_Release(&view);
    return 0;
}

PyObject *make_slab(PyObject *Py_UNUSED(module), PyObject *args)
{
    Directory directory = {0};
    const char *identity;
    unsigned int mode;
    Py_buffer head;
    if (!PyArg_ParseTuple(args, "O&sIy*:make_slab", directory_converter, &directory, &identity, &mode, &head))
        return NULL;
    char temporary[NAME_ROOM], name[NAME_ROOM];
    snprintf(temporary, sizeof temporary, "new-slab-%.32s", identity);
    snprintf(name, sizeof name, "idle-%.32s", identity);
    PyObject *lease = NULL, *words = NULL, *result = NULL;
    struct stat status;
    int dir_fd = open_directory(&directory);
    int file = dir_fd < 0 ? -1 : open_at(dir_fd, temporary, O_RDWR | O_CREAT | O_EXCL);
    if (dir_fd >= 0 && (file < 0 || fchmod(file, (mode_t)mode) != 0 || fstat(file, &status) != 0))
        fail();
    else if (dir_fd >= 0 && fill_slab(dir_fd, temporary, file, &head, &lease, &words) == 0) {
        /* The commit: from here on readers find the slab, complete and locked. */
        if (linkat(dir_fd, temporary, dir_fd, name, 0) != 0)
            fail();
        else
            result = Py_BuildValue("OOK", lease, words, (unsigned long long)status.st_ino);
    }
    if (file >= 0) {
        unlinkat(dir_fd, temporary, 0);
        close(file);
    }
    if (dir_fd >= 0)
        close(dir_fd);
    Py_XDECREF(lease);
    Py_XDECREF(words);
    Py_DECREF(directory.path);
    PyBuffer_Release(&head);
    return result;
}

/* ---- Ordinals */

typedef struct {
    unsigned long *items;
    size_t count, room;
} Numbers;

static int add_number(Numbers *numbers, unsigned long number)
{
    if (numbers->count == numbers->room) {
        size_t room = numbers->room == 0 ? 64 : 2 * numbers->room;
        unsigned long *items = PyMem_Realloc(numbers->items, room * sizeof *items);
        if (items == NULL)
            return -1;
        numbers->items = items;
        numbers->room = room;
    }
    numbers->items[numbers->count++] = number;
    return 0;
}

static int has_number(const Numbers *numbers, unsigned long number)
{
    for (size_t at = 0; at < numbers->count; at++)
        if (numbers->items[at] == number)
            return 1;
    return 0;
}

/* The ordinals from `lowest` to `end` that have a slab; -1 with an exception. */
static int list_ordinals(int dir_fd, unsigned long lowest, unsigned long end, Numbers *numbers)
{
    int copy = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = copy < 0 ? NULL : fdopendir(copy);
    if (listing == NULL) {
        fail();
        if (copy >= 0)
            close(copy);
        return -1;
    }
    int failed = 0;
    for (struct dirent *entry; !failed && (entry = readdir(listing)) != NULL;) {
        char *after;
        if (strncmp(entry->d_name, "slab-", 5) != 0 || !isdigit((unsigned char)entry->d_name[5]))
            continue;
        unsigned long number = strtoul(entry->d_name + 5, &after, 10);
        if (*after == '\0' && number >= lowest && number < end)
            failed = add_number(numbers, number) < 0;
    }
    closedir(listing);
    if (failed)
        PyErr_NoMemory();
    return failed ? -1 : 0;
}

/* Rename the slab of this ordinal if its owner is dead, which frees the ordinal; whether it is free. The caller has
   locked the directory, so no other process renames slabs between the check and the rename. */
static int set_dead_aside(int dir_fd, unsigned long ordinal)
{
    char name[NAME_ROOM], aside[NAME_ROOM];
    struct stat status;
    snprintf(name, sizeof name, "slab-%lu", ordinal);
    int file = open_and_look(dir_fd, name, O_RDONLY, &status);
    if (file < 0)
        return errno == ENOENT;
    snprintf(aside, sizeof aside, "dead-%lu-%llu", ordinal, (unsigned long long)status.st_ino);
    int is_dead = flock(file, LOCK_SH | LOCK_NB) == 0 && renameat(dir_fd, name, dir_fd, aside) == 0;
    close(file);
    return is_dead;
}

static int link_to(const Slab *self, int dir_fd, unsigned long ordinal, char *name)
{
    snprintf(name, NAME_ROOM, "slab-%lu", ordinal);
    /* The claim: no other process can link to this name now. */
    return linkat(dir_fd, self->file, dir_fd, name, 0) == 0;
}

/* Try the first ordinals one by one, those of dead processes included. 0: all are taken, or an error in `errno`.
   The directory stays locked until `dir_fd` is closed. */
static int claim_early(const Slab *self, int dir_fd, unsigned long *ordinal, char *name)
{
    int is_claimed = 0, is_locked = 0, error = EEXIST;
    for (*ordinal = 0; !is_claimed && error == EEXIST && *ordinal < EARLY; *ordinal += !is_claimed) {
        is_claimed = link_to(self, dir_fd, *ordinal, name);
        error = errno;
        if (is_claimed || error != EEXIST || !self->sets_aside)
            continue;
        if (*ordinal == 0)
            is_locked = flock(dir_fd, LOCK_EX | LOCK_NB) == 0;
        if (is_locked && set_dead_aside(dir_fd, *ordinal)) {
            is_claimed = link_to(self, dir_fd, *ordinal, name);
            error = errno;
        }
    }
    errno = error;
    return is_claimed;
}

/* Claim the smallest ordinal that no slab has. */
static int claim_free(const Slab *self, int dir_fd, unsigned long *ordinal, char *name)
{
    Numbers taken = {0};
    int is_claimed = 0;
    if (list_ordinals(dir_fd, *ordinal, *ordinal < AUXILIARY ? AUXILIARY : ULONG_MAX, &taken) == 0) {
        do {
            while (has_number(&taken, *ordinal))
                ++*ordinal;
            is_claimed = link_to(self, dir_fd, *ordinal, name);
        } while (!is_claimed && errno == EEXIST && ++*ordinal);
        if (!is_claimed)
            fail();
    }
    PyMem_Free(taken.items);
    return is_claimed;
}

int slab_claim(Slab *self)
{
    if (self->where.path == NULL || self->ordinal >= 0)
        return 0;
    char name[NAME_ROOM];
    unsigned long ordinal = self->lowest;
    int dir_fd = open_directory(&self->where), is_claimed = 0;
    if (dir_fd < 0)
        return -1;
    if (ordinal == 0)
        is_claimed = claim_early(self, dir_fd, &ordinal, name);
    if (!is_claimed && ordinal > 0 && ordinal < EARLY)
        fail();
    else if (!is_claimed)
        is_claimed = claim_free(self, dir_fd, &ordinal, name);
    if (is_claimed) {
        unlinkat(dir_fd, self->file, 0); /* fails if a cleaner has removed it */
        memcpy(self->file, name, sizeof name);
        self->ordinal = (long)ordinal;
    }
    close(dir_fd);
    return is_claimed ? 0 : -1;
}

/* ---- Growth */

/* Allocate blocks for these bytes of the slab's file; a slab in memory needs none. */
static int have_blocks(const Slab *self, size_t offset, size_t size)
{
    if (self->where.path == NULL || size == 0)
        return 0;
    struct stat status;
    int dir_fd = open_directory(&self->where), is_done = 0;
    int file = dir_fd < 0 ? -1 : open_at(dir_fd, self->file, O_RDWR);
    if (file >= 0 && fstat(file, &status) == 0 && status.st_ino != self->number)
        errno = ESTALE; /* another file has the slab's name */
    else if (file >= 0)
        is_done = allocate(file, offset, size) == 0;
    if (!is_done && dir_fd >= 0)
        fail();
    if (file >= 0)
        close(file);
    if (dir_fd >= 0)
        close(dir_fd);
    return is_done ? 0 : -1;
}

/* By how much to extend words, or an area, from `start` to `end`. */
static size_t growth(size_t start, size_t end)
{
    size_t size = end - start < MAX_GROWTH ? end - start : MAX_GROWTH;
    return size < HEAD_SIZE ? HEAD_SIZE : size;
}

/* Extend the words or the area of records. The head's word tells readers how many bytes have blocks. */
static int grow_part(Slab *self, size_t word, size_t base, size_t start, size_t limit)
{
    size_t end = slab_head_word(self, word), more = growth(start, end);
    if (end + more > limit)
        return 0;
    if (have_blocks(self, base + end, more) < 0)
        return -1;
    slab_put_head_word(self, word, end + more);
    return 1;
}

int slab_grow(Slab *self, size_t words, size_t bytes)
{
    int step = 1;
    if (slab_needs_flip(self)) {
        size_t other = 1 - self->area, room = slab_head_word(self, ROOM + self->area);
        if (have_blocks(self, AREA_0 + other * AREA_SIZE, room) < 0)
            return -1;
        slab_put_head_word(self, ROOM + other, room);
        slab_do_flip(self);
    }
    while (step > 0 && !slab_has_room(self, words, 0))
        step = grow_part(self, WORDS_END, 0, HEAD_SIZE, AREA_0);
    while (step > 0 && !slab_has_room(self, 0, bytes))
        step = grow_part(self, ROOM + self->area, AREA_0 + self->area * AREA_SIZE, 0, AREA_SIZE);
    return step;
}

/* ---- Removals */

/* What `removals` holds from `position` on; all of it if its inode number is not `number`. Sets both. */
static PyObject *tail(const Directory *directory, const char *name, uint64_t *number, Py_ssize_t *position,
                      Py_ssize_t most)
{
    struct stat status;
    PyObject *data = NULL;
    int dir_fd = open_directory(directory);
    int file = dir_fd < 0 ? -1 : open_at(dir_fd, name, O_RDONLY);
    if (file >= 0 && fstat(file, &status) == 0) {
        *position = status.st_ino == *number ? *position : 0;
        *number = status.st_ino;
        Py_ssize_t size = status.st_size < most ? (Py_ssize_t)status.st_size : most;
        data = PyBytes_FromStringAndSize(NULL, size > *position ? size - *position : 0);
        ssize_t got = data == NULL
            ? -1
            : pread(file, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), (off_t)*position);
        if (got >= 0)
            _PyBytes_Resize(&data, got);
        else if (data != NULL)
            Py_CLEAR(data);
    }
    if (data == NULL && dir_fd >= 0 && !PyErr_Occurred())
        fail();
    if (file >= 0)
        close(file);
    if (dir_fd >= 0)
        close(dir_fd);
    return data;
}

PyObject *read_tail(PyObject *Py_UNUSED(module), PyObject *args)
{
    Directory directory = {0};
    const char *name;
    unsigned long long given;
    Py_ssize_t position, most;
    if (!PyArg_ParseTuple(args, "O&sKnn:read_tail", directory_converter, &directory, &name, &given, &position, &most))
        return NULL;
    uint64_t number = given;
    PyObject *data = tail(&directory, name, &number, &position, most);
    Py_DECREF(directory.path);
    return data == NULL ? NULL : Py_BuildValue("KnN", (unsigned long long)number, position, data);
}

int process_skip_removals(Process *self, uint64_t generation)
{
    const volatile uint64_t *page = self->generation;
    if (self->metrics == NULL || page == NULL || page[SUCCESSOR] != 0)
        return 0;
    uint64_t shortened = page[SHORTENED], number = shortened == self->shortened ? self->removals : 0;
    Py_ssize_t position = self->position;
    PyObject *data = tail(&self->where, "removals", &number, &position, MOST_REMOVALS);
    if (page[SHORTENED] != shortened)
        Py_CLEAR(data); /* we may have read the file that replaced it */
    PyObject *found = data == NULL ? NULL : removals_in(data, self->seen, generation, self->metrics);
    Py_XDECREF(data);
    int is_done = found != NULL && PyList_GET_SIZE(PyTuple_GET_ITEM(found, 2)) == 0;
    /* Making objects may have run a finaliser that came here, too, and read further. */
    if (is_done && generation > self->seen) {
        self->removals = number;
        self->shortened = shortened;
        self->position = position + PyLong_AsSsize_t(PyTuple_GET_ITEM(found, 0));
        self->seen = generation;
    }
    Py_XDECREF(found);
    PyErr_Clear(); /* the owner tries again, and reports the error */
    return is_done;
}
