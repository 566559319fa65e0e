/* The series of one metric in this process: how they are found, made, bound anew, moved and ended.

   Making one takes what calls into Python (a beginning, a declaration, growth) one step at a time, and looks at everything
   again after each: what runs there may do the same. What is left then is one stretch without Python code. */

#include "cells.h"
#include <structmember.h>
#include <time.h>

enum { FAILED = -1, READY, AGAIN, REFUSED };

#define TOO_LARGE ((size_t)MAX_BODY)

/* ---- The mapping */

static uint64_t hash_values(PyObject *const *values, Py_ssize_t count)
{
    uint64_t hash = (uint64_t)count;
    for (Py_ssize_t at = 0; at < count; at++) {
        /* Those of str objects are made with a key that nobody outside knows, and mostly are kept there. */
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
    if (count < 0 || cell->key == Py_None)
        return count < 0 && cell->key == Py_None;
    if (PyTuple_GET_SIZE(cell->key) != count)
        return 0;
    for (Py_ssize_t at = 0; at < count; at++)
        if (!are_equal(PyTuple_GET_ITEM(cell->key, at), values[at]))
            return 0;
    return 1;
}

/* `values` are exact str; a `count` of -1 stands for the overflow series. */
static Entry *find_entry(const Children *self, PyObject *const *values, Py_ssize_t count)
{
    if (self->used == 0)
        return NULL;
    uint64_t hash = hash_values(values, count);
    for (size_t slot = hash & self->mask;; slot = (slot + 1) & self->mask) {
        int32_t at = self->slots[slot];
        if (at < 0)
            return NULL;
        Entry *entry = &self->entries[at];
        if (entry->hash == hash && entry->cell != NULL && has_key(entry->cell, values, count))
            return entry;
    }
}

static PyObject *const *key_values(PyObject *key, Py_ssize_t *count)
{
    *count = key == Py_None ? -1 : PyTuple_GET_SIZE(key);
    return key == Py_None ? NULL : &PyTuple_GET_ITEM(key, 0);
}

static Entry *find_key(const Children *self, PyObject *key)
{
    Py_ssize_t count;
    PyObject *const *values = key_values(key, &count);
    return find_entry(self, values, count);
}

Cell *children_find(const Children *self, PyObject *const *values, Py_ssize_t count)
{
    Entry *entry = find_entry(self, values, count);
    return entry == NULL ? NULL : entry->cell;
}

/* Have room for one more. MemoryError. */
static int reserve(Children *self)
{
    if (self->filled < self->room)
        return 0;
    size_t size = 8;
    while (size < 3 * (size_t)self->used + 8)
        size *= 2;
    Py_ssize_t room = (Py_ssize_t)(size / 3 * 2);
    Entry *entries = PyMem_Malloc((size_t)room * sizeof *entries);
    int32_t *slots = PyMem_Malloc(size * sizeof *slots);
    if (entries == NULL || slots == NULL || size > INT32_MAX) {
        PyMem_Free(entries);
        PyMem_Free(slots);
        PyErr_NoMemory();
        return -1;
    }
    memset(slots, -1, size * sizeof *slots);
    Py_ssize_t filled = 0;
    for (Py_ssize_t at = 0; at < self->filled; at++) {
        if (self->entries[at].cell == NULL)
            continue;
        size_t slot = self->entries[at].hash & (size - 1);
        while (slots[slot] >= 0)
            slot = (slot + 1) & (size - 1);
        slots[slot] = (int32_t)filled;
        entries[filled++] = self->entries[at];
    }
    PyMem_Free(self->entries);
    PyMem_Free(self->slots);
    self->entries = entries;
    self->slots = slots;
    self->filled = filled;
    self->room = room;
    self->mask = size - 1;
    return 0;
}

/* Takes over the reference; there has to be room. */
static void insert(Children *self, Cell *cell)
{
    Py_ssize_t count;
    PyObject *const *values = key_values(cell->key, &count);
    uint64_t hash = hash_values(values, count);
    size_t slot = hash & self->mask;
    while (self->slots[slot] >= 0)
        slot = (slot + 1) & self->mask;
    self->slots[slot] = (int32_t)self->filled;
    self->entries[self->filled++] = (Entry){hash, cell};
    self->used++;
}

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

/* Bytes of its texts in a record; TOO_LARGE when it fits into none. -1 when UTF-8 cannot carry it. */
static int measure(PyObject *key, size_t *texts)
{
    *texts = 2;
    for (Py_ssize_t at = 0; key != Py_None && at < PyTuple_GET_SIZE(key); at++) {
        Py_ssize_t size;
        if (PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(key, at), &size) == NULL)
            return -1;
        *texts += size > UINT16_MAX ? TOO_LARGE : 2 + (size_t)size;
    }
    if (*texts + sizeof(SeriesHead) > MAX_BODY)
        *texts = TOO_LARGE;
    return 0;
}

/* Of the texts alone, without their lengths. */
static size_t key_bytes(PyObject *key, size_t texts)
{
    return key == Py_None ? 0 : texts - 2 - 2 * (size_t)PyTuple_GET_SIZE(key);
}

/* ---- One attempt to have a series written */

typedef struct {
    PyObject *key;
    size_t texts;
    int counts, waits; /* whether the process has to count; whether the series has to wait for room */
    uint64_t generation; /* that the record has */
    uint64_t noticed; /* the generation up to which removals were taken in, or could not be */
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

/* READY, and no Python code has run since the process was found begun and without removals to take in. */
static int look(Process *process, Attempt *attempt)
{
    if (tell_time(process, &attempt->created) < 0)
        return FAILED;
    if (attempt->counts && has_begun(process, 0) && !has_begun(process, 1) && process->slab != NULL) {
        if (slab_claim(process->slab) == 0)
            process->words[COUNTING] = process->token;
        PyErr_Clear(); /* the owner tries again, and says why it cannot be */
    }
    if (!has_begun(process, attempt->counts))
        return owner_call(process, "begin", attempt->counts ? Py_True : Py_False) < 0 ? FAILED : AGAIN;
    uint64_t generation = process_generation(process);
    if (generation == process->seen || generation == attempt->noticed)
        return READY;
    attempt->noticed = generation;
    if (process_skip_removals(process, generation))
        return AGAIN;
    return owner_call(process, "notice", NULL) < 0 ? FAILED : AGAIN;
}

/* READY: the slab has room, and no Python code has run. AGAIN: now it has. REFUSED: there is none. */
static int grow(Process *process, Py_ssize_t words, Py_ssize_t bytes)
{
    if (slab_has_room(process->slab, (size_t)words, (size_t)bytes)
        || slab_grow(process->slab, (size_t)words, (size_t)bytes) > 0)
        return READY;
    PyErr_Clear(); /* the owner tries again, and says why it cannot be */
    PyObject *has_room = PyObject_CallMethod(process->owner, "grow", "nn", words, bytes);
    int is_true = has_room == NULL ? -1 : PyObject_IsTrue(has_room);
    Py_XDECREF(has_room);
    return is_true < 0 ? FAILED : is_true ? AGAIN : REFUSED;
}

/* READY: the slab has room for the series, or it has to wait. */
static int prepare(Children *self, Attempt *attempt)
{
    Process *process = self->process;
    if (self->stamp != process->token)
        return owner_call(process, "declare_in", (PyObject *)self) < 0 ? FAILED : AGAIN;
    if (process->slab == NULL || self->number < 0)
        attempt->waits = 1;
    size_t bytes = record_size(sizeof(SeriesHead) + attempt->texts);
    if (attempt->waits)
        return READY;
    int step = grow(process, self->width, (Py_ssize_t)bytes);
    attempt->waits = step == REFUSED;
    return step == REFUSED ? AGAIN : step;
}

/* Have the cell write to these words from now on. `slab` NULL: they are its own, from PyMem. */
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

/* Write the series, whose words are `values` or zero. There has to be room. */
static void write_series(Children *self, Cell *cell, Attempt *attempt, const double *values)
{
    Process *process = self->process;
    Slab *slab = process->slab;
    /* A series that is moved is as old as what was taken in when it was made, at least. */
    attempt->generation = values == NULL ? process_generation(process) : process->seen;
    uint32_t first = slab_take(slab, (size_t)self->width);
    double *words = slab_words(slab, first);
    for (Py_ssize_t at = 0; values != NULL && at < self->width; at++)
        store_word(words + at, load_word(values + at));
    SeriesHead head = {(uint32_t)self->number, (uint32_t)self->width, first, attempt->created, attempt->generation};
    slab_put_series(slab, &head, cell->key, attempt->texts);
    if (values == NULL)
        cell->count = 0;
    point(cell, slab, first, words);
}

/* Give the cell words: in the slab, or while it waits, its own. */
static int settle(Children *self, Cell *cell, Attempt *attempt)
{
    if (!attempt->waits) {
        write_series(self, cell, attempt, NULL);
        return READY;
    }
    double *words = PyMem_Calloc((size_t)self->width, sizeof *words);
    if (words == NULL) {
        PyErr_NoMemory();
        return FAILED;
    }
    cell->count = 0;
    point(cell, NULL, 0, words);
    return READY;
}

/* What there is to do once a series is there: AGAIN when it was removed at the same moment. */
static int finish(Process *process, Cell *cell, const Attempt *attempt)
{
    if (attempt->waits)
        return owner_call(process, "waits", (PyObject *)cell);
    /* A remover stores the generation, then readers look at the slabs: one of us sees the other. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (process_generation(process) != attempt->generation && owner_call(process, "notice", NULL) < 0)
        return FAILED;
    return cell->state == GONE ? AGAIN : READY;
}

static Cell *new_cell(Children *self, PyObject *key)
{
    Cell *cell = (Cell *)self->cell_type->tp_alloc(self->cell_type, 0);
    if (cell != NULL) {
        cell->children = (Children *)Py_NewRef(self);
        cell->key = Py_NewRef(key);
        cell->counting = &self->process->words[COUNTING];
        cell->stamp = UINT64_MAX; /* no token */
    }
    return cell;
}

static int is_full(const Children *self, const Attempt *attempt)
{
    if (attempt->key == Py_None)
        return 0;
    return self->used - (find_key(self, Py_None) != NULL) >= self->limit || attempt->texts == TOO_LARGE
        || self->bytes + key_bytes(attempt->key, attempt->texts) > self->budget;
}

PyObject *children_make(Children *self, PyObject *key)
{
    Process *process = self->process;
    if (has_begun(process, 0) && process_generation(process) == process->seen) {
        Entry *found = find_key(self, key);
        if (found != NULL)
            return Py_NewRef(found->cell);
    }
    Attempt attempt = {.key = key, .noticed = process->seen};
    Cell *cell = NULL;
    int step = measure(key, &attempt.texts) < 0 ? FAILED : AGAIN;
    while (step == AGAIN) {
        step = look(process, &attempt);
        if (step != READY)
            continue;
        Entry *found = find_key(self, key);
        if (found != NULL || is_full(self, &attempt)) {
            PyObject *result = found != NULL ? Py_NewRef(found->cell)
                                             : PyObject_CallMethod(process->owner, "overflow", "O", self);
            Py_XDECREF(cell);
            return result;
        }
        if (cell == NULL) {
            cell = new_cell(self, key); /* which may collect garbage, and so run Python code */
            step = cell == NULL ? FAILED : AGAIN;
            continue;
        }
        step = prepare(self, &attempt);
        if (step == READY)
            step = reserve(self) < 0 ? FAILED : settle(self, cell, &attempt);
        if (step != READY)
            continue;
        cell->state = LIVE;
        insert(self, (Cell *)Py_NewRef(cell));
        self->bytes += key_bytes(key, attempt.texts);
        step = finish(process, cell, &attempt);
        if (step == AGAIN)
            Py_CLEAR(cell);
    }
    if (step == FAILED)
        Py_CLEAR(cell);
    return (PyObject *)cell;
}

int cell_bind(Cell *cell)
{
    Children *self = cell->children;
    Attempt attempt = {.key = cell->key, .counts = 1, .noticed = self->process->seen};
    int step = measure(cell->key, &attempt.texts) < 0 ? FAILED : AGAIN;
    while (step == AGAIN) {
        step = look(self->process, &attempt);
        if (step == READY && (cell->state == GONE || cell->stamp == self->process->token))
            return 0;
        if (step == READY)
            step = prepare(self, &attempt);
        if (step == READY)
            step = settle(self, cell, &attempt);
    }
    return step == FAILED || finish(self->process, cell, &attempt) == FAILED ? -1 : 0;
}

/* ---- Methods */

static PyObject *make_method(Children *self, PyObject *key)
{
    return check_key(key) < 0 ? NULL : children_make(self, key);
}

static PyObject *move_method(Children *self, PyObject *argument)
{
    Cell *cell = (Cell *)argument;
    Process *process = self->process;
    if (!PyObject_TypeCheck(argument, &Cell_Type) || cell->children != self)
        return PyErr_Format(PyExc_ValueError, "%R is no series of %R", argument, self->name);
    Attempt attempt = {.key = cell->key};
    if (measure(cell->key, &attempt.texts) < 0 || tell_time(process, &attempt.created) < 0)
        return NULL;
    if (!has_begun(process, 0) || self->stamp != process->token || process->slab == NULL || self->number < 0)
        Py_RETURN_FALSE;
    if (cell->state != LIVE || cell->stamp != process->token || cell->slab == process->slab)
        Py_RETURN_TRUE;
    size_t bytes = record_size(sizeof(SeriesHead) + attempt.texts);
    if (!slab_has_room(process->slab, (size_t)self->width, bytes))
        Py_RETURN_FALSE;
    write_series(self, cell, &attempt, cell->words);
    Py_RETURN_TRUE;
}

static int has_place(const Cell *cell)
{
    const Process *process = cell->children == NULL ? NULL : cell->children->process;
    return cell->state == LIVE && cell->slab != NULL && cell->slab == process->slab && has_begun(process, 0)
        && cell->stamp == process->token;
}

static PyObject *end_method(Children *self, PyObject *key)
{
    size_t texts;
    if (check_key(key) < 0 || measure(key, &texts) < 0)
        return NULL;
    double *own = PyMem_Calloc((size_t)self->width, sizeof *own);
    if (own == NULL)
        return PyErr_NoMemory();
    Entry *entry = find_key(self, key);
    /* A series of the parent of this process, or of a slab that is given up, is ended by nobody. */
    for (int step = AGAIN; step == AGAIN && entry != NULL && has_place(entry->cell);) {
        step = grow(self->process, 0, (Py_ssize_t)record_size(sizeof(uint64_t)));
        if (step == FAILED) {
            PyMem_Free(own);
            return NULL;
        }
        if (step != READY)
            entry = find_key(self, key);
    }
    if (entry == NULL) {
        PyMem_Free(own);
        Py_RETURN_TRUE;
    }
    Cell *cell = entry->cell;
    entry->cell = NULL;
    self->used--;
    self->bytes -= key_bytes(key, texts);
    int is_ended = !has_place(cell) || slab_end(cell->slab, cell->first, (size_t)self->width);
    point(cell, NULL, 0, own);
    cell->stamp = *cell->counting;
    cell->state = GONE;
    cell->count = 0;
    Py_DECREF(cell);
    return PyBool_FromLong(is_ended);
}

static PyObject *get_method(Children *self, PyObject *key)
{
    Entry *entry = check_key(key) < 0 ? NULL : find_key(self, key);
    if (PyErr_Occurred())
        return NULL;
    return Py_NewRef(entry == NULL ? Py_None : (PyObject *)entry->cell);
}

static int contains(Children *self, PyObject *key) { return check_key(key) < 0 ? -1 : find_key(self, key) != NULL; }

static Py_ssize_t length(Children *self) { return self->used; }

enum { KEYS, VALUES, ITEMS };

static PyObject *list_of(Children *self, int what)
{
    PyObject *list = PyList_New(0);
    for (Py_ssize_t at = 0; list != NULL && at < self->filled; at++) {
        Cell *cell = self->entries[at].cell;
        if (cell == NULL)
            continue;
        PyObject *item = what == KEYS ? Py_NewRef(cell->key)
            : what == VALUES          ? Py_NewRef(cell)
                                      : PyTuple_Pack(2, cell->key, cell);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
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

/* ---- Made from a family */

static PyObject *attribute(Children *self, const char *name) { return PyObject_GetAttrString(self->family, name); }

static int take_bounds(Children *self)
{
    PyObject *bounds = attribute(self, "bounds");
    if (bounds != NULL && PyTuple_Check(bounds) && PyTuple_GET_SIZE(bounds) == 0)
        Py_SETREF(bounds, Py_BuildValue("(d)", Py_HUGE_VAL));
    if (bounds == NULL)
        return -1;
    self->bounds = bounds;
    Py_ssize_t count = PyTuple_Check(bounds) ? PyTuple_GET_SIZE(bounds) : 0;
    self->bound = PyMem_Calloc((size_t)count + 1, sizeof *self->bound);
    if (self->bound == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; self->bound_count < count; self->bound_count++) {
        PyObject *bound = PyTuple_GET_ITEM(bounds, self->bound_count);
        if (!PyFloat_Check(bound))
            break;
        self->bound[self->bound_count] = PyFloat_AS_DOUBLE(bound);
    }
    if (count == 0 || self->bound_count < count || self->bound[count - 1] != Py_HUGE_VAL) {
        PyErr_Format(PyExc_ValueError, "bounds are floats, the last one infinite: %R", bounds);
        return -1;
    }
    return 0;
}

static double layout_number(PyObject *layout, const char *name)
{
    PyObject *value = PyObject_GetAttrString(layout, name);
    double number = value == NULL ? -1.0 : PyFloat_AsDouble(value);
    Py_XDECREF(value);
    return number;
}

static int take_layout(Children *self)
{
    PyObject *module = PyImport_ImportModule("mpmetrics._cells.sketch"), *mode = attribute(self, "mode");
    PyObject *layouts = module == NULL ? NULL : PyObject_GetAttrString(module, "LAYOUTS");
    if (layouts != NULL && mode != NULL)
        self->layout = PyObject_GetItem(layouts, mode);
    Py_XDECREF(layouts);
    Py_XDECREF(mode);
    Py_XDECREF(module);
    if (self->layout == NULL)
        return -1;
    PyObject *layout = self->layout;
    double side = layout_number(layout, "side"), zero = layout_number(layout, "zero");
    double size = layout_number(layout, "size"), is_signed = layout_number(layout, "signed");
    self->shape = (Layout){layout_number(layout, "lowest"), layout_number(layout, "log_growth"), (Py_ssize_t)side,
                           (Py_ssize_t)zero, (Py_ssize_t)size, is_signed != 0.0};
    return PyErr_Occurred() ? -1 : 0;
}

/* How many words a series has: else a cell would write into its neighbour's. */
static Py_ssize_t words_of(const Children *self)
{
    if (PyType_IsSubtype(self->cell_type, &DistributionCell_Type))
        return 2 + self->bound_count;
    if (PyType_IsSubtype(self->cell_type, &SketchCell_Type))
        return 12 + self->shape.size;
    return PyType_IsSubtype(self->cell_type, &RecentCell_Type) ? 4 : 1;
}

static int take_family(Children *self)
{
    PyObject *labels = attribute(self, "labels"), *is_open = attribute(self, "is_open");
    self->name = attribute(self, "name");
    int open = is_open == NULL ? -1 : PyObject_IsTrue(is_open);
    Py_ssize_t count = labels == NULL ? -1 : PyObject_Size(labels);
    Py_XDECREF(labels);
    Py_XDECREF(is_open);
    if (self->name == NULL || open < 0 || count < 0)
        return -1;
    self->labels = open ? -1 : count;
    if (PyType_IsSubtype(self->cell_type, &DistributionCell_Type) && take_bounds(self) < 0)
        return -1;
    if (PyType_IsSubtype(self->cell_type, &SketchCell_Type) && take_layout(self) < 0)
        return -1;
    if (self->width != words_of(self)) {
        PyErr_Format(PyExc_ValueError, "a series of %R has %zd words, not %zd", self->name, words_of(self),
                     self->width);
        return -1;
    }
    return 0;
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
        return PyErr_Format(PyExc_TypeError, "%R is no kind of cell", cell_type);
    if (limit < 0 || budget < 0)
        return PyErr_Format(PyExc_ValueError, "a metric has a limit and a budget of 0 or more, not %zd and %zd", limit,
                            budget);
    Children *self = (Children *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->process = (Process *)Py_NewRef(process);
    self->family = Py_NewRef(family);
    self->cell_type = (PyTypeObject *)Py_NewRef(cell_type);
    self->context = Py_NewRef(context);
    self->width = width;
    self->limit = limit;
    self->budget = (size_t)budget;
    if (take_family(self) < 0) {
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
    for (Py_ssize_t at = 0; at < self->filled; at++)
        Py_VISIT(self->entries[at].cell);
    return 0;
}

static int children_clear(Children *self)
{
    Entry *entries = self->entries;
    Py_ssize_t filled = self->filled;
    PyMem_Free(self->slots);
    self->entries = NULL;
    self->slots = NULL;
    self->filled = self->used = self->room = 0;
    for (Py_ssize_t at = 0; at < filled; at++)
        Py_XDECREF(entries[at].cell);
    PyMem_Free(entries);
    Py_CLEAR(self->context);
    return 0;
}

static void children_dealloc(Children *self)
{
    PyObject_GC_UnTrack(self);
    children_clear(self);
    PyMem_Free(self->bound);
    Py_XDECREF(self->bounds);
    Py_XDECREF(self->layout);
    Py_XDECREF(self->name);
    Py_XDECREF(self->cell_type);
    Py_XDECREF(self->family);
    Py_XDECREF(self->process);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef children_methods[] = {
    {"get", (PyCFunction)get_method, METH_O, "get($self, key, /)\n--\n\nThe series of this key, or None."},
    {"make", (PyCFunction)make_method, METH_O,
     "make($self, key, /)\n--\n\nThe series of this key, made at its first use; past the cap, the overflow series."},
    {"end", (PyCFunction)end_method, METH_O,
     "end($self, key, /)\n--\n\nEnd a series of this process. False when its END could not be written."},
    {"move", (PyCFunction)move_method, METH_O,
     "move($self, cell, /)\n--\n\nGive a series that is elsewhere words in the slab. False when it has no room."},
    {"keys", (PyCFunction)keys_method, METH_NOARGS, "keys($self)\n--\n\nA list of the keys, in the order they came."},
    {"values", (PyCFunction)values_method, METH_NOARGS, "values($self)\n--\n\nA list of the series."},
    {"items", (PyCFunction)items_method, METH_NOARGS, "items($self)\n--\n\nA list of keys and series."},
    {NULL},
};

static PyMemberDef children_members[] = {
    {"process", T_OBJECT_EX, offsetof(Children, process), READONLY, NULL},
    {"family", T_OBJECT_EX, offsetof(Children, family), READONLY, NULL},
    {"name", T_OBJECT_EX, offsetof(Children, name), READONLY, "The metric's name, for messages."},
    {"context", T_OBJECT, offsetof(Children, context), 0, "Whatever the owner wants."},
    {"bounds", T_OBJECT, offsetof(Children, bounds), READONLY, "Of the buckets of a distribution, else None."},
    {"layout", T_OBJECT, offsetof(Children, layout), READONLY, "Of a sketch, else None."},
    {"width", T_PYSSIZET, offsetof(Children, width), READONLY, "Words of a series."},
    {"limit", T_PYSSIZET, offsetof(Children, limit), READONLY, "Series that there may be."},
    {"budget", T_PYSSIZET, offsetof(Children, budget), READONLY, "Bytes that their keys may have."},
    {"number", T_LONG, offsetof(Children, number), 0, "The family's in the slab; -1: it could not be declared."},
    {"stamp", T_ULONGLONG, offsetof(Children, stamp), 0, "The token under which it was declared."},
    {NULL},
};

static PySequenceMethods children_as_sequence = {.sq_length = (lenfunc)length, .sq_contains = (objobjproc)contains};

PyTypeObject Children_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Children",
    .tp_doc = "Children(process, family, cell_type, *, width, limit, budget, context=None)\n--\n\n"
              "The series of one metric in this process, by their keys.",
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
};

PyObject *cell_place(Cell *self, void *Py_UNUSED(closure))
{
    if (!has_place(self))
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(self->first);
}
