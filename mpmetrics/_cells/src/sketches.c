/* The cell of a sketch: two records and the buckets of a layout. Sources: mpmetrics/_cells/sketch.py. */

#include "cells.h"

enum { RECORD = 6, BUCKETS = 2 * RECORD };
static const double LARGEST = 1e150, SPLIT = 134217729.0;

static Py_ssize_t bucket_of(const Layout *layout, double value)
{
    double magnitude = fabs(value);
    if (magnitude < layout->lowest)
        return layout->is_signed ? layout->zero : 0;
    double step = ceil(log(magnitude / layout->lowest) / layout->log_growth);
    Py_ssize_t last = layout->side - 1;
    Py_ssize_t place = step < 0 ? 0 : step > (double)last ? last : (Py_ssize_t)step;
    return value > 0 ? layout->zero + 1 + place : layout->zero - 1 - place;
}

/* Add `value` to the two-word sum at `old`, and to its rest also `left`, the rounding error of `value`. */
static void add_exactly(const double *old, double *new, double value, double left)
{
    double before = load_word(old), total = before + value, part = total - before;
    double more = load_word(old + 1) + ((before - (total - part)) + (value - part)) + left;
    store_word(new, total);
    store_word(new + 1, more);
}

static void update(Cell *self, double *words, double value)
{
    int odd = self->count & 1;
    const double *old = words + (odd ? RECORD : 0);
    double *new = words + (odd ? 0 : RECORD), *bucket = words + BUCKETS + bucket_of(&self->shape->layout, value);
    double square = value * value, wide = SPLIT * value, high = wide - (wide - value), low = value - high;
    add_exactly(old, new, value, 0.0);
    add_exactly(old + 2, new + 2, square, low * low - ((square - high * high) - 2 * high * low));
    /* All bits zero mean no value yet, so zero is stored as -0.0. */
    double least = load_word(old + 4), most = load_word(old + 5), self_set = value == 0.0 ? -0.0 : value;
    store_word(new + 4, self->count > 0 && least < value ? least : self_set);
    store_word(new + 5, self->count > 0 && most > value ? most : self_set);
    /* The commit: with one more value, the other record counts. */
    commit_word(bucket, load_word(bucket) + 1.0);
    self->count++;
}

static PyObject *sketch_update(Cell *self, PyObject *argument)
{
    double value;
    if (parse_float(argument, &value) < 0)
        return NULL;
    if (!(-LARGEST <= value && value <= LARGEST) || (value < 0 && !self->shape->layout.is_signed)) {
        PyObject *number = PyFloat_FromDouble(value);
        PyErr_Format(PyExc_ValueError, "%R cannot count %R: %s", self->shape->name, number,
                     -LARGEST <= value && value < 0 ? "a duration is not negative" : "it accepts magnitudes up to 1e150");
        Py_XDECREF(number);
        return NULL;
    }
    double *words = cell_words(self);
    if (words == NULL)
        return NULL;
    update(self, words, value);
    Py_RETURN_NONE;
}

static PyMethodDef sketch_methods[] = {
    {"update", (PyCFunction)sketch_update, METH_O,
     "update($self, value, /)\n--\n\n"
     "Count ``value``. Safe from any thread, signal handler or finaliser.\n\n"
     "Raises ValueError, and changes nothing, for NaN, for a magnitude above 1e150, and for a negative value if the\n"
     "layout is not signed."},
    {NULL},
};

PyTypeObject SketchCell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.SketchCell",
    .tp_doc = "Two records and the buckets of a layout. The number of values tells which record counts.",
    .tp_basicsize = sizeof(Cell),
    .tp_base = &Cell_Type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_methods = sketch_methods,
};
