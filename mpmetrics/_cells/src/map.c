/* Maps of files without a descriptor, and pages that the kernel wipes in a forked child. */

#include "cells.h"
#include <pthread.h>
#include <sys/mman.h>

/* ---- Pages that are zero in a forked child, however it was forked. */

/* Pages for which the kernel refuses the advice, as gVisor's does: the child wipes them itself. */
typedef struct Refused {
    uint64_t *words;
    struct Refused *next;
} Refused;

static Refused *refused = NULL;

static void wipe_refused(void)
{
    for (Refused *one = refused; one != NULL; one = one->next)
        memset(one->words, 0, HEAD_SIZE);
}

static int refuse(uint64_t *words)
{
    static int is_registered = 0;
    if (!is_registered && pthread_atfork(NULL, NULL, wipe_refused) != 0)
        return -1;
    is_registered = 1;
    Refused *one = PyMem_RawMalloc(sizeof *one);
    if (one == NULL)
        return -1;
    *one = (Refused){words, refused};
    refused = one;
    return 0;
}

uint64_t *wipe_page(void)
{
    uint64_t *words = mmap(NULL, HEAD_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    if (madvise(words, HEAD_SIZE, MADV_WIPEONFORK) != 0 && refuse(words) < 0) {
        munmap(words, HEAD_SIZE);
        PyErr_NoMemory();
        return NULL;
    }
    return words;
}

void wipe_page_free(uint64_t *words)
{
    for (Refused **at = &refused; *at != NULL; at = &(*at)->next) {
        Refused *one = *at;
        if (one->words == words) {
            *at = one->next;
            PyMem_RawFree(one);
            break;
        }
    }
    munmap(words, HEAD_SIZE);
}

static uint64_t last_token = 0;

uint64_t fork_mark(void)
{
    static uint64_t *word = NULL;
    if (word == NULL && (word = wipe_page()) == NULL)
        return 0;
    if (*word == 0)
        *word = ++last_token;
    return *word;
}

static PyObject *new_token(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLongLong(++last_token);
}

PyMethodDef map_functions[] = {
    {"new_token", new_token, METH_NOARGS,
     "new_token()\n--\n\nA number, from 1 on, that neither this process nor its parents have used."},
    {"without_gc", without_gc, METH_O,
     "without_gc(type, /)\n--\n\nThe same class of cells, as one whose instances the garbage collector does not track."},
    {"find_removals", find_removals, METH_VARARGS,
     "find_removals(data, after, upto, metrics, /)\n--\n\nSee mpmetrics._cells.removals."},
    {"make_slab", make_slab, METH_VARARGS,
     "make_slab(where, identity, mode, head, /)\n--\n\nSee mpmetrics._cells.files."},
    {"read_tail", read_tail, METH_VARARGS,
     "read_tail(where, file, number, position, most, /)\n--\n\nSee mpmetrics._cells.files."},
    {NULL},
};

/* ---- Map */

typedef struct {
    PyObject_HEAD
    char *base;
    size_t size;
    int is_writable;
    uint64_t mark; /* 0, or the fork mark of the only process in which it is mapped */
} Map;

static PyObject *map_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "size", "write", "forked", NULL};
    int fd, is_writable = 0, is_forked = 1;
    Py_ssize_t size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "in|$pp:Map", names, &fd, &size, &is_writable, &is_forked))
        return NULL;
    if (size <= 0)
        return PyErr_Format(PyExc_ValueError, "a map must have at least one byte, not %zd", size);
    uint64_t mark = is_forked ? 0 : fork_mark();
    if (mark == 0 && !is_forked)
        return NULL;
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
    char *base = mmap(NULL, (size_t)size, PROT_READ | (is_writable ? PROT_WRITE : 0), flags, fd, 0);
    if (base == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
    /* No read-ahead: the files are mostly holes, and a disk's file system would read them page by page, in a request. */
    if (fd >= 0)
        madvise(base, (size_t)size, MADV_RANDOM);
    Map *self = NULL;
    if (!is_forked && madvise(base, (size_t)size, MADV_DONTFORK) != 0)
        PyErr_SetFromErrno(PyExc_OSError);
    else
        self = (Map *)type->tp_alloc(type, 0);
    if (self == NULL) {
        munmap(base, (size_t)size);
        return NULL;
    }
    self->base = base;
    self->size = (size_t)size;
    self->is_writable = is_writable;
    self->mark = mark;
    return (PyObject *)self;
}

static void map_dealloc(Map *self)
{
    /* In a forked child, other memory may be at these addresses by now: never unmap it. */
    if (self->mark == 0 || self->mark == fork_mark())
        munmap(self->base, self->size);
    Py_TYPE(self)->tp_free(self);
}

static int map_buffer(Map *self, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, (PyObject *)self, self->base, (Py_ssize_t)self->size, !self->is_writable, flags);
}

static PyBufferProcs map_as_buffer = {.bf_getbuffer = (getbufferproc)map_buffer};

PyTypeObject Map_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Map",
    .tp_doc = "Map(fd, size, *, write=False, forked=True)\n--\n\n"
              "Maps ``size`` bytes of the file ``fd`` while anything refers to them. The file may be shorter.\n\n"
              "With ``fd`` -1: private memory. Unlike ``mmap.mmap``, it keeps no descriptor. ``forked=False``: forked\n"
              "children do not inherit it. OSError when the file cannot be mapped.",
    .tp_basicsize = sizeof(Map),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = map_new,
    .tp_dealloc = (destructor)map_dealloc,
    .tp_as_buffer = &map_as_buffer,
};
