/* Cells of many words that belong together, and the one for histograms and summaries. */

#include "core.h"

typedef struct {
    COUNTED_HEAD
    PyObject *bounds; /* a tuple of floats, ascending */
} DistributionCell;

/* Whether the number of what has been counted in these buckets is odd. */
int is_odd(CountedCell *self, Place *place, Py_ssize_t first, Py_ssize_t buckets, int *odd)
{
    double count = 0.0, word;
    if (place->data != NULL && self->counted == self->segment->stamp) {
        *odd = self->odd;
        return 0;
    }
    for (Py_ssize_t at = first; at < first + buckets; at++) {
        if (place_get(place, at, &word) < 0)
            return -1;
        count += word;
    }
    *odd = isfinite(count) && fmod(count, 2.0) != 0.0;
    return 0;
}

/* One more in a bucket is the commit: with it the other copy counts. */
int counted_commit(CountedCell *self, Place *place, Py_ssize_t bucket, int odd)
{
    double word;
    if (place_get(place, bucket, &word) < 0 || place_put(place, bucket, word + 1.0) < 0)
        return -1;
    self->odd = 1 - odd;
    self->counted = place->data != NULL ? self->segment->stamp : 0;
    return 0;
}

PyObject *counted_place(CountedCell *self, PyObject *args)
{
    PyObject *method = PyObject_GetAttrString((PyObject *)&Cell_Type, "place");
    PyObject *whole = method == NULL ? NULL : PySequence_Tuple(args);
    PyObject *done = NULL;
    if (whole != NULL && PyTuple_GET_SIZE(whole) == 2)
        done = PyObject_CallFunctionObjArgs(method, self, PyTuple_GET_ITEM(whole, 0), PyTuple_GET_ITEM(whole, 1), NULL);
    else if (whole != NULL)
        PyErr_SetString(PyExc_TypeError, "place() takes a Segment and the index of the cell's first word in it");
    Py_XDECREF(method);
    Py_XDECREF(whole);
    if (done != NULL)
        self->counted = 0;
    return done;
}

/* ---- DistributionCell: sum, sum, buckets */

static Py_ssize_t bucket_of(const DistributionCell *self, double value)
{
    Py_ssize_t low = 0, high = PyTuple_GET_SIZE(self->bounds);
    while (low < high) {
        Py_ssize_t middle = (low + high) / 2;
        if (PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(self->bounds, middle)) < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int observe(DistributionCell *self, Place *place, double value)
{
    int odd;
    double sum;
    CountedCell *counted = (CountedCell *)self;
    if (is_odd(counted, place, 2, PyTuple_GET_SIZE(self->bounds), &odd) < 0)
        return -1;
    self->counted = 0;
    if (place_get(place, odd, &sum) < 0 || place_put(place, 1 - odd, sum + value) < 0)
        return -1;
    return counted_commit(counted, place, 2 + bucket_of(self, value), odd);
}

static PyObject *distribution_observe(DistributionCell *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    static const char *const keywords[] = {"amount", "exemplar"};
    PyObject *values[2] = {NULL, NULL};
    double value;
    if (count == 1 && names == NULL)
        values[0] = args[0];
    else if (take_arguments("observe", args, count, names, keywords, 2, values) < 0 || say_no_exemplars(values[1]) < 0)
        return NULL;
    if (take_float(values[0], &value) < 0)
        return NULL;
    if (isnan(value)) {
        PyObject *number = PyFloat_FromDouble(value);
        PyErr_Format(PyExc_ValueError, "%R cannot observe %R, which is not a number: it belongs to no bucket",
                     self->name, number);
        Py_XDECREF(number);
        return NULL;
    }
    Place place = {NULL, NULL, self->index};
    if (self->bounds != NULL)
        place.data = direct((Cell *)self, 2 + PyTuple_GET_SIZE(self->bounds));
    if (place.data == NULL)
        return cell_later_number((Cell *)self, "_observe", value);
    observe(self, &place, value);
    Py_RETURN_NONE;
}

static PyObject *distribution_put(DistributionCell *self, PyObject *value)
{
    Place place;
    double number;
    if (self->bounds == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "DistributionCell.__init__ was not called");
        return NULL;
    }
    if (take_number(value, &number) < 0 || place_begin((Cell *)self, 2 + PyTuple_GET_SIZE(self->bounds), &place) < 0)
        return NULL;
    int failed = observe(self, &place, number);
    place_end(&place);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static int distribution_init(DistributionCell *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"guard", "segment", "index", "bounds", "name", NULL};
    PyObject *guard, *segment, *bounds, *name = NULL;
    Py_ssize_t index;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOnO!|U:DistributionCell", names, &guard, &segment, &index,
                                     &PyTuple_Type, &bounds, &name))
        return -1;
    Py_ssize_t count = PyTuple_GET_SIZE(bounds), floats = 0;
    while (floats < count && PyFloat_Check(PyTuple_GET_ITEM(bounds, floats)))
        floats++;
    if (count == 0 || floats < count || PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(bounds, count - 1)) != Py_HUGE_VAL) {
        PyErr_Format(PyExc_ValueError, "bounds are floats, the last one infinite: %R", bounds);
        return -1;
    }
    self->counted = 0;
    Py_XSETREF(self->bounds, Py_NewRef(bounds));
    return cell_init((Cell *)self, guard, segment, index, name);
}

static void distribution_dealloc(DistributionCell *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->bounds);
    cell_dealloc((Cell *)self);
}

static PyMethodDef distribution_methods[] = {
    {"observe", (PyCFunction)(void (*)(void))distribution_observe, METH_FASTCALL | METH_KEYWORDS,
     "observe($self, /, amount, exemplar=None)\n--\n\n"
     "Count ``amount`` in its bucket and add it to the sum. Safe from any thread, signal handler or finaliser.\n\n"
     "Raises ValueError when it is not a number; nothing is changed then. ``exemplar`` as in :class:`CounterCell`."},
    {"place", (PyCFunction)counted_place, METH_VARARGS,
     "Have all later writes go to the words at ``index`` of ``segment``. Call it under the guard."},
    {"_observe", (PyCFunction)distribution_put, METH_O, NULL},
    {NULL},
};

PyTypeObject DistributionCell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.DistributionCell",
    .tp_doc = "Sum and buckets of observations: a histogram, or with one bucket a summary.",
    .tp_basicsize = sizeof(DistributionCell),
    .tp_base = &Cell_Type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_init = (initproc)distribution_init,
    .tp_dealloc = (destructor)distribution_dealloc,
    .tp_traverse = (traverseproc)cell_traverse,
    .tp_clear = (inquiry)cell_clear,
    .tp_methods = distribution_methods,
};
