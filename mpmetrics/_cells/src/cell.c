/* What all cells have in common, and the arguments of their methods. */

#include "cells.h"
#include <structmember.h>

double *cell_ready(Cell *self)
{
    while (self->state == LIVE && self->stamp != *self->counting)
        if (cell_bind(self) < 0)
            return NULL;
    return self->words;
}

static void cell_dealloc(Cell *self)
{
    if (self->slab == NULL)
        PyMem_Free(self->words);
    for (Py_ssize_t at = 0; at < self->key_size; at++)
        Py_DECREF(self->key[at]);
    PyMem_Free(self->key);
    Py_XDECREF(self->slab);
    shape_release(self->shape);
    Py_TYPE(self)->tp_free(self);
}

int warn_exemplar(PyObject *exemplar)
{
    if (exemplar == NULL || exemplar == Py_None)
        return 0;
    PyObject *module = PyImport_ImportModule("mpmetrics._cells.exemplars");
    PyObject *result = module == NULL ? NULL : PyObject_CallMethod(module, "warn_exemplar_dropped", NULL);
    Py_XDECREF(module);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

int parse_number(PyObject *value, double *number)
{
    if (PyFloat_CheckExact(value)) {
        *number = PyFloat_AS_DOUBLE(value);
        return 0;
    }
    *number = PyLong_CheckExact(value) ? PyLong_AsDouble(value) : PyFloat_AsDouble(value);
    return *number == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* The same for all that float() accepts, text included. */
int parse_float(PyObject *value, double *number)
{
    if (PyFloat_CheckExact(value) || PyLong_CheckExact(value))
        return parse_number(value, number);
    PyObject *made = PyNumber_Float(value);
    if (made == NULL)
        return -1;
    *number = PyFloat_AS_DOUBLE(made);
    Py_DECREF(made);
    return 0;
}

/* The arguments of a method, by position or by name; missing ones stay NULL. The first is required unless `most` is
   negative: then the method takes -most arguments, all optional. */
int parse_arguments(const char *method, PyObject *const *args, Py_ssize_t count, PyObject *names,
                   const char *const *keywords, int most, PyObject **values)
{
    if (count == 1 && names == NULL) {
        values[0] = args[0];
        return 0;
    }
    int needs_first = most > 0;
    most = most < 0 ? -most : most;
    if (count > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d arguments, not %zd", method, most, count);
        return -1;
    }
    for (Py_ssize_t at = 0; at < count; at++)
        values[at] = args[at];
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    for (Py_ssize_t at = 0; at < named; at++) {
        PyObject *name = PyTuple_GET_ITEM(names, at);
        int found = 0;
        while (found < most && PyUnicode_CompareWithASCIIString(name, keywords[found]) != 0)
            found++;
        if (found == most || values[found] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got %s argument %R", method,
                         found == most ? "an unexpected keyword" : "twice the", name);
            return -1;
        }
        values[found] = args[count + at];
    }
    if (needs_first && values[0] == NULL) {
        PyErr_Format(PyExc_TypeError, "%s() misses its argument '%s'", method, keywords[0]);
        return -1;
    }
    return 0;
}

static PyObject *cell_values(Cell *self, PyObject *Py_UNUSED(none))
{
    Py_ssize_t width = self->shape->width;
    PyObject *list = PyList_New(width);
    for (Py_ssize_t at = 0; list != NULL && at < width; at++) {
        PyObject *value = PyFloat_FromDouble(load_word(self->words + at));
        if (value == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, at, value);
    }
    return list;
}

static PyObject *cell_name(Cell *self, void *Py_UNUSED(closure)) { return Py_NewRef(self->shape->name); }

static PyObject *cell_gone(Cell *self, void *Py_UNUSED(closure)) { return PyBool_FromLong(self->state == GONE); }

/* Copy the members of a class to another one, which Python's `class` cannot make: the garbage collector tracks the
   instances of all those. */
static int copy_members(PyObject *from, PyObject *to)
{
    PyObject *members = PyObject_GetAttrString(from, "__dict__"), *items = NULL;
    if (members != NULL)
        items = PyMapping_Items(members);
    int failed = items == NULL;
    for (Py_ssize_t at = 0; !failed && at < PyList_GET_SIZE(items); at++) {
        PyObject *name = PyTuple_GET_ITEM(PyList_GET_ITEM(items, at), 0);
        if (PyUnicode_CompareWithASCIIString(name, "__slots__") != 0)
            failed = PyObject_SetAttr(to, name, PyTuple_GET_ITEM(PyList_GET_ITEM(items, at), 1)) < 0;
    }
    Py_XDECREF(items);
    Py_XDECREF(members);
    return failed ? -1 : 0;
}

PyObject *without_gc(PyObject *Py_UNUSED(module), PyObject *type)
{
    if (!PyType_Check(type) || !PyType_IsSubtype((PyTypeObject *)type, &Cell_Type)
        || ((PyTypeObject *)type)->tp_basicsize != sizeof(Cell))
        return PyErr_Format(PyExc_TypeError, "%R is not a class of cells, or adds fields", type);
    PyObject *module = PyObject_GetAttrString(type, "__module__");
    PyObject *name = module == NULL ? NULL : PyUnicode_FromFormat("%U.%s", module, ((PyTypeObject *)type)->tp_name);
    const char *text = name == NULL ? NULL : PyUnicode_AsUTF8(name);
    PyType_Slot slots[] = {{0}};
    PyType_Spec spec = {text, sizeof(Cell), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
    PyObject *base = (PyObject *)((PyTypeObject *)type)->tp_base;
    PyObject *made = text == NULL ? NULL : PyType_FromSpecWithBases(&spec, base);
    if (made != NULL && copy_members(type, made) < 0)
        Py_CLEAR(made);
    Py_XDECREF(name);
    Py_XDECREF(module);
    return made;
}

static PyMethodDef cell_methods[] = {
    {"values", (PyCFunction)cell_values, METH_NOARGS, "values($self)\n--\n\nIts words, as a list of floats."},
    {NULL},
};

static PyMemberDef cell_members[] = {
    {"_children", T_OBJECT, offsetof(Cell, children), READONLY, NULL},
    {NULL},
};

static PyGetSetDef cell_fields[] = {
    {"_name", (getter)cell_name, NULL, NULL, NULL},
    {"_key", (getter)cell_key, NULL, NULL, NULL},
    {"place", (getter)cell_place, NULL, "Number of its first word in the process's slab; None if it is not in the slab.",
     NULL},
    {"gone", (getter)cell_gone, NULL, "Whether the series has ended: operations on it have no effect.", NULL},
    {NULL},
};

PyTypeObject Cell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Cell",
    .tp_doc = "One series in this process; only Children.make makes it.",
    .tp_basicsize = sizeof(Cell),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_dealloc = (destructor)cell_dealloc,
    .tp_methods = cell_methods,
    .tp_members = cell_members,
    .tp_getset = cell_fields,
};
