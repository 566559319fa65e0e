/* The cell of histograms and summaries: sum, sum, buckets. */

#include "cells.h"

static Py_ssize_t bucket_of(const Shape *shape, double value)
{
    Py_ssize_t low = 0, high = shape->bound_count;
    while (low < high) {
        Py_ssize_t middle = (low + high) / 2;
        if (shape->bounds[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static PyObject *distribution_observe(Cell *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    static const char *const keywords[] = {"amount", "exemplar"};
    PyObject *values[2] = {NULL, NULL};
    double value;
    if (count == 1 && names == NULL)
        values[0] = args[0];
    else if (parse_arguments("observe", args, count, names, keywords, 2, values) < 0 || warn_exemplar(values[1]) < 0)
        return NULL;
    if (parse_float(values[0], &value) < 0)
        return NULL;
    if (isnan(value)) {
        PyObject *number = PyFloat_FromDouble(value);
        PyErr_Format(PyExc_ValueError, "%R cannot observe %R, which is not a number: it belongs to no bucket",
                     self->shape->name, number);
        Py_XDECREF(number);
        return NULL;
    }
    double *words = cell_words(self);
    if (words == NULL)
        return NULL;
    double *bucket = words + 2 + bucket_of(self->shape, value);
    /* Store the new sum into the word that does not count yet; see the format. */
    int odd = self->count & 1;
    store_word(words + 1 - odd, load_word(words + odd) + value);
    /* The commit: with one more observation, the other sum counts. */
    commit_word(bucket, load_word(bucket) + 1.0);
    self->count++;
    Py_RETURN_NONE;
}

static PyMethodDef distribution_methods[] = {
    {"observe", (PyCFunction)(void (*)(void))distribution_observe, METH_FASTCALL | METH_KEYWORDS,
     "observe($self, /, amount, exemplar=None)\n--\n\n"
     "Count ``amount`` in its bucket and add it to the sum. Safe from any thread, signal handler or finaliser.\n\n"
     "Raises ValueError, and changes nothing, when it is NaN. ``exemplar`` as in :class:`CounterCell`."},
    {NULL},
};

PyTypeObject DistributionCell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.DistributionCell",
    .tp_doc = "Sum and buckets of observations: a histogram or, with one bucket, a summary.",
    .tp_basicsize = sizeof(Cell),
    .tp_base = &Cell_Type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_methods = distribution_methods,
};
