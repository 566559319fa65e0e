/* The mapping from label values to series. A look-up needs no tuple, since str objects keep their hashes. */

#include "cells.h"
#include <stdlib.h>
#include <sys/mman.h>

enum { FIRST_COUNT = 8, FEW = HEAD_SIZE / sizeof(Cell *) };

static uint64_t hash_values(PyObject *const *values, Py_ssize_t count)
{
    uint64_t hash = (uint64_t)count;
    for (Py_ssize_t at = 0; at < count; at++) {
        /* str objects cache their hashes, which depend on a secret of this interpreter. */
        Py_hash_t one = ((PyASCIIObject *)values[at])->hash;
        if (one == -1)
            one = PyObject_Hash(values[at]);
        hash = (hash << 27 | hash >> 37) * 0x9E3779B97F4A7C15u ^ (uint64_t)one;
    }
    return hash ^ hash >> 32;
}

static int are_equal(PyObject *left, PyObject *right)
{
    if (left == right)
        return 1;
    Py_ssize_t length = PyUnicode_GET_LENGTH(left);
    return length == PyUnicode_GET_LENGTH(right) && PyUnicode_KIND(left) == PyUnicode_KIND(right)
        && memcmp(PyUnicode_DATA(left), PyUnicode_DATA(right), (size_t)length * PyUnicode_KIND(left)) == 0;
}

static int has_key(const Cell *cell, PyObject *const *values, Py_ssize_t count)
{
    if (cell->key_size != count)
        return 0;
    for (Py_ssize_t at = 0; at < count; at++)
        if (!are_equal(cell->key[at], values[at]))
            return 0;
    return 1;
}

static Cell **bucket(const Children *self, uint64_t hash)
{
    size_t at = hash & (2 * self->base - 1);
    return &self->buckets[at < self->count ? at : at & (self->base - 1)];
}

Cell *children_find(const Children *self, PyObject *const *values, Py_ssize_t count)
{
    if (self->used == 0)
        return NULL;
    uint64_t hash = hash_values(values, count);
    Cell *cell = *bucket(self, hash);
    while (cell != NULL && (cell->hash != hash || !has_key(cell, values, count)))
        cell = cell->next;
    return cell;
}

/* Make room for more buckets. From a page of them on they are mapped, so that growing copies nothing in a first use. */
static Cell **grown(const Children *self, size_t room)
{
    size_t before = self->room * sizeof(Cell *), size = room * sizeof(Cell *);
    if (room <= FEW)
        return PyMem_Realloc(self->buckets, size);
    void *buckets = self->room > FEW
        ? mremap(self->buckets, before, size, MREMAP_MAYMOVE)
        : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buckets == MAP_FAILED)
        return NULL;
    if (self->room <= FEW) {
        memcpy(buckets, self->buckets, before);
        PyMem_Free(self->buckets);
    }
    return buckets;
}

void children_free(Children *self)
{
    if (self->room > FEW)
        munmap(self->buckets, self->room * sizeof(Cell *));
    else
        PyMem_Free(self->buckets);
}

int children_reserve(Children *self)
{
    if (self->count < self->room)
        return 0;
    size_t room = self->room == 0 ? 2 * FIRST_COUNT : 2 * self->room;
    Cell **buckets = grown(self, room);
    if (buckets == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (self->room == 0) {
        memset(buckets, 0, FIRST_COUNT * sizeof *buckets);
        self->count = self->base = FIRST_COUNT;
    }
    self->buckets = buckets;
    self->room = room;
    return 0;
}

static void put(Children *self, Cell *cell)
{
    Cell **head = bucket(self, cell->hash);
    cell->next = *head;
    *head = cell;
}

/* Split one bucket in two. */
static void split(Children *self)
{
    size_t from = self->count - self->base;
    Cell *cell = self->buckets[from];
    self->buckets[from] = self->buckets[self->count++] = NULL;
    while (cell != NULL) {
        Cell *next = cell->next;
        put(self, cell);
        cell = next;
    }
    if (self->count == 2 * self->base)
        self->base = self->count;
}

void children_insert(Children *self, Cell *cell)
{
    cell->hash = hash_values(cell->key, cell->key_size);
    cell->serial = self->made++;
    put(self, cell);
    self->used++;
    if ((size_t)self->used > self->count)
        split(self);
}

void children_remove(Children *self, Cell *cell)
{
    Cell **at = bucket(self, cell->hash);
    while (*at != cell)
        at = &(*at)->next;
    *at = cell->next;
    cell->next = NULL;
    self->used--;
}

static int by_serial(const void *left, const void *right)
{
    uint64_t one = (*(Cell *const *)left)->serial, other = (*(Cell *const *)right)->serial;
    return (one > other) - (one < other);
}

Cell **children_cells(const Children *self)
{
    Cell **cells = PyMem_Malloc((size_t)self->used * sizeof *cells + 1);
    if (cells == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    size_t found = 0;
    for (size_t at = 0; at < self->count; at++)
        for (Cell *cell = self->buckets[at]; cell != NULL; cell = cell->next)
            cells[found++] = cell;
    qsort(cells, found, sizeof *cells, by_serial);
    return cells;
}
