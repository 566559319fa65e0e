/* The look-up of a series by its label values, and of whether other processes removed series meanwhile. */

#include "core.h"
#include <structmember.h>

/* One word of 8 bytes that other processes increment with each removal, and what it was when we last took that in. */
typedef struct {
    PyObject_HEAD
    Py_buffer view;
    const uint64_t *word; /* NULL: nobody else is there */
    uint64_t seen;
} Removals;

static int removals_due(const Removals *self)
{
    return self->word != NULL && *(const volatile uint64_t *)self->word != self->seen;
}

static PyObject *removals_watch(Removals *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer view = {0};
    const uint64_t *word = NULL;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "watch() takes words, or None, and an index, not %zd arguments", count);
    if (args[0] != Py_None) {
        Py_ssize_t at = PyNumber_AsSsize_t(args[1], PyExc_IndexError);
        if ((at == -1 && PyErr_Occurred()) || PyObject_GetBuffer(args[0], &view, PyBUF_ND | PyBUF_FORMAT) < 0)
            return NULL;
        if (view.itemsize != sizeof(uint64_t) || view.format == NULL || strcmp(view.format, "Q") != 0 || at < 0
            || at >= view.len / 8) {
            PyBuffer_Release(&view);
            return PyErr_Format(PyExc_ValueError, "there is no word %R of format 'Q' in %R", args[1], args[0]);
        }
        word = (const uint64_t *)view.buf + at;
    }
    Py_buffer old = self->view;
    self->view = view;
    self->word = word;
    if (old.obj != NULL)
        PyBuffer_Release(&old);
    Py_RETURN_NONE;
}

static PyObject *removals_is_due(Removals *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(removals_due(self));
}

static void removals_dealloc(Removals *self)
{
    if (self->view.obj != NULL)
        PyBuffer_Release(&self->view);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef removals_methods[] = {
    {"watch", (PyCFunction)(void (*)(void))removals_watch, METH_FASTCALL,
     "From now on the word at ``index`` of ``words`` counts removals; with None, nothing does."},
    {NULL},
};

static PyGetSetDef removals_fields[] = {
    {"is_due", (getter)removals_is_due, NULL, "Whether there were removals that this process has not taken in.", NULL},
    {NULL},
};

static PyMemberDef removals_members[] = {
    {"seen", T_ULONGLONG, offsetof(Removals, seen), 0, "The count of removals up to which this process took them in."},
    {NULL},
};

PyTypeObject Removals_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Removals",
    .tp_doc = "Whether other processes removed series that this process may hold.",
    .tp_basicsize = sizeof(Removals),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)removals_dealloc,
    .tp_methods = removals_methods,
    .tp_getset = removals_fields,
    .tp_members = removals_members,
};

/* What instruments with label names are made from. */
typedef struct {
    PyObject_HEAD
    PyObject *children; /* a dict: label values to series */
    PyObject *removals;
} Labelled;

/* What the subclass does when it takes longer: `_resolve(values, named)`. */
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

static PyObject *labelled_labels(Labelled *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    if (self->removals == NULL || self->children == NULL) {
        PyErr_SetString(PyExc_AttributeError, "the instrument was not made to its end");
        return NULL;
    }
    if (removals_due((Removals *)self->removals)) {
        PyObject *done = PyObject_CallMethod((PyObject *)self, "_notice_removals", NULL);
        if (done == NULL)
            return NULL;
        Py_DECREF(done);
    }
    if (count > 0 && names == NULL) {
        PyObject *key = PyTuple_New(count);
        if (key == NULL)
            return NULL;
        for (Py_ssize_t at = 0; at < count; at++)
            PyTuple_SET_ITEM(key, at, Py_NewRef(args[at]));
        /* A value of another type than text compares by code of its own, which may give this another dict. */
        PyObject *children = Py_NewRef(self->children);
        PyObject *child = Py_XNewRef(PyDict_GetItemWithError(children, key));
        Py_DECREF(children);
        Py_DECREF(key);
        if (child != NULL)
            return child;
        if (PyErr_Occurred()) {
            if (!PyErr_ExceptionMatches(PyExc_TypeError))
                return NULL;
            PyErr_Clear(); /* a value that cannot be hashed, to be taken as str */
        }
    }
    return resolve(self, args, count, names);
}

static PyObject *labelled_get(PyObject *field)
{
    if (field == NULL)
        PyErr_SetString(PyExc_AttributeError, "the instrument was not made to its end");
    return Py_XNewRef(field);
}

static PyObject *labelled_children(Labelled *self, void *Py_UNUSED(closure)) { return labelled_get(self->children); }

static PyObject *labelled_removals(Labelled *self, void *Py_UNUSED(closure)) { return labelled_get(self->removals); }

static int labelled_set(PyObject **field, PyTypeObject *type, PyObject *value)
{
    if (value == NULL || !PyObject_TypeCheck(value, type)) {
        PyErr_Format(PyExc_TypeError, "must be a %s", type->tp_name);
        return -1;
    }
    Py_XSETREF(*field, Py_NewRef(value));
    return 0;
}

static int labelled_set_children(Labelled *self, PyObject *value, void *Py_UNUSED(closure))
{
    return labelled_set(&self->children, &PyDict_Type, value);
}

static int labelled_set_removals(Labelled *self, PyObject *value, void *Py_UNUSED(closure))
{
    return labelled_set(&self->removals, &Removals_Type, value);
}

static int labelled_traverse(Labelled *self, visitproc visit, void *arg)
{
    Py_VISIT(self->children);
    Py_VISIT(self->removals);
    return 0;
}

static int labelled_clear(Labelled *self)
{
    Py_CLEAR(self->children);
    Py_CLEAR(self->removals);
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
     "The series with these label values, in the order of the label names or by name; made at its first use.\n\n"
     "Values are taken as ``str``, those that are one as the text they hold. The result may be kept: its methods are\n"
     "the fast path. ValueError when the number or names of the labels are not the metric's."},
    {NULL},
};

static PyGetSetDef labelled_fields[] = {
    {"_children", (getter)labelled_children, (setter)labelled_set_children, NULL, NULL},
    {"_removals", (getter)labelled_removals, (setter)labelled_set_removals, NULL, NULL},
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
