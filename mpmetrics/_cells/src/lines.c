/* The lines of a family, and the module itself. */

#include "core.h"

typedef struct {
    PyObject *bytes;
    Py_ssize_t size, room;
} Output;

static int reserve(Output *output, Py_ssize_t more)
{
    if (output->size + more <= output->room)
        return 0;
    output->room = (output->size + more) * 3 / 2;
    return _PyBytes_Resize(&output->bytes, output->room);
}

static int put(Output *output, PyObject *bytes)
{
    Py_ssize_t size = PyBytes_GET_SIZE(bytes);
    if (reserve(output, size) < 0)
        return -1;
    memcpy(PyBytes_AS_STRING(output->bytes) + output->size, PyBytes_AS_STRING(bytes), (size_t)size);
    output->size += size;
    return 0;
}

static int put_number(Output *output, double value)
{
    if (reserve(output, NUMBER_ROOM) < 0)
        return -1;
    char *text = PyBytes_AS_STRING(output->bytes) + output->size;
    Py_ssize_t size = write_number(value, text);
    if (size < 0)
        return -1;
    text[size] = '\n';
    output->size += size + 1;
    return 0;
}

/* A shape is None, for values that are left out, or (opening, closing, alone): what stands before and behind a row's
   labels, and instead where there are none. */
static int put_line(Output *output, PyObject *shape, PyObject *labels, double value)
{
    int failed = PyBytes_GET_SIZE(labels) == 0
        ? put(output, PyTuple_GET_ITEM(shape, 2)) < 0
        : put(output, PyTuple_GET_ITEM(shape, 0)) < 0 || put(output, labels) < 0
            || put(output, PyTuple_GET_ITEM(shape, 1)) < 0;
    return failed || put_number(output, value) < 0 ? -1 : 0;
}

static int all_bytes(PyObject *items)
{
    for (Py_ssize_t at = 0; at < PySequence_Fast_GET_SIZE(items); at++)
        if (!PyBytes_Check(PySequence_Fast_GET_ITEM(items, at)))
            return 0;
    return 1;
}

static int are_shapes(PyObject *shapes)
{
    for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(shapes); at++) {
        PyObject *shape = PyTuple_GET_ITEM(shapes, at);
        if (shape == Py_None)
            continue;
        if (!PyTuple_Check(shape) || PyTuple_GET_SIZE(shape) != 3 || !all_bytes(shape))
            return 0;
    }
    return 1;
}

static Py_ssize_t count_bytes(PyObject *list)
{
    Py_ssize_t count = 0;
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(list); at++)
        count += PyBytes_GET_SIZE(PyList_GET_ITEM(list, at));
    return count;
}

/* How many lines there are going to be, but for those behind the rows. */
static Py_ssize_t count_lines(PyObject *shapes, Py_ssize_t rows, const char *shown)
{
    Py_ssize_t width = PyTuple_GET_SIZE(shapes), count = 0;
    for (Py_ssize_t at = 0; at < width; at++) {
        if (PyTuple_GET_ITEM(shapes, at) == Py_None)
            continue;
        for (Py_ssize_t row = 0; shown != NULL && row < rows; row++)
            count += shown[row * width + at] != 0;
        count += shown == NULL ? rows : 0;
    }
    return count;
}

static PyObject *write_lines(PyObject *shapes, PyObject *rows, const double *value, const char *shown, PyObject *more)
{
    Py_ssize_t width = PyTuple_GET_SIZE(shapes), count = PyList_GET_SIZE(rows);
    Output output = {.room = 64 * (count_lines(shapes, count, shown) + 1) + (more == NULL ? 0 : count_bytes(more))};
    output.bytes = PyBytes_FromStringAndSize(NULL, output.room);
    int failed = output.bytes == NULL;
    for (Py_ssize_t row = 0; !failed && row < count; row++) {
        PyObject *labels = PyList_GET_ITEM(rows, row);
        int is_any = 0;
        for (Py_ssize_t at = 0; !failed && at < width; at++) {
            PyObject *shape = PyTuple_GET_ITEM(shapes, at);
            if (shape == Py_None || (shown != NULL && !shown[row * width + at]))
                continue;
            is_any = 1;
            failed = put_line(&output, shape, labels, value[row * width + at]) < 0;
        }
        if (!failed && is_any && more != NULL)
            failed = put(&output, PyList_GET_ITEM(more, row)) < 0;
    }
    if (failed) {
        Py_XDECREF(output.bytes);
        return NULL;
    }
    return _PyBytes_Resize(&output.bytes, output.size) < 0 ? NULL : output.bytes;
}

static PyObject *lines(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *shapes, *rows, *values, *mask, *more;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "O!O!OOO:lines", &PyTuple_Type, &shapes, &PyList_Type, &rows, &values, &mask, &more))
        return NULL;
    /* First: it may run code that changes the lists. What is looked at from here on stays as it is until the end. */
    if (PyObject_GetBuffer(values, &view, PyBUF_ND | PyBUF_FORMAT) < 0)
        return NULL;
    Py_ssize_t size = PyTuple_GET_SIZE(shapes) * PyList_GET_SIZE(rows);
    int is_masked = mask != Py_None, has_more = more != Py_None;
    if (!are_shapes(shapes) || !all_bytes(rows) || (is_masked && !PyBytes_Check(mask))
        || (has_more && (!PyList_Check(more) || !all_bytes(more)))) {
        PyBuffer_Release(&view);
        return PyErr_Format(PyExc_TypeError, "lines() takes a tuple of shapes, and text as bytes");
    }
    PyObject *text = NULL;
    if (view.itemsize != sizeof(double) || view.format == NULL || strcmp(view.format, "d") != 0 || view.len / 8 != size
        || (is_masked && PyBytes_GET_SIZE(mask) != size)
        || (has_more && PyList_GET_SIZE(more) != PyList_GET_SIZE(rows)))
        PyErr_Format(PyExc_ValueError, "lines() takes a value for each row and shape, which are %zd", size);
    else
        text = write_lines(shapes, rows, view.buf, is_masked ? PyBytes_AS_STRING(mask) : NULL, has_more ? more : NULL);
    PyBuffer_Release(&view);
    return text;
}

static PyObject *number(PyObject *Py_UNUSED(module), PyObject *value)
{
    char text[NUMBER_ROOM];
    double number;
    if (take_number(value, &number) < 0)
        return NULL;
    Py_ssize_t size = write_number(number, text);
    return size < 0 ? NULL : PyUnicode_FromStringAndSize(text, size);
}

static PyMethodDef line_methods[] = {
    {"lines", lines, METH_VARARGS, "See mpmetrics._cells.vectors."},
    {"number", number, METH_O, "See mpmetrics._cells.vectors."},
    {NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mpmetrics._cells._native",
    .m_doc = "The compiled twin of the hot words; see the package for the contract.",
    .m_size = -1,
    .m_methods = line_methods,
};

PyMODINIT_FUNC PyInit__native(void)
{
    static PyTypeObject *const types[] = {
        &Guard_Type, &Segment_Type, &Removals_Type, &Labelled_Type, &Cell_Type, &CounterCell_Type, &GaugeCell_Type,
        &RecentCell_Type, &DistributionCell_Type, &SketchCell_Type,
    };
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    /* One more whenever the twin in Python expects something else of this one. */
    int failed = PyModule_AddIntConstant(module, "CONTRACT", 4) < 0
        || PyModule_AddFunctions(module, vector_methods) < 0;
    for (size_t at = 0; !failed && at < sizeof types / sizeof *types; at++)
        failed = PyModule_AddType(module, types[at]) < 0;
    if (failed)
        Py_CLEAR(module);
    return module;
}
