/* Cells of one value: counters, gauges, and gauges whose latest value counts. */

#include "cells.h"
#include <time.h>

static const char *const amount_names[] = {"amount", "exemplar"};
static const char *const value_names[] = {"value"};

/* ---- CounterCell */

static PyObject *counter_inc(Cell *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    double amount = 1.0;
    if (count != 0 || names != NULL) {
        PyObject *values[2] = {NULL, NULL};
        if (parse_arguments("inc", args, count, names, amount_names, -2, values) < 0
            || (values[1] != NULL && warn_exemplar(values[1]) < 0)
            || (values[0] != NULL && parse_number(values[0], &amount) < 0))
            return NULL;
        if (!(amount >= 0))
            return PyErr_Format(PyExc_ValueError, "counter %R can only go up: it cannot be increased by %R",
                                self->shape->name,
                                values[0]);
    }
    double *word = cell_words(self);
    if (word == NULL)
        return NULL;
    store_word(word, load_word(word) + amount);
    Py_RETURN_NONE;
}

static PyMethodDef counter_methods[] = {
    {"inc", (PyCFunction)(void (*)(void))counter_inc, METH_FASTCALL | METH_KEYWORDS,
     "inc($self, /, amount=1, exemplar=None)\n--\n\n"
     "Add ``amount``. Safe from any thread, signal handler or finaliser.\n\n"
     "Raises ValueError, and changes nothing, when it is negative or not a number. ``exemplar`` is accepted for\n"
     "compatibility but not kept; the first one logs a warning."},
    {NULL},
};

PyTypeObject CounterCell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.CounterCell",
    .tp_doc = "One word that only grows.",
    .tp_basicsize = sizeof(Cell),
    .tp_base = &Cell_Type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_methods = counter_methods,
};

/* ---- GaugeCell. All bits zero: never set. A value of zero is stored as -0.0. */

static inline double gauge_word(double value) { return value == 0.0 ? -0.0 : value; }

static PyObject *gauge_move(Cell *self, PyObject *const *args, Py_ssize_t count, PyObject *names, const char *method,
                            double sign)
{
    double amount = 1.0;
    if (count != 0 || names != NULL) {
        PyObject *values[1] = {NULL};
        if (parse_arguments(method, args, count, names, amount_names, -1, values) < 0
            || (values[0] != NULL && parse_number(values[0], &amount) < 0))
            return NULL;
    }
    amount *= sign;
    double *word = cell_words(self);
    if (word == NULL)
        return NULL;
    store_word(word, gauge_word(load_word(word) + amount));
    Py_RETURN_NONE;
}

static PyObject *gauge_inc(Cell *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return gauge_move(self, args, count, names, "inc", 1.0);
}

static PyObject *gauge_dec(Cell *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return gauge_move(self, args, count, names, "dec", -1.0);
}

static PyObject *gauge_set(Cell *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    double value;
    if (count != 1 || names != NULL) {
        PyObject *values[1] = {NULL};
        if (parse_arguments("set", args, count, names, value_names, 1, values) < 0 || parse_float(values[0], &value) < 0)
            return NULL;
    } else if (parse_float(args[0], &value) < 0) {
        return NULL;
    }
    double *word = cell_words(self);
    if (word == NULL)
        return NULL;
    store_word(word, gauge_word(value));
    Py_RETURN_NONE;
}

static PyObject *gauge_unset(Cell *self, PyObject *Py_UNUSED(none))
{
    double *word = cell_words(self);
    if (word == NULL)
        return NULL;
    store_word(word, 0.0);
    Py_RETURN_NONE;
}

static PyMethodDef gauge_methods[] = {
    {"inc", (PyCFunction)(void (*)(void))gauge_inc, METH_FASTCALL | METH_KEYWORDS,
     "inc($self, /, amount=1)\n--\n\nAdd ``amount``. Safe from any thread, signal handler or finaliser."},
    {"dec", (PyCFunction)(void (*)(void))gauge_dec, METH_FASTCALL | METH_KEYWORDS,
     "dec($self, /, amount=1)\n--\n\nSubtract ``amount``. Safe from any thread, signal handler or finaliser."},
    {"set", (PyCFunction)(void (*)(void))gauge_set, METH_FASTCALL | METH_KEYWORDS,
     "set($self, /, value)\n--\n\nSet the value. Safe from any thread, signal handler or finaliser."},
    {"unset", (PyCFunction)gauge_unset, METH_NOARGS,
     "unset($self, /)\n--\n\nReturn to the state of a gauge that was never set."},
    {NULL},
};

PyTypeObject GaugeCell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.GaugeCell",
    .tp_doc = "One word that goes up and down. All bits zero: never set.",
    .tp_basicsize = sizeof(Cell),
    .tp_base = &Cell_Type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_methods = gauge_methods,
};

/* ---- RecentCell: a value and the time at which it was set, in two copies. The later copy counts. */

/* Times are u64: nanoseconds. */
static uint64_t load_time(const double *at) { return *(const volatile uint64_t *)at; }

static void commit_time(double *at, uint64_t time)
{
    __atomic_store_n((uint64_t *)at, time, __ATOMIC_RELEASE);
}

/* A process's later value always gets a later time, even if the clock is coarse. */
static uint64_t next_time(const Children *children)
{
    static Process nobody; /* stands for the process of a cell that is gone */
    Process *process = children == NULL ? &nobody : children->process;
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    int64_t now = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec - process->time_offset;
    if (now > 0 && (uint64_t)now > process->last_time)
        process->last_time = (uint64_t)now;
    else
        process->last_time++;
    return process->last_time;
}

static PyObject *recent_set(Cell *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *values[1] = {NULL};
    double value;
    if (parse_arguments("set", args, count, names, value_names, 1, values) < 0 || parse_float(values[0], &value) < 0)
        return NULL;
    double *words = cell_words(self);
    if (words == NULL)
        return NULL;
    double *older = load_time(words + 1) <= load_time(words + 3) ? words : words + 2;
    store_word(older, value);
    /* The commit: with its later time, this copy counts from now on. */
    commit_time(older + 1, next_time(self->children));
    Py_RETURN_NONE;
}

static PyObject *recent_unset(Cell *self, PyObject *Py_UNUSED(none))
{
    double *words = cell_words(self);
    if (words == NULL)
        return NULL;
    /* Clear the older copy first: until the second store, the later copy still counts. */
    int older = load_time(words + 1) <= load_time(words + 3) ? 1 : 3;
    commit_time(words + older, 0);
    commit_time(words + 4 - older, 0);
    Py_RETURN_NONE;
}

static PyMethodDef recent_methods[] = {
    {"set", (PyCFunction)(void (*)(void))recent_set, METH_FASTCALL | METH_KEYWORDS,
     "set($self, /, value)\n--\n\n"
     "Set the value, with the present time. Safe from any thread, signal handler or finaliser."},
    {"unset", (PyCFunction)recent_unset, METH_NOARGS,
     "unset($self, /)\n--\n\nReturn to the state of a gauge that was never set."},
    {NULL},
};

PyTypeObject RecentCell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.RecentCell",
    .tp_doc = "A value and the time at which it was set, in two copies. The later copy counts.",
    .tp_basicsize = sizeof(Cell),
    .tp_base = &Cell_Type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_methods = recent_methods,
};
