/* The cell of a sketch: two records and the buckets of a layout. Sources: mpmetrics/_cells/sketch.py. */

#include "core.h"

typedef struct {
    COUNTED_HEAD
    double lowest, log_growth;
    Py_ssize_t side, zero, size;
    int is_signed;
} SketchCell;

enum { RECORD = 6, BUCKETS = 2 * RECORD };
static const double LARGEST = 1e150, SPLIT = 134217729.0;

static Py_ssize_t sketch_bucket(const SketchCell *self, double value)
{
    double magnitude = fabs(value);
    if (magnitude < self->lowest)
        return self->is_signed ? self->zero : 0;
    double step = ceil(log(magnitude / self->lowest) / self->log_growth);
    Py_ssize_t place = step < 0 ? 0 : step > (double)(self->side - 1) ? self->side - 1 : (Py_ssize_t)step;
    return value > 0 ? self->zero + 1 + place : self->zero - 1 - place;
}

/* Add `value` to the sum of two words at `old`, and `left`, which is smaller than its rounding, to the second. */
static int add_exactly(Place *place, Py_ssize_t old, Py_ssize_t new, double value, double left)
{
    double before, rest;
    if (place_get(place, old, &before) < 0 || place_get(place, old + 1, &rest) < 0)
        return -1;
    double total = before + value, part = total - before;
    double more = rest + ((before - (total - part)) + (value - part)) + left;
    return place_put(place, new, total) < 0 || place_put(place, new + 1, more) < 0 ? -1 : 0;
}

static int update(SketchCell *self, Place *place, double value)
{
    int odd;
    double least, most;
    CountedCell *counted = (CountedCell *)self;
    if (is_odd(counted, place, BUCKETS, self->size, &odd) < 0)
        return -1;
    self->counted = 0;
    Py_ssize_t old = odd ? RECORD : 0, new = RECORD - old;
    double square = value * value, wide = SPLIT * value, high = wide - (wide - value), low = value - high;
    double left = low * low - ((square - high * high) - 2 * high * low);
    if (add_exactly(place, old, new, value, 0.0) < 0 || add_exactly(place, old + 2, new + 2, square, left) < 0
        || place_get(place, old + 4, &least) < 0 || place_get(place, old + 5, &most) < 0)
        return -1;
    double zero_set = value == 0.0 ? -0.0 : value;
    if (place_put(place, new + 4, least < value && is_set(least) ? least : zero_set) < 0
        || place_put(place, new + 5, most > value && is_set(most) ? most : zero_set) < 0)
        return -1;
    return counted_commit(counted, place, BUCKETS + sketch_bucket(self, value), odd);
}

static PyObject *sketch_update(SketchCell *self, PyObject *argument)
{
    double value;
    if (take_float(argument, &value) < 0)
        return NULL;
    if (!(-LARGEST <= value && value <= LARGEST) || (value < 0 && !self->is_signed)) {
        PyObject *number = PyFloat_FromDouble(value);
        PyErr_Format(PyExc_ValueError, "%R cannot count %R: %s", self->name, number,
                     -LARGEST <= value && value < 0 ? "a duration is not negative" : "it takes numbers up to 1e150");
        Py_XDECREF(number);
        return NULL;
    }
    Place place = {NULL, self->size == 0 ? NULL : direct((Cell *)self, BUCKETS + self->size), self->index};
    if (place.data == NULL)
        return cell_later_number((Cell *)self, "_update", value);
    update(self, &place, value);
    Py_RETURN_NONE;
}

static PyObject *sketch_put(SketchCell *self, PyObject *value)
{
    Place place;
    double number;
    if (self->size == 0) {
        PyErr_SetString(PyExc_RuntimeError, "SketchCell.__init__ was not called");
        return NULL;
    }
    if (take_number(value, &number) < 0 || place_begin((Cell *)self, BUCKETS + self->size, &place) < 0)
        return NULL;
    int failed = update(self, &place, number);
    place_end(&place);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static double number_of(PyObject *layout, const char *name)
{
    PyObject *value = PyObject_GetAttrString(layout, name);
    double number = value == NULL ? -1.0 : PyFloat_AsDouble(value);
    Py_XDECREF(value);
    return number;
}

static int sketch_init(SketchCell *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"guard", "segment", "index", "layout", "name", NULL};
    PyObject *guard, *segment, *layout, *name = NULL;
    Py_ssize_t index;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOnO|U:SketchCell", names, &guard, &segment, &index, &layout,
                                     &name))
        return -1;
    double lowest = number_of(layout, "lowest"), log_growth = number_of(layout, "log_growth");
    double side = number_of(layout, "side"), zero = number_of(layout, "zero"), size = number_of(layout, "size");
    double is_signed = number_of(layout, "signed");
    if (PyErr_Occurred())
        return -1;
    /* Each bucket that a value may fall into is one of the series'. */
    if (!(lowest > 0.0 && log_growth > 0.0 && side >= 1.0 && side <= 1e6 && zero == (is_signed != 0.0 ? side : -1.0)
          && size == zero + 1.0 + side)) {
        PyErr_Format(PyExc_ValueError, "%R is no layout", layout);
        return -1;
    }
    if (cell_init((Cell *)self, guard, segment, index, name) < 0)
        return -1;
    self->counted = 0;
    self->lowest = lowest;
    self->log_growth = log_growth;
    self->side = (Py_ssize_t)side;
    self->zero = (Py_ssize_t)zero;
    self->size = (Py_ssize_t)size;
    self->is_signed = is_signed != 0.0;
    return 0;
}

static PyMethodDef sketch_methods[] = {
    {"update", (PyCFunction)sketch_update, METH_O,
     "update($self, value, /)\n--\n\n"
     "Count ``value``. Safe from any thread, signal handler or finaliser.\n\n"
     "Raises ValueError, with nothing changed, for what is no finite number, for one beyond 1e150 either way, and for\n"
     "a negative one where the layout has no place for it."},
    {"place", (PyCFunction)counted_place, METH_VARARGS,
     "Have all later writes go to the words at ``index`` of ``segment``. Call it under the guard."},
    {"_update", (PyCFunction)sketch_put, METH_O, NULL},
    {NULL},
};

PyTypeObject SketchCell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.SketchCell",
    .tp_doc = "Two records and the buckets of a layout; the number of values tells which record counts.",
    .tp_basicsize = sizeof(SketchCell),
    .tp_base = &Cell_Type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_init = (initproc)sketch_init,
    .tp_traverse = (traverseproc)cell_traverse,
    .tp_clear = (inquiry)cell_clear,
    .tp_methods = sketch_methods,
};
