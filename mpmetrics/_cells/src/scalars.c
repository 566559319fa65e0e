/* Cells of one value: counters, gauges, and gauges of which the latest value counts. */

#include "core.h"
#include <time.h>

static const char *const amount_names[] = {"amount", "exemplar"};
static const char *const value_names[] = {"value"};

/* ---- CounterCell */

static PyObject *counter_inc(Cell *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    double amount = 1.0;
    if (count != 0 || names != NULL) {
        PyObject *values[2] = {NULL, NULL};
        if (take_arguments("inc", args, count, names, amount_names, -2, values) < 0
            || (values[1] != NULL && say_no_exemplars(values[1]) < 0)
            || (values[0] != NULL && take_number(values[0], &amount) < 0))
            return NULL;
        if (!(amount >= 0))
            return PyErr_Format(PyExc_ValueError, "counter %R can only go up: it cannot be increased by %R", self->name,
                                values[0]);
    }
    double *word = direct(self, 1);
    if (word == NULL)
        return cell_later_number(self, "_add", amount);
    store_word(word, load_word(word) + amount);
    Py_RETURN_NONE;
}

static PyObject *counter_add(Cell *self, PyObject *amount)
{
    Place place;
    double more, word;
    if (take_number(amount, &more) < 0 || place_begin(self, 1, &place) < 0)
        return NULL;
    int failed = place_get(&place, 0, &word) < 0 || place_put(&place, 0, word + more) < 0;
    place_end(&place);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef counter_methods[] = {
    {"inc", (PyCFunction)(void (*)(void))counter_inc, METH_FASTCALL | METH_KEYWORDS,
     "inc($self, /, amount=1, exemplar=None)\n--\n\n"
     "Add ``amount``. Safe from any thread, signal handler or finaliser.\n\n"
     "Raises ValueError when it is negative or not a number; the value is unchanged then. ``exemplar`` is accepted\n"
     "for compatibility and not kept, which is said once in the log."},
    {"_add", (PyCFunction)counter_add, METH_O, NULL},
    {NULL},
};

PyTypeObject CounterCell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.CounterCell",
    .tp_doc = "One word that only grows.",
    .tp_basicsize = sizeof(Cell),
    .tp_base = &Cell_Type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = (traverseproc)cell_traverse,
    .tp_clear = (inquiry)cell_clear,
    .tp_methods = counter_methods,
};

/* ---- GaugeCell: all bits zero mean that it was never set, so zero is stored as -0.0. */

static inline double gauge_word(double value) { return value == 0.0 ? -0.0 : value; }

static PyObject *gauge_move(Cell *self, PyObject *const *args, Py_ssize_t count, PyObject *names, const char *method,
                            double sign)
{
    double amount = 1.0;
    if (count != 0 || names != NULL) {
        PyObject *values[1] = {NULL};
        if (take_arguments(method, args, count, names, amount_names, -1, values) < 0
            || (values[0] != NULL && take_number(values[0], &amount) < 0))
            return NULL;
    }
    amount *= sign;
    double *word = direct(self, 1);
    if (word == NULL)
        return cell_later_number(self, "_add", amount);
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
        if (take_arguments("set", args, count, names, value_names, 1, values) < 0 || take_float(values[0], &value) < 0)
            return NULL;
    } else if (take_float(args[0], &value) < 0) {
        return NULL;
    }
    double *word = direct(self, 1);
    if (word == NULL)
        return cell_later_number(self, "_set", gauge_word(value));
    store_word(word, gauge_word(value));
    Py_RETURN_NONE;
}

static PyObject *gauge_add(Cell *self, PyObject *amount)
{
    Place place;
    double more, word;
    if (take_number(amount, &more) < 0 || place_begin(self, 1, &place) < 0)
        return NULL;
    int failed = place_get(&place, 0, &word) < 0 || place_put(&place, 0, gauge_word(word + more)) < 0;
    place_end(&place);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *gauge_put(Cell *self, PyObject *value)
{
    Place place;
    double word;
    if (take_number(value, &word) < 0 || place_begin(self, 1, &place) < 0)
        return NULL;
    int failed = place_put(&place, 0, word);
    place_end(&place);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *gauge_unset(Cell *self, PyObject *Py_UNUSED(none)) { return cell_later_number(self, "_set", 0.0); }

static PyMethodDef gauge_methods[] = {
    {"inc", (PyCFunction)(void (*)(void))gauge_inc, METH_FASTCALL | METH_KEYWORDS,
     "inc($self, /, amount=1)\n--\n\nAdd ``amount``. Safe from any thread, signal handler or finaliser."},
    {"dec", (PyCFunction)(void (*)(void))gauge_dec, METH_FASTCALL | METH_KEYWORDS,
     "dec($self, /, amount=1)\n--\n\nSubtract ``amount``. Safe from any thread, signal handler or finaliser."},
    {"set", (PyCFunction)(void (*)(void))gauge_set, METH_FASTCALL | METH_KEYWORDS,
     "set($self, /, value)\n--\n\nSet the value. Safe from any thread, signal handler or finaliser."},
    {"unset", (PyCFunction)gauge_unset, METH_NOARGS, "unset($self, /)\n--\n\nBe as if it had never been set."},
    {"_add", (PyCFunction)gauge_add, METH_O, NULL},
    {"_set", (PyCFunction)gauge_put, METH_O, NULL},
    {NULL},
};

PyTypeObject GaugeCell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.GaugeCell",
    .tp_doc = "One word that goes up and down; all bits zero mean that it was never set.",
    .tp_basicsize = sizeof(Cell),
    .tp_base = &Cell_Type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = (traverseproc)cell_traverse,
    .tp_clear = (inquiry)cell_clear,
    .tp_methods = gauge_methods,
};

/* ---- RecentCell: a value and the time it was set, in two copies of which the later counts. */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static PyObject *recent_set(Cell *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *values[1] = {NULL};
    double value;
    if (take_arguments("set", args, count, names, value_names, 1, values) < 0 || take_float(values[0], &value) < 0)
        return NULL;
    if (cell_later(self, "_set", Py_BuildValue("(dd)", value, now())) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int recent_store(Place *place, double value, double time)
{
    double first, second;
    if (place_get(place, 1, &first) < 0 || place_get(place, 3, &second) < 0)
        return -1;
    int older = first <= second ? 0 : 2;
    /* Times must grow for the copies to be told apart, whatever the clock does. */
    double latest = first > second ? first : second;
    if (place_put(place, older, value) < 0)
        return -1;
    /* The commit: with the later time this copy counts, until then the other one does. */
    return place_put(place, older + 1, time > latest ? time : latest + 1e-6);
}

static PyObject *recent_put(Cell *self, PyObject *pair)
{
    Place place;
    double value, time;
    if (!PyTuple_Check(pair))
        return PyErr_Format(PyExc_TypeError, "_set() takes a value and a time, not %R", pair);
    if (!PyArg_ParseTuple(pair, "dd", &value, &time) || place_begin(self, 4, &place) < 0)
        return NULL;
    int failed = recent_store(&place, value, time);
    place_end(&place);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *recent_forget(Cell *self, PyObject *Py_UNUSED(none))
{
    Place place;
    double first, second;
    if (place_begin(self, 4, &place) < 0)
        return NULL;
    int failed = place_get(&place, 1, &first) < 0 || place_get(&place, 3, &second) < 0;
    if (!failed) {
        /* The older copy first: while only the later one is left, it is the one that counts, as before. */
        int older = first <= second ? 1 : 3;
        failed = place_put(&place, older, 0.0) < 0 || place_put(&place, 4 - older, 0.0) < 0;
    }
    place_end(&place);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *recent_unset(Cell *self, PyObject *Py_UNUSED(none))
{
    if (cell_later(self, "_unset", Py_NewRef(Py_None)) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef recent_methods[] = {
    {"set", (PyCFunction)(void (*)(void))recent_set, METH_FASTCALL | METH_KEYWORDS,
     "set($self, /, value)\n--\n\nSet the value as of now. Safe from any thread, signal handler or finaliser."},
    {"unset", (PyCFunction)recent_unset, METH_NOARGS, "unset($self, /)\n--\n\nBe as if it had never been set."},
    {"_set", (PyCFunction)recent_put, METH_O, NULL},
    {"_unset", (PyCFunction)recent_forget, METH_O, NULL},
    {NULL},
};

PyTypeObject RecentCell_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.RecentCell",
    .tp_doc = "A value and the time it was set, in two copies of which the later counts.",
    .tp_basicsize = sizeof(Cell),
    .tp_base = &Cell_Type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = (traverseproc)cell_traverse,
    .tp_clear = (inquiry)cell_clear,
    .tp_methods = recent_methods,
};
