/* What all cells have in common, and the arguments of their methods. */

#include "core.h"
#include <structmember.h>

int cell_init(Cell *self, PyObject *guard, PyObject *segment, Py_ssize_t index, PyObject *name)
{
    if (!PyObject_TypeCheck(guard, &Guard_Type) || !PyObject_TypeCheck(segment, &Segment_Type)) {
        PyErr_Format(PyExc_TypeError, "a cell takes a Guard and a Segment, not %R and %R", guard, segment);
        return -1;
    }
    if (index < 0) {
        PyErr_Format(PyExc_ValueError, "a cell's words begin at 0 or later, not at %zd", index);
        return -1;
    }
    PyObject *called = name == NULL ? PyUnicode_FromString("") : Py_NewRef(name);
    if (called == NULL)
        return -1;
    Py_XSETREF(self->guard, (Guard *)Py_NewRef(guard));
    Py_XSETREF(self->segment, (Segment *)Py_NewRef(segment));
    Py_XSETREF(self->name, called);
    self->index = index;
    return 0;
}

static int cell_init_method(Cell *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"guard", "segment", "index", "name", NULL};
    PyObject *guard, *segment, *name = NULL;
    Py_ssize_t index;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOn|U:Cell", names, &guard, &segment, &index, &name))
        return -1;
    return cell_init(self, guard, segment, index, name);
}

/* Whether the cell was made to its end; else an exception is set. */
static int is_made(const Cell *self)
{
    if (self->segment == NULL)
        PyErr_Format(PyExc_RuntimeError, "%s.__init__ was not called", Py_TYPE(self)->tp_name);
    return self->segment != NULL;
}

int cell_traverse(Cell *self, visitproc visit, void *arg)
{
    Py_VISIT(self->guard);
    Py_VISIT(self->segment);
    return 0;
}

/* Guard and segment stay until the end: a finaliser may still write to a cell of a cycle that is being taken apart. */
int cell_clear(Cell *Py_UNUSED(self)) { return 0; }

void cell_dealloc(Cell *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->guard);
    Py_CLEAR(self->segment);
    Py_CLEAR(self->name);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *cell_place(Cell *self, PyObject *const *args, Py_ssize_t count)
{
    if (!is_made(self))
        return NULL;
    if (count != 2 || !PyObject_TypeCheck(args[0], &Segment_Type)) {
        PyErr_SetString(PyExc_TypeError, "place() takes a Segment and the index of the cell's first word in it");
        return NULL;
    }
    Py_ssize_t index = PyNumber_AsSsize_t(args[1], PyExc_OverflowError);
    if (index == -1 && PyErr_Occurred())
        return NULL;
    if (index < 0)
        return PyErr_Format(PyExc_ValueError, "a cell's words begin at 0 or later, not at %zd", index);
    self->index = index;
    Py_XSETREF(self->segment, (Segment *)Py_NewRef(args[0]));
    Py_RETURN_NONE;
}

/* Have `operation` of this cell carried out under the guard: now, or by its holder. */
int cell_later(Cell *self, const char *operation, PyObject *argument)
{
    if (argument == NULL || !is_made(self)) {
        Py_XDECREF(argument);
        return -1;
    }
    PyObject *method = PyObject_GetAttrString((PyObject *)self, operation);
    /* What is carried out may give the cell another guard. */
    Guard *guard = (Guard *)Py_NewRef(self->guard);
    int failed = method == NULL ? -1 : guard_run(guard, method, argument);
    Py_DECREF(guard);
    Py_XDECREF(method);
    Py_DECREF(argument);
    return failed;
}

PyObject *cell_later_number(Cell *self, const char *operation, double value)
{
    if (cell_later(self, operation, PyFloat_FromDouble(value)) < 0)
        return NULL;
    Py_RETURN_NONE;
}

int say_no_exemplars(PyObject *exemplar)
{
    if (exemplar == NULL || exemplar == Py_None)
        return 0;
    PyObject *module = PyImport_ImportModule("mpmetrics._cells.exemplars");
    PyObject *said = module == NULL ? NULL : PyObject_CallMethod(module, "say_not_kept", NULL);
    Py_XDECREF(module);
    Py_XDECREF(said);
    return said == NULL ? -1 : 0;
}

int take_number(PyObject *value, double *number)
{
    if (PyFloat_CheckExact(value)) {
        *number = PyFloat_AS_DOUBLE(value);
        return 0;
    }
    *number = PyLong_CheckExact(value) ? PyLong_AsDouble(value) : PyFloat_AsDouble(value);
    return *number == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* The same of whatever float() takes: text, too. */
int take_float(PyObject *value, double *number)
{
    if (PyFloat_CheckExact(value) || PyLong_CheckExact(value))
        return take_number(value, number);
    PyObject *made = PyNumber_Float(value);
    if (made == NULL)
        return -1;
    *number = PyFloat_AS_DOUBLE(made);
    Py_DECREF(made);
    return 0;
}

/* The arguments of a method, by position or by name; those that are not given stay NULL. The first is needed unless
   `most` is negative; the method then takes -most, and all may be missing. */
int take_arguments(const char *method, PyObject *const *args, Py_ssize_t count, PyObject *names,
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

static PyMethodDef cell_methods[] = {
    {"place", (PyCFunction)(void (*)(void))cell_place, METH_FASTCALL,
     "Have all later writes go to the words at ``index`` of ``segment``. Call it under the guard."},
    {NULL},
};

static PyMemberDef cell_members[] = {
    {"_guard", T_OBJECT_EX, offsetof(Cell, guard), READONLY, NULL},
    {"_segment", T_OBJECT_EX, offsetof(Cell, segment), READONLY, NULL},
    {"_index", T_PYSSIZET, offsetof(Cell, index), READONLY, NULL},
    {"_name", T_OBJECT_EX, offsetof(Cell, name), READONLY, NULL},
    {NULL},
};

PyTypeObject Cell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Cell",
    .tp_doc = "A place of one or more words of a segment.",
    .tp_basicsize = sizeof(Cell),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)cell_init_method,
    .tp_dealloc = (destructor)cell_dealloc,
    .tp_traverse = (traverseproc)cell_traverse,
    .tp_clear = (inquiry)cell_clear,
    .tp_methods = cell_methods,
    .tp_members = cell_members,
};
