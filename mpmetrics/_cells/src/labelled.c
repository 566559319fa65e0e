/* The look-up of a series by its label values. */

#include "cells.h"

enum { MAX_VALUE = 1024 }; /* characters of a label value that need no shortening */

typedef struct {
    PyObject_HEAD
    Children *children;
} Labelled;

/* Call the subclass's `_resolve(values, named)`. */
static PyObject *resolve(Labelled *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *values = PyTuple_New(count), *named = PyDict_New(), *child = NULL;
    int failed = values == NULL || named == NULL;
    for (Py_ssize_t at = 0; !failed && at < count; at++)
        PyTuple_SET_ITEM(values, at, Py_NewRef(args[at]));
    for (Py_ssize_t at = 0; !failed && names != NULL && at < PyTuple_GET_SIZE(names); at++)
        failed = PyDict_SetItem(named, PyTuple_GET_ITEM(names, at), args[count + at]) < 0;
    if (!failed)
        child = PyObject_CallMethod((PyObject *)self, "_resolve", "OO", values, named);
    Py_XDECREF(values);
    Py_XDECREF(named);
    return child;
}

static int are_exact(PyObject *const *values, Py_ssize_t count)
{
    for (Py_ssize_t at = 0; at < count; at++)
        if (!PyUnicode_CheckExact(values[at]))
            return 0;
    return 1;
}

/* Whether the values are usable as label values without conversion. */
static int are_plain(PyObject *const *values, Py_ssize_t count)
{
    for (Py_ssize_t at = 0; at < count; at++) {
        if (PyUnicode_GET_LENGTH(values[at]) > MAX_VALUE)
            return 0;
        if (PyUnicode_AsUTF8(values[at]) == NULL) {
            PyErr_Clear();
            return 0;
        }
    }
    return 1;
}

static PyObject *labelled_labels(Labelled *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    if (self->children == NULL) {
        PyErr_SetString(PyExc_AttributeError, "the instrument was not made to its end");
        return NULL;
    }
    Process *process = self->children->process;
    uint64_t generation = process_generation(process);
    if (generation != process->seen && !process_skip_removals(process, generation)
        && owner_call(process, "catch_up", NULL) < 0)
        return NULL;
    if (names == NULL && count > 0 && count == self->children->labels && are_exact(args, count)) {
        Cell *cell = children_find(self->children, args, count);
        if (cell != NULL)
            return Py_NewRef(cell);
        if (are_plain(args, count))
            return children_make(self->children, args, count);
    }
    return resolve(self, args, count, names);
}

static PyObject *labelled_children(Labelled *self, void *Py_UNUSED(closure))
{
    if (self->children == NULL)
        PyErr_SetString(PyExc_AttributeError, "the instrument was not made to its end");
    return Py_XNewRef(self->children);
}

static int labelled_set_children(Labelled *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !Py_IS_TYPE(value, &Children_Type)) {
        PyErr_SetString(PyExc_TypeError, "_children must be a Children");
        return -1;
    }
    Py_XSETREF(self->children, (Children *)Py_NewRef(value));
    return 0;
}

static int labelled_traverse(Labelled *self, visitproc visit, void *arg)
{
    Py_VISIT(self->children);
    return 0;
}

static int labelled_clear(Labelled *self)
{
    Py_CLEAR(self->children);
    return 0;
}

static void labelled_dealloc(Labelled *self)
{
    PyObject_GC_UnTrack(self);
    labelled_clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef labelled_methods[] = {
    {"labels", (PyCFunction)(void (*)(void))labelled_labels, METH_FASTCALL | METH_KEYWORDS,
     "labels($self, /, *labelvalues, **labelkwargs)\n--\n\n"
     "The series with these label values, by position or by name; made at its first use.\n\n"
     "Values are converted with ``str``. Keep the result where you can: its methods are the fast path. ValueError\n"
     "when the number or the names of the labels are not the metric's."},
    {NULL},
};

static PyGetSetDef labelled_fields[] = {
    {"_children", (getter)labelled_children, (setter)labelled_set_children, NULL, NULL},
    {NULL},
};

PyTypeObject Labelled_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Labelled",
    .tp_doc = "Finds a series by its label values.",
    .tp_basicsize = sizeof(Labelled),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)labelled_dealloc,
    .tp_traverse = (traverseproc)labelled_traverse,
    .tp_clear = (inquiry)labelled_clear,
    .tp_methods = labelled_methods,
    .tp_getset = labelled_fields,
};
