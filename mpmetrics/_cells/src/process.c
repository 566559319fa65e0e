/* The state of one provider in this process: whether it has a slab and counts, and which removals it has applied. */

#include "cells.h"
#include <structmember.h>

int owner_call(Process *self, const char *method, PyObject *argument)
{
    PyObject *done = argument == NULL ? PyObject_CallMethod(self->owner, method, NULL)
                                      : PyObject_CallMethod(self->owner, method, "O", argument);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *process_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"owner", NULL};
    PyObject *owner;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Process", names, &owner))
        return NULL;
    uint64_t *words = wipe_page();
    Process *self = words == NULL ? NULL : (Process *)type->tp_alloc(type, 0);
    if (self == NULL) {
        if (words != NULL)
            wipe_page_free(words);
        return NULL;
    }
    self->words = words;
    self->owner = Py_NewRef(owner);
    return (PyObject *)self;
}

static int process_traverse(Process *self, visitproc visit, void *arg)
{
    Py_VISIT(self->owner);
    Py_VISIT(self->clock);
    Py_VISIT(self->metrics);
    return 0;
}

/* No tp_clear: a finaliser may still write to a series of a cycle that the garbage collector clears; clearing the owner
   breaks the cycle. */
static void process_dealloc(Process *self)
{
    PyObject_GC_UnTrack(self);
    if (self->watched.obj != NULL)
        PyBuffer_Release(&self->watched);
    wipe_page_free(self->words);
    Py_XDECREF(self->slab);
    Py_XDECREF(self->metrics);
    Py_XDECREF(self->where.path);
    Py_XDECREF(self->clock);
    Py_XDECREF(self->owner);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *process_watch(Process *self, PyObject *args)
{
    PyObject *map;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "On:watch", &map, &at))
        return NULL;
    Py_buffer view = {0}, before = self->watched;
    if (map != Py_None) {
        if (PyObject_GetBuffer(map, &view, PyBUF_SIMPLE) < 0)
            return NULL;
        if (at < 0 || at >= view.len / WORD_SIZE || (uintptr_t)view.buf % WORD_SIZE != 0) {
            PyBuffer_Release(&view);
            return PyErr_Format(PyExc_ValueError, "%R has no word %zd", map, at);
        }
    }
    self->watched = view;
    self->generation = view.obj == NULL ? NULL : (const uint64_t *)view.buf + at;
    if (before.obj != NULL)
        PyBuffer_Release(&before);
    Py_RETURN_NONE;
}

static PyObject *process_word(Process *self, void *which)
{
    return PyLong_FromUnsignedLongLong(self->words[(intptr_t)which]);
}

static int process_set_word(Process *self, PyObject *value, void *which)
{
    unsigned long long word = value == NULL ? 0 : PyLong_AsUnsignedLongLong(value);
    if (word == (unsigned long long)-1 && PyErr_Occurred())
        return -1;
    self->words[(intptr_t)which] = word;
    return 0;
}

static PyObject *process_get_slab(Process *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->slab == NULL ? Py_None : (PyObject *)self->slab);
}

static int process_set_slab(Process *self, PyObject *slab, void *Py_UNUSED(closure))
{
    if (slab == NULL || (slab != Py_None && !Py_IS_TYPE(slab, &Slab_Type))) {
        PyErr_SetString(PyExc_TypeError, "slab must be a Slab or None");
        return -1;
    }
    Py_XSETREF(self->slab, slab == Py_None ? NULL : (Slab *)Py_NewRef(slab));
    return 0;
}

static PyObject *process_get_generation(Process *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(self->generation == NULL ? 0 : process_generation(self));
}

static PyObject *process_is_due(Process *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(process_generation(self) != self->seen);
}

static PyObject *process_follow(Process *self, PyObject *args)
{
    Directory where = {0};
    PyObject *metrics;
    if (!PyArg_ParseTuple(args, "O&O!:follow", directory_converter, &where, &PyDict_Type, &metrics))
        return NULL;
    Py_XDECREF(self->where.path);
    self->where = where;
    Py_XSETREF(self->metrics, Py_NewRef(metrics));
    self->removals = self->shortened = 0;
    self->position = 0;
    Py_RETURN_NONE;
}

static PyMethodDef process_methods[] = {
    {"follow", (PyCFunction)process_follow, METH_VARARGS,
     "follow($self, where, metrics, /)\n--\n\nSkip removals of this epoch that end no series of ``metrics``."},
    {"watch", (PyCFunction)process_watch, METH_VARARGS,
     "watch($self, map, index, /)\n--\n\nUse the u64 at word ``index`` of ``map`` as the generation; with None, no longer "
     "watch any."},
    {NULL},
};

static PyGetSetDef process_fields[] = {
    {"counting", (getter)process_word, (setter)process_set_word, "The token, while the process counts under an ordinal.",
     (void *)COUNTING},
    {"begun", (getter)process_word, (setter)process_set_word, "The token, while the process has a slab.", (void *)BEGUN},
    {"slab", (getter)process_get_slab, (setter)process_set_slab, "The slab for new series; None: they wait.", NULL},
    {"generation", (getter)process_get_generation, NULL, "The present generation of removals; 0 if none is watched.",
     NULL},
    {"is_due", (getter)process_is_due, NULL, "Whether removals were made that this process has not applied.", NULL},
    {NULL},
};

static PyMemberDef process_members[] = {
    {"owner", T_OBJECT_EX, offsetof(Process, owner), READONLY, NULL},
    {"clock", T_OBJECT, offsetof(Process, clock), 0, "Returns the Unix time; None: the system's."},
    {"token", T_ULONGLONG, offsetof(Process, token), 0, "Identifies the present slab; 0: none yet."},
    {"seen", T_ULONGLONG, offsetof(Process, seen), 0, "The last applied generation of removals."},
    {"time_offset", T_LONGLONG, offsetof(Process, time_offset), 0,
     "Nanoseconds by which the monotonic clock is ahead of the machine's."},
    {NULL},
};

PyTypeObject Process_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Process",
    .tp_doc = "Process(owner)\n--\n\nThe state of one provider in this process.",
    .tp_basicsize = sizeof(Process),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = process_new,
    .tp_dealloc = (destructor)process_dealloc,
    .tp_traverse = (traverseproc)process_traverse,
    .tp_methods = process_methods,
    .tp_getset = process_fields,
    .tp_members = process_members,
};
