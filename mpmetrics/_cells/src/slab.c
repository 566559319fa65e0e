/* The writer of a slab: its records, and the words of series and their reuse. Format: mpmetrics/storage/format.py.

   Each function here is atomic for the threads of the process and runs no Python code. A kill at any point leaves the
   slab as before or as after the call: the store of `committed`, or of `flips`, is the commit. */

#include "cells.h"
#include <stdio.h>
#include <structmember.h>
#include <sys/mman.h>

#define END_SIZE record_size(sizeof(uint64_t))
#define LEAST_GARBAGE ((size_t)64 << 10)
#define RECORD_OF_SIZE (AREA_0 / WORD_SIZE * sizeof(uint32_t))

uint64_t slab_head_word(const Slab *self, size_t at) { return *((const volatile uint64_t *)self->base + at); }

/* A reader that sees this store sees all stores before it, too. */
void slab_put_head_word(Slab *self, size_t at, uint64_t value)
{
    __atomic_store_n((uint64_t *)self->base + at, value, __ATOMIC_RELEASE);
}

static char *area(const Slab *self, size_t which) { return self->base + AREA_0 + which * AREA_SIZE; }

static size_t at_most(uint64_t value, size_t limit) { return value < limit ? (size_t)value : limit; }

static FreeRuns *free_runs(const Slab *self, size_t width)
{
    for (size_t at = 0; at < self->widths; at++)
        if (self->free[at].width == width)
            return &self->free[at];
    return NULL;
}

int slab_has_room(const Slab *self, size_t words, size_t bytes)
{
    const FreeRuns *runs = free_runs(self, words);
    if (words > 0 && (runs == NULL || runs->count == 0)
        && self->next_word + words > at_most(slab_head_word(self, WORDS_END), AREA_0) / WORD_SIZE)
        return 0;
    size_t end = self->committed + ((bytes + 7) & ~(size_t)7);
    return end <= at_most(slab_head_word(self, ROOM + self->area), AREA_SIZE);
}

uint32_t slab_allocate_words(Slab *self, size_t width)
{
    FreeRuns *runs = free_runs(self, width);
    if (runs != NULL && runs->count > 0)
        return runs->firsts[--runs->count];
    size_t first = self->next_word;
    self->next_word += width;
    return (uint32_t)first;
}

/* Keep a run for another series of this width. If no memory can be allocated, the run stays unused. */
static void give_back(Slab *self, uint32_t first, size_t width)
{
    FreeRuns *runs = free_runs(self, width);
    if (runs == NULL) {
        FreeRuns *more = PyMem_Realloc(self->free, (self->widths + 1) * sizeof *more);
        if (more == NULL)
            return;
        self->free = more;
        runs = &more[self->widths++];
        *runs = (FreeRuns){.width = width};
    }
    if (runs->count == runs->room) {
        size_t room = runs->room == 0 ? 16 : 2 * runs->room;
        uint32_t *more = PyMem_Realloc(runs->firsts, room * sizeof *more);
        if (more == NULL)
            return;
        runs->firsts = more;
        runs->room = room;
    }
    runs->firsts[runs->count++] = first;
}

/* Where to put the body of the next record; the slab must have room. */
static char *next_body(const Slab *self) { return area(self, self->area) + self->committed + sizeof(RecordHead); }

/* Write the head of the record whose body is there, and commit it. */
static void commit(Slab *self, uint32_t kind, size_t length)
{
    char *body = next_body(self);
    size_t size = record_size(length);
    memset(body + length, 0, size - sizeof(RecordHead) - length);
    RecordHead head = {RECORD_MAGIC, (uint32_t)length, checksum(kind, body, (Py_ssize_t)length), kind};
    memcpy(body - sizeof head, &head, sizeof head);
    self->committed += size;
    /* It tells readers: all bytes up to here are whole records, whose words are zero or belong to their series. */
    slab_put_head_word(self, COMMITTED + self->area, self->committed);
}

void slab_put_series(Slab *self, const SeriesHead *head, PyObject *const *key, Py_ssize_t count, size_t texts)
{
    char *body = next_body(self), *length = body + sizeof *head;
    uint16_t short_count = count < 0 ? OVERFLOW_TEXTS : (uint16_t)count;
    memcpy(body, head, sizeof *head);
    memcpy(length, &short_count, 2);
    char *text = length + 2 * (count < 0 ? 1 : count + 1);
    for (Py_ssize_t at = 0; at < count; at++) {
        Py_ssize_t size;
        const char *bytes = PyUnicode_AsUTF8AndSize(key[at], &size); /* cached since measure() */
        uint16_t short_size = (uint16_t)size;
        memcpy(length + 2 * (at + 1), &short_size, 2);
        memcpy(text, bytes, (size_t)size);
        text += size;
    }
    self->record_of[head->first_word] = (uint32_t)(self->committed / WORD_SIZE + 1);
    commit(self, KIND_SERIES, sizeof *head + texts);
}

int slab_end(Slab *self, uint32_t first, size_t width)
{
    if (!slab_has_room(self, 0, END_SIZE))
        return 0;
    uint64_t body = first;
    memcpy(next_body(self), &body, sizeof body);
    commit(self, KIND_END, sizeof body);
    /* Only now: until the END is committed, readers count the words as the series'. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (size_t at = 0; at < width; at++)
        store_word(slab_words(self, first) + at, 0.0);
    RecordHead head;
    memcpy(&head, area(self, self->area) + ((size_t)self->record_of[first] - 1) * WORD_SIZE, sizeof head);
    self->garbage += record_size(head.length) + END_SIZE;
    self->record_of[first] = 0;
    give_back(self, first, width);
    return 1;
}

static PyObject *slab_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"map", NULL};
    PyObject *map;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Slab", names, &map))
        return NULL;
    Slab *self = (Slab *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    /* Most of it is never touched and takes no memory. */
    self->record_of = mmap(NULL, RECORD_OF_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                           -1, 0);
    if (self->record_of == MAP_FAILED) {
        self->record_of = NULL;
        PyErr_SetFromErrno(PyExc_OSError);
    } else if (PyObject_GetBuffer(map, &self->view, PyBUF_WRITABLE) == 0) {
        if ((size_t)self->view.len < SLAB_SIZE || (uintptr_t)self->view.buf % WORD_SIZE != 0)
            PyErr_Format(PyExc_ValueError, "a slab must have %zu bytes, not %zd", SLAB_SIZE, self->view.len);
    }
    if (PyErr_Occurred()) {
        Py_DECREF(self);
        return NULL;
    }
    self->base = self->view.buf;
    self->area = slab_head_word(self, FLIPS) & 1;
    self->committed = at_most(slab_head_word(self, COMMITTED + self->area), AREA_SIZE) & ~(size_t)7;
    self->next_word = FIRST_WORD;
    self->ordinal = -1;
    return (PyObject *)self;
}

static void slab_dealloc(Slab *self)
{
    for (size_t at = 0; at < self->widths; at++)
        PyMem_Free(self->free[at].firsts);
    PyMem_Free(self->free);
    if (self->record_of != NULL)
        munmap(self->record_of, RECORD_OF_SIZE);
    if (self->view.obj != NULL)
        PyBuffer_Release(&self->view);
    Py_XDECREF(self->where.path);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *slab_append(Slab *self, PyObject *args)
{
    unsigned int kind;
    Py_buffer body;
    if (!PyArg_ParseTuple(args, "Iy*:append", &kind, &body))
        return NULL;
    int has_room = body.len <= MAX_BODY && slab_has_room(self, 0, record_size((size_t)body.len));
    if (has_room) {
        memcpy(next_body(self), body.buf, (size_t)body.len);
        commit(self, kind, (size_t)body.len);
    }
    PyBuffer_Release(&body);
    return PyBool_FromLong(has_room);
}

static PyObject *slab_room_for(Slab *self, PyObject *args)
{
    Py_ssize_t words, bytes;
    if (!PyArg_ParseTuple(args, "nn:room_for", &words, &bytes))
        return NULL;
    if (words < 0 || bytes < 0 || (size_t)words > AREA_0 || (size_t)bytes > AREA_SIZE)
        Py_RETURN_FALSE;
    return PyBool_FromLong(slab_has_room(self, (size_t)words, (size_t)bytes));
}

int slab_needs_flip(const Slab *self) { return self->garbage > LEAST_GARBAGE && 2 * self->garbage > self->committed; }

static PyObject *needs_flip(Slab *self, void *Py_UNUSED(closure)) { return PyBool_FromLong(slab_needs_flip(self)); }

/* Whether readers need the record at `offset`: one of a metric or of a living series. */
static int is_needed(const Slab *self, const RecordHead *head, size_t offset)
{
    SeriesHead series;
    if (head->kind != KIND_SERIES)
        return head->kind != KIND_END;
    memcpy(&series, area(self, self->area) + offset + sizeof *head, sizeof series);
    return series.first_word < AREA_0 / WORD_SIZE && self->record_of[series.first_word] == offset / WORD_SIZE + 1;
}

/* The size of the needed records in bytes. Copies them to `other` unless that is NULL. */
static size_t copy_needed(Slab *self, char *other)
{
    size_t needed = 0, size;
    for (size_t offset = 0; offset < self->committed; offset += size) {
        RecordHead head;
        char *record = area(self, self->area) + offset;
        memcpy(&head, record, sizeof head);
        size = record_size(head.length);
        if (size > self->committed - offset)
            break; /* another process has damaged our file */
        if (!is_needed(self, &head, offset))
            continue;
        if (other != NULL) {
            SeriesHead series;
            memcpy(other + needed, record, size);
            memcpy(&series, record + sizeof head, sizeof series);
            if (head.kind == KIND_SERIES)
                self->record_of[series.first_word] = (uint32_t)(needed / WORD_SIZE + 1);
        }
        needed += size;
    }
    return needed;
}

int slab_do_flip(Slab *self)
{
    size_t other = 1 - self->area, needed = copy_needed(self, NULL);
    if (needed > at_most(slab_head_word(self, ROOM + other), AREA_SIZE))
        return 0;
    copy_needed(self, area(self, other));
    slab_put_head_word(self, COMMITTED + other, needed);
    self->area = other;
    self->committed = needed;
    self->garbage = 0;
    /* The commit. Readers that see it start over with this slab; the old records stay unchanged until the next flip. */
    slab_put_head_word(self, FLIPS, slab_head_word(self, FLIPS) + 1);
    return 1;
}

static PyObject *slab_flip(Slab *self, PyObject *Py_UNUSED(none)) { return PyBool_FromLong(slab_do_flip(self)); }

static PyObject *slab_attach_file(Slab *self, PyObject *args)
{
    Directory where = {0};
    const char *file;
    unsigned long long number;
    unsigned long lowest;
    int sets_aside;
    if (!PyArg_ParseTuple(args, "O&sKkp:attach_file", directory_converter, &where, &file, &number, &lowest, &sets_aside))
        return NULL;
    Py_XDECREF(self->where.path);
    self->where = where;
    snprintf(self->file, sizeof self->file, "%s", file);
    self->number = number;
    self->lowest = lowest;
    self->sets_aside = sets_aside;
    /* The kernel wipes this in forked children, which get slabs of their own. So a fork does not write-protect it, and
       the next series need not copy a page of it. */
    if (madvise(self->record_of, RECORD_OF_SIZE, MADV_WIPEONFORK) == 0)
        self->record_of[FIRST_WORD] = 0;
    Py_RETURN_NONE;
}

static PyObject *slab_claim_method(Slab *self, PyObject *Py_UNUSED(none))
{
    return slab_claim(self) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *slab_grow_method(Slab *self, PyObject *args)
{
    Py_ssize_t words, bytes;
    if (!PyArg_ParseTuple(args, "nn:grow", &words, &bytes))
        return NULL;
    int is_grown = words < 0 || bytes < 0 ? 0 : slab_grow(self, (size_t)words, (size_t)bytes);
    return is_grown < 0 ? NULL : PyBool_FromLong(is_grown);
}

static PyObject *slab_get_file(Slab *self, void *Py_UNUSED(closure)) { return PyUnicode_FromString(self->file); }

static PyObject *slab_get_ordinal(Slab *self, void *Py_UNUSED(closure))
{
    return self->ordinal < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(self->ordinal);
}

static PyMethodDef slab_methods[] = {
    {"append", (PyCFunction)slab_append, METH_VARARGS,
     "append($self, kind, body, /)\n--\n\nWrite and commit a record; False when the slab has no room for it."},
    {"room_for", (PyCFunction)slab_room_for, METH_VARARGS,
     "room_for($self, words, bytes, /)\n--\n\nWhether the slab has room for a series of ``words`` words and ``bytes`` "
     "bytes of records."},
    {"flip", (PyCFunction)slab_flip, METH_NOARGS,
     "flip($self)\n--\n\n"
     "Copy the needed records to the other area and continue there; False when it has no room for them."},
    {"attach_file", (PyCFunction)slab_attach_file, METH_VARARGS,
     "attach_file($self, where, file, number, lowest, sets_aside, /)\n--\n\n"
     "Attach the slab to its file, with inode ``number``, and set the lowest ordinal that it may claim."},
    {"claim", (PyCFunction)slab_claim_method, METH_NOARGS,
     "claim($self)\n--\n\nClaim the smallest ordinal that no living process has. OSError when that fails."},
    {"grow", (PyCFunction)slab_grow_method, METH_VARARGS,
     "grow($self, words, bytes, /)\n--\n\n"
     "Make room for ``words`` words and ``bytes`` bytes of records. False at the maximal size; OSError."},
    {NULL},
};

static PyMemberDef slab_members[] = {
    {"lowest", T_ULONG, offsetof(Slab, lowest), 0, "The lowest ordinal that it may claim."},
    {NULL},
};

static PyGetSetDef slab_fields[] = {
    {"file", (getter)slab_get_file, NULL, "Name of the slab's file.", NULL},
    {"ordinal", (getter)slab_get_ordinal, NULL, "The ordinal that it has claimed, or None.", NULL},
    {"needs_flip", (getter)needs_flip, NULL, "Whether more than half of the records are garbage.",
     NULL},
    {NULL},
};

PyTypeObject Slab_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Slab",
    .tp_doc = "Slab(map)\n--\n\nThe writer of the slab in ``map``, which is new and has its head.",
    .tp_basicsize = sizeof(Slab),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = slab_new,
    .tp_dealloc = (destructor)slab_dealloc,
    .tp_methods = slab_methods,
    .tp_getset = slab_fields,
    .tp_members = slab_members,
};
