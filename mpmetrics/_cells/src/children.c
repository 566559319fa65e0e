/* The series of one metric in this process: how they are found, made, bound again, moved and ended.

   Making a series may call into Python to begin, declare or grow. Each call is a step of its own. After each, the loop
   checks everything again, since code that ran during the step may have changed it. The final write runs no Python. */

#include "cells.h"
#include <structmember.h>
#include <time.h>

enum { FAILED = -1, READY, AGAIN, REFUSED };

#define TOO_LARGE ((size_t)MAX_BODY)

/* ---- Keys */

static int check_key(PyObject *key)
{
    int is_right = key == Py_None || (PyTuple_CheckExact(key) && PyTuple_GET_SIZE(key) < OVERFLOW_TEXTS);
    for (Py_ssize_t at = 0; is_right && key != Py_None && at < PyTuple_GET_SIZE(key); at++)
        is_right = PyUnicode_CheckExact(PyTuple_GET_ITEM(key, at));
    if (!is_right)
        PyErr_Format(PyExc_TypeError, "a key is a tuple of str, or None, not %R", key);
    return is_right ? 0 : -1;
}

static PyObject *const *key_values(PyObject *key, Py_ssize_t *count)
{
    *count = key == Py_None ? -1 : PyTuple_GET_SIZE(key);
    return key == Py_None ? NULL : &PyTuple_GET_ITEM(key, 0);
}

/* Bytes of the texts in a record; TOO_LARGE if no record can hold them. -1 if they cannot be encoded in UTF-8. */
static int measure(PyObject *const *values, Py_ssize_t count, size_t *texts)
{
    *texts = 2;
    for (Py_ssize_t at = 0; at < count; at++) {
        Py_ssize_t size;
        if (PyUnicode_AsUTF8AndSize(values[at], &size) == NULL)
            return -1;
        *texts += size > UINT16_MAX ? TOO_LARGE : 2 + (size_t)size;
    }
    if (*texts + sizeof(SeriesHead) > MAX_BODY)
        *texts = TOO_LARGE;
    return 0;
}

/* Bytes of the texts without their lengths. */
static size_t key_bytes(Py_ssize_t count, size_t texts) { return count < 0 ? 0 : texts - 2 - 2 * (size_t)count; }

/* ---- One attempt to write a series */

typedef struct {
    size_t texts; /* bytes of the label values in the record */
    int counts, waits; /* whether the process needs an ordinal; whether the series must wait for room */
    uint64_t generation; /* in the record */
    uint64_t noticed; /* the generation up to which the owner has applied removals, or failed to */
    double created;
} Attempt;

static int tell_time(const Process *process, double *seconds)
{
    if (process->clock == NULL || process->clock == Py_None) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        *seconds = (double)((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000) / 1e3;
        return 0;
    }
    PyObject *clock = Py_NewRef(process->clock), *now = PyObject_CallNoArgs(clock);
    Py_DECREF(clock);
    *seconds = now == NULL ? -1.0 : PyFloat_AsDouble(now);
    Py_XDECREF(now);
    if (*seconds == -1.0 && PyErr_Occurred())
        return -1;
    *seconds = floor(*seconds * 1e3) / 1e3;
    return 0;
}

static int has_begun(const Process *self, int counts)
{
    return self->token != 0 && self->words[BEGUN] == self->token && (!counts || self->words[COUNTING] == self->token);
}

/* READY: the process has begun and has no removals to apply, and no Python code has run since that check. */
static int ready_process(Process *process, Attempt *attempt)
{
    if (tell_time(process, &attempt->created) < 0)
        return FAILED;
    if (attempt->counts && has_begun(process, 0) && !has_begun(process, 1) && process->slab != NULL) {
        if (slab_claim(process->slab) == 0)
            process->words[COUNTING] = process->token;
        PyErr_Clear(); /* the owner tries again, and reports the error */
    }
    if (!has_begun(process, attempt->counts))
        return owner_call(process, "begin", attempt->counts ? Py_True : Py_False) < 0 ? FAILED : AGAIN;
    uint64_t generation = process_generation(process);
    if (generation == process->seen || generation == attempt->noticed)
        return READY;
    attempt->noticed = generation;
    if (process_skip_removals(process, generation))
        return AGAIN;
    return owner_call(process, "catch_up", NULL) < 0 ? FAILED : AGAIN;
}

/* READY: the slab has room, and no Python code has run. AGAIN: it has room now. REFUSED: it cannot have. */
static int grow(Process *process, Py_ssize_t words, Py_ssize_t bytes)
{
    if (slab_has_room(process->slab, (size_t)words, (size_t)bytes)
        || slab_grow(process->slab, (size_t)words, (size_t)bytes) > 0)
        return READY;
    PyErr_Clear(); /* the owner tries again, and reports the error */
    PyObject *has_room = PyObject_CallMethod(process->owner, "grow", "nn", words, bytes);
    int is_true = has_room == NULL ? -1 : PyObject_IsTrue(has_room);
    Py_XDECREF(has_room);
    return is_true < 0 ? FAILED : is_true ? AGAIN : REFUSED;
}

/* READY: the slab has room for the series, or the series must wait. */
static int ready_slab(Children *self, Attempt *attempt)
{
    Process *process = self->process;
    if (self->stamp != process->token)
        return owner_call(process, "declare_in", (PyObject *)self) < 0 ? FAILED : AGAIN;
    if (process->slab == NULL || self->number < 0)
        attempt->waits = 1;
    size_t bytes = record_size(sizeof(SeriesHead) + attempt->texts);
    if (attempt->waits)
        return READY;
    int step = grow(process, self->shape->width, (Py_ssize_t)bytes);
    attempt->waits = step == REFUSED;
    return step == REFUSED ? AGAIN : step;
}

/* Point the cell to these words. `slab` NULL: private memory, from PyMem. */
static void point(Cell *cell, Slab *slab, uint32_t first, double *words)
{
    Slab *before = cell->slab;
    double *own = before == NULL ? cell->words : NULL;
    cell->slab = (Slab *)Py_XNewRef(slab);
    cell->first = first;
    cell->words = words;
    cell->stamp = cell->children->process->token;
    PyMem_Free(own);
    Py_XDECREF(before);
}

/* Write the series, with `values` or zeros as its words. The slab must have room. */
static void write_series(Children *self, Cell *cell, Attempt *attempt, const double *values)
{
    Process *process = self->process;
    Slab *slab = process->slab;
    /* A moved series was made before now: it gets the last applied generation, not a later one. */
    attempt->generation = values == NULL ? process_generation(process) : process->seen;
    uint32_t first = slab_allocate_words(slab, (size_t)self->shape->width);
    double *words = slab_words(slab, first);
    for (Py_ssize_t at = 0; values != NULL && at < self->shape->width; at++)
        store_word(words + at, load_word(values + at));
    SeriesHead head = {(uint32_t)self->number, (uint32_t)self->shape->width, first, attempt->created, attempt->generation};
    slab_put_series(slab, &head, cell->key, cell->key_size, attempt->texts);
    if (values == NULL)
        cell->count = 0;
    point(cell, slab, first, words);
}

/* Give the cell words: in the slab or, if it must wait, private ones. */
static int commit_first_use(Children *self, Cell *cell, Attempt *attempt)
{
    if (!attempt->waits) {
        write_series(self, cell, attempt, NULL);
        return READY;
    }
    double *words = PyMem_Calloc((size_t)self->shape->width, sizeof *words);
    if (words == NULL) {
        PyErr_NoMemory();
        return FAILED;
    }
    cell->count = 0;
    point(cell, NULL, 0, words);
    return READY;
}

/* The work after the write: AGAIN if another process removed the series while it was written. */
static int finish(Process *process, Cell *cell, const Attempt *attempt)
{
    if (attempt->waits)
        return owner_call(process, "move_later", (PyObject *)cell);
    /* Either we see a remover's generation here, or readers that apply its removal see our record. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint64_t generation = process_generation(process);
    if (generation != attempt->generation && !process_skip_removals(process, generation)
        && owner_call(process, "catch_up", NULL) < 0)
        return FAILED;
    return cell->state == GONE ? AGAIN : READY;
}

static Cell *new_cell(Children *self, PyObject *const *values, Py_ssize_t count)
{
    Cell *cell = (Cell *)self->cell_type->tp_alloc(self->cell_type, 0);
    if (cell == NULL)
        return NULL;
    cell->shape = self->shape;
    cell->shape->users++;
    cell->children = self;
    cell->counting = &self->process->words[COUNTING];
    cell->stamp = UINT64_MAX; /* no token */
    cell->key = PyMem_Malloc((size_t)(count < 0 ? 0 : count) * sizeof *cell->key + 1);
    if (cell->key == NULL) {
        Py_DECREF(cell);
        PyErr_NoMemory();
        return NULL;
    }
    cell->key_size = count;
    for (Py_ssize_t at = 0; at < count; at++)
        cell->key[at] = Py_NewRef(values[at]);
    return cell;
}

static int is_full(const Children *self, Py_ssize_t count, const Attempt *attempt)
{
    if (count < 0)
        return 0;
    return self->used - (children_find(self, NULL, -1) != NULL) >= self->limit || attempt->texts == TOO_LARGE
        || self->bytes + key_bytes(count, attempt->texts) > self->budget;
}

static PyObject *make(Children *self, PyObject *const *values, Py_ssize_t count)
{
    Process *process = self->process;
    Attempt attempt = {.noticed = process->seen};
    Cell *cell = NULL;
    int step = measure(values, count, &attempt.texts) < 0 ? FAILED : AGAIN;
    while (step == AGAIN) {
        step = ready_process(process, &attempt);
        if (step != READY)
            continue;
        Cell *found = children_find(self, values, count);
        if (found != NULL || is_full(self, count, &attempt)) {
            PyObject *result = found != NULL ? Py_NewRef(found)
                                             : PyObject_CallMethod(process->owner, "overflow", "O", self);
            Py_XDECREF(cell);
            return result;
        }
        step = ready_slab(self, &attempt);
        if (step == READY && cell == NULL && (cell = new_cell(self, values, count)) == NULL)
            step = FAILED;
        if (step == READY)
            step = children_reserve(self) < 0 ? FAILED : commit_first_use(self, cell, &attempt);
        if (step != READY)
            continue;
        cell->state = LIVE;
        children_insert(self, (Cell *)Py_NewRef(cell));
        self->bytes += key_bytes(count, attempt.texts);
        step = finish(process, cell, &attempt);
        if (step == AGAIN)
            Py_CLEAR(cell);
    }
    if (step == FAILED)
        Py_CLEAR(cell);
    return (PyObject *)cell;
}

PyObject *children_make(Children *self, PyObject *const *values, Py_ssize_t count)
{
    if (has_begun(self->process, 0) && process_generation(self->process) == self->process->seen) {
        Cell *found = children_find(self, values, count);
        if (found != NULL)
            return Py_NewRef(found);
    }
    Py_INCREF(self); /* the owner's code could drop the last reference */
    PyObject *cell = make(self, values, count);
    Py_DECREF(self);
    return cell;
}

static int bind(Children *self, Cell *cell)
{
    Attempt attempt = {.counts = 1, .noticed = self->process->seen};
    int step = measure(cell->key, cell->key_size, &attempt.texts) < 0 ? FAILED : AGAIN;
    while (step == AGAIN) {
        step = ready_process(self->process, &attempt);
        if (step == READY && (cell->state == GONE || cell->stamp == self->process->token))
            return 0;
        if (step == READY)
            step = ready_slab(self, &attempt);
        if (step == READY)
            step = commit_first_use(self, cell, &attempt);
    }
    return step == FAILED || finish(self->process, cell, &attempt) == FAILED ? -1 : 0;
}

int cell_bind(Cell *cell)
{
    Children *self = (Children *)Py_NewRef(cell->children);
    int failed = bind(self, cell);
    Py_DECREF(self);
    return failed;
}

/* ---- Methods */

static PyObject *make_method(Children *self, PyObject *key)
{
    Py_ssize_t count = 0;
    PyObject *const *values = check_key(key) < 0 ? NULL : key_values(key, &count);
    return PyErr_Occurred() ? NULL : children_make(self, values, count);
}

static PyObject *move_method(Children *self, PyObject *argument)
{
    Cell *cell = (Cell *)argument;
    Process *process = self->process;
    if (!PyObject_TypeCheck(argument, &Cell_Type) || cell->shape != self->shape)
        return PyErr_Format(PyExc_ValueError, "%R is not a series of %R", argument, self->shape->name);
    Attempt attempt = {0};
    if (measure(cell->key, cell->key_size, &attempt.texts) < 0 || tell_time(process, &attempt.created) < 0)
        return NULL;
    if (!has_begun(process, 0) || self->stamp != process->token || process->slab == NULL || self->number < 0)
        Py_RETURN_FALSE;
    if (cell->state != LIVE || cell->stamp != process->token || cell->slab == process->slab)
        Py_RETURN_TRUE;
    size_t bytes = record_size(sizeof(SeriesHead) + attempt.texts);
    if (!slab_has_room(process->slab, (size_t)self->shape->width, bytes))
        Py_RETURN_FALSE;
    write_series(self, cell, &attempt, cell->words);
    Py_RETURN_TRUE;
}

static int has_place(const Cell *cell)
{
    if (cell->state != LIVE || cell->slab == NULL)
        return 0;
    const Process *process = cell->children->process;
    return cell->slab == process->slab && has_begun(process, 0) && cell->stamp == process->token;
}

/* Detach the cell: it writes to `own` from now on, in any process; `own` NULL: to the words that it has. */
static void detach(Cell *cell, double *own)
{
    static const uint64_t nobody = 0;
    if (own != NULL)
        point(cell, NULL, 0, own);
    cell->counting = &nobody;
    cell->stamp = nobody;
    cell->state = GONE;
    cell->count = 0;
    cell->children = NULL;
}

static PyObject *end_method(Children *self, PyObject *key)
{
    Py_ssize_t count = 0;
    size_t texts;
    PyObject *const *values = check_key(key) < 0 ? NULL : key_values(key, &count);
    if (PyErr_Occurred())
        return NULL;
    Cell *cell = children_find(self, values, count);
    if (cell == NULL)
        Py_RETURN_TRUE;
    if (measure(values, count, &texts) < 0)
        return NULL;
    double *own = PyMem_Calloc((size_t)self->shape->width, sizeof *own);
    if (own == NULL)
        return PyErr_NoMemory();
    /* No END for a series of the parent process or of an abandoned slab. */
    for (int step = AGAIN; step == AGAIN && cell != NULL && has_place(cell);) {
        step = grow(self->process, 0, (Py_ssize_t)record_size(sizeof(uint64_t)));
        if (step == FAILED) {
            PyMem_Free(own);
            return NULL;
        }
        if (step != READY)
            cell = children_find(self, values, count);
    }
    if (cell == NULL) {
        PyMem_Free(own);
        Py_RETURN_TRUE;
    }
    children_remove(self, cell);
    self->bytes -= key_bytes(count, texts);
    int is_ended = !has_place(cell) || slab_end(cell->slab, cell->first, (size_t)self->shape->width);
    detach(cell, own);
    Py_DECREF(cell);
    return PyBool_FromLong(is_ended);
}

/* The series of a key; NULL when there is none, or with an exception. */
static Cell *find_key(Children *self, PyObject *key)
{
    Py_ssize_t count = 0;
    PyObject *const *values = check_key(key) < 0 ? NULL : key_values(key, &count);
    return PyErr_Occurred() ? NULL : children_find(self, values, count);
}

static PyObject *get_method(Children *self, PyObject *key)
{
    Cell *cell = find_key(self, key);
    if (PyErr_Occurred())
        return NULL;
    return Py_NewRef(cell == NULL ? Py_None : (PyObject *)cell);
}

static int contains(Children *self, PyObject *key)
{
    Cell *cell = find_key(self, key);
    return PyErr_Occurred() ? -1 : cell != NULL;
}

static Py_ssize_t length(Children *self) { return self->used; }

PyObject *cell_key(Cell *self, void *Py_UNUSED(closure))
{
    if (self->key_size < 0)
        Py_RETURN_NONE;
    PyObject *key = PyTuple_New(self->key_size);
    for (Py_ssize_t at = 0; key != NULL && at < self->key_size; at++)
        PyTuple_SET_ITEM(key, at, Py_NewRef(self->key[at]));
    return key;
}

enum { KEYS, VALUES, ITEMS };

/* Making an object may run Python code, which may make and end series: so collect the cells first. */
static PyObject *list_of(Children *self, int what)
{
    Py_ssize_t used = self->used;
    Cell **cells = children_cells(self);
    if (cells == NULL)
        return NULL;
    for (Py_ssize_t at = 0; at < used; at++)
        Py_INCREF(cells[at]);
    PyObject *list = PyList_New(used);
    for (Py_ssize_t at = 0; at < used; at++) {
        PyObject *item = what == VALUES || list == NULL ? Py_NewRef(cells[at]) : cell_key(cells[at], NULL);
        if (what == ITEMS && item != NULL)
            item = Py_BuildValue("NO", item, cells[at]);
        Py_DECREF(cells[at]);
        if (list == NULL || item == NULL) {
            Py_CLEAR(list);
            Py_XDECREF(item);
        } else {
            PyList_SET_ITEM(list, at, item);
        }
    }
    PyMem_Free(cells);
    return list;
}

static PyObject *keys_method(Children *self, PyObject *Py_UNUSED(none)) { return list_of(self, KEYS); }

static PyObject *values_method(Children *self, PyObject *Py_UNUSED(none)) { return list_of(self, VALUES); }

static PyObject *items_method(Children *self, PyObject *Py_UNUSED(none)) { return list_of(self, ITEMS); }

static PyObject *iterate(Children *self)
{
    PyObject *keys = list_of(self, KEYS), *iterator = keys == NULL ? NULL : PyObject_GetIter(keys);
    Py_XDECREF(keys);
    return iterator;
}

/* The number of label values in a look-up by position; -1 if keys have more than these. */
static int parse_labels(Children *self)
{
    PyObject *labels = PyObject_GetAttrString(self->family, "labels");
    PyObject *is_open = labels == NULL ? NULL : PyObject_GetAttrString(self->family, "is_open");
    int open = is_open == NULL ? -1 : PyObject_IsTrue(is_open);
    Py_ssize_t count = open < 0 ? -1 : PyObject_Size(labels);
    Py_XDECREF(labels);
    Py_XDECREF(is_open);
    self->labels = open ? -1 : count;
    return open < 0 || count < 0 ? -1 : 0;
}

static PyObject *children_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"process", "family", "cell_type", "width", "limit", "budget", "context", NULL};
    PyObject *process, *family, *cell_type, *context = Py_None;
    Py_ssize_t width = -1, limit = -1, budget = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OO!|$nnnO:Children", names, &Process_Type, &process, &family,
                                     &PyType_Type, &cell_type, &width, &limit, &budget, &context))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)cell_type, &Cell_Type) || (PyTypeObject *)cell_type == &Cell_Type)
        return PyErr_Format(PyExc_TypeError, "%R is not a class of cells", cell_type);
    if (limit < 0 || budget < 0)
        return PyErr_Format(PyExc_ValueError, "limit and budget must be 0 or more, not %zd and %zd", limit,
                            budget);
    Children *self = (Children *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->process = (Process *)Py_NewRef(process);
    self->family = Py_NewRef(family);
    self->cell_type = (PyTypeObject *)Py_NewRef(cell_type);
    self->context = Py_NewRef(context);
    self->limit = limit;
    self->budget = (size_t)budget;
    self->shape = shape_of(family, self->cell_type, width, &self->bounds, &self->layout);
    if (self->shape == NULL || parse_labels(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int children_traverse(Children *self, visitproc visit, void *arg)
{
    Py_VISIT(self->process);
    Py_VISIT(self->family);
    Py_VISIT(self->cell_type);
    Py_VISIT(self->context);
    return 0;
}

static int children_clear(Children *self)
{
    Py_CLEAR(self->context);
    return 0;
}

/* Cells that are still referenced get private memory. If none can be allocated, they keep the slab alive. */
static void release_cells(Children *self)
{
    for (size_t at = 0; at < self->count; at++)
        for (Cell *cell = self->buckets[at], *next; cell != NULL; cell = next) {
            next = cell->next;
            double *own = Py_REFCNT(cell) == 1 ? NULL : PyMem_Calloc((size_t)self->shape->width, sizeof *own);
            detach(cell, own);
            Py_DECREF(cell);
        }
    children_free(self);
}

static void children_dealloc(Children *self)
{
    PyObject_GC_UnTrack(self);
    release_cells(self);
    shape_release(self->shape);
    Py_XDECREF(self->context);
    Py_XDECREF(self->bounds);
    Py_XDECREF(self->layout);
    Py_XDECREF(self->cell_type);
    Py_XDECREF(self->family);
    Py_XDECREF(self->process);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *get_name(Children *self, void *Py_UNUSED(closure)) { return Py_NewRef(self->shape->name); }

static PyObject *get_width(Children *self, void *Py_UNUSED(closure)) { return PyLong_FromSsize_t(self->shape->width); }

static PyMethodDef children_methods[] = {
    {"get", (PyCFunction)get_method, METH_O, "get($self, key, /)\n--\n\nThe series of this key, or None."},
    {"make", (PyCFunction)make_method, METH_O,
     "make($self, key, /)\n--\n\nThe series of this key, made at its first use; beyond the cap, the overflow series."},
    {"end", (PyCFunction)end_method, METH_O,
     "end($self, key, /)\n--\n\nEnd a series of this process. False when its END record could not be written."},
    {"move", (PyCFunction)move_method, METH_O,
     "move($self, cell, /)\n--\n\nMove a series from elsewhere into the slab. False when the slab has no room."},
    {"keys", (PyCFunction)keys_method, METH_NOARGS, "keys($self)\n--\n\nThe keys, in the order of creation."},
    {"values", (PyCFunction)values_method, METH_NOARGS, "values($self)\n--\n\nThe series."},
    {"items", (PyCFunction)items_method, METH_NOARGS, "items($self)\n--\n\nKeys and series."},
    {NULL},
};

static PyMemberDef children_members[] = {
    {"process", T_OBJECT_EX, offsetof(Children, process), READONLY, NULL},
    {"family", T_OBJECT_EX, offsetof(Children, family), READONLY, NULL},
    {"context", T_OBJECT, offsetof(Children, context), 0, "For the owner's use."},
    {"bounds", T_OBJECT, offsetof(Children, bounds), READONLY, "Upper bounds of a distribution's buckets, else None."},
    {"layout", T_OBJECT, offsetof(Children, layout), READONLY, "Layout of a sketch, else None."},
    {"limit", T_PYSSIZET, offsetof(Children, limit), READONLY, "Series at most."},
    {"budget", T_PYSSIZET, offsetof(Children, budget), READONLY, "Bytes of their keys at most."},
    {"number", T_LONG, offsetof(Children, number), 0, "The family's number in the slab; -1: it could not be declared."},
    {"stamp", T_ULONGLONG, offsetof(Children, stamp), 0, "The process's token when it was declared."},
    {NULL},
};

static PyGetSetDef children_fields[] = {
    {"name", (getter)get_name, NULL, "The metric's name, for messages.", NULL},
    {"width", (getter)get_width, NULL, "Words of a series.", NULL},
    {NULL},
};

static PySequenceMethods children_as_sequence = {.sq_length = (lenfunc)length, .sq_contains = (objobjproc)contains};

PyTypeObject Children_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Children",
    .tp_doc = "Children(process, family, cell_type, *, width, limit, budget, context=None)\n--\n\n"
              "The series of one metric in this process, by key.",
    .tp_basicsize = sizeof(Children),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = children_new,
    .tp_dealloc = (destructor)children_dealloc,
    .tp_traverse = (traverseproc)children_traverse,
    .tp_clear = (inquiry)children_clear,
    .tp_iter = (getiterfunc)iterate,
    .tp_as_sequence = &children_as_sequence,
    .tp_methods = children_methods,
    .tp_members = children_members,
    .tp_getset = children_fields,
};

PyObject *cell_place(Cell *self, void *Py_UNUSED(closure))
{
    if (!has_place(self))
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(self->first);
}
