/* What the cells of one metric share: its name, and the layout of their words. */

#include "cells.h"

static int parse_bounds(Shape *self, PyObject *bounds)
{
    Py_ssize_t count = PyTuple_Check(bounds) ? PyTuple_GET_SIZE(bounds) : 0;
    self->bounds = PyMem_Calloc((size_t)count + 1, sizeof *self->bounds);
    if (self->bounds == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    while (self->bound_count < count && PyFloat_Check(PyTuple_GET_ITEM(bounds, self->bound_count))) {
        self->bounds[self->bound_count] = PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(bounds, self->bound_count));
        self->bound_count++;
    }
    if (count == 0 || self->bound_count < count || self->bounds[count - 1] != Py_HUGE_VAL) {
        PyErr_Format(PyExc_ValueError, "bounds must be floats, the last one infinite, not %R", bounds);
        return -1;
    }
    return 0;
}

/* The bounds of a histogram's buckets; a summary has one bucket. */
static PyObject *bounds_of(PyObject *family)
{
    PyObject *bounds = PyObject_GetAttrString(family, "bounds");
    if (bounds != NULL && PyTuple_Check(bounds) && PyTuple_GET_SIZE(bounds) == 0)
        Py_SETREF(bounds, Py_BuildValue("(d)", Py_HUGE_VAL));
    return bounds;
}

static double layout_number(PyObject *layout, const char *name)
{
    PyObject *value = PyObject_GetAttrString(layout, name);
    double number = value == NULL ? -1.0 : PyFloat_AsDouble(value);
    Py_XDECREF(value);
    return number;
}

static int parse_layout(Shape *self, PyObject *layout)
{
    double side = layout_number(layout, "side"), zero = layout_number(layout, "zero");
    double size = layout_number(layout, "size"), is_signed = layout_number(layout, "signed");
    self->layout = (Layout){layout_number(layout, "lowest"), layout_number(layout, "log_growth"), (Py_ssize_t)side,
                            (Py_ssize_t)zero, (Py_ssize_t)size, is_signed != 0.0};
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *layout_of(PyObject *family)
{
    PyObject *module = PyImport_ImportModule("mpmetrics._cells.sketch"), *layout = NULL;
    PyObject *layouts = module == NULL ? NULL : PyObject_GetAttrString(module, "LAYOUTS");
    PyObject *mode = layouts == NULL ? NULL : PyObject_GetAttrString(family, "mode");
    if (mode != NULL)
        layout = PyObject_GetItem(layouts, mode);
    Py_XDECREF(mode);
    Py_XDECREF(layouts);
    Py_XDECREF(module);
    return layout;
}

/* How many words a series must have; with fewer, a cell would write into its neighbour's. */
static Py_ssize_t words_of(const Shape *self, PyTypeObject *cell_type)
{
    if (PyType_IsSubtype(cell_type, &DistributionCell_Type))
        return 2 + self->bound_count;
    if (PyType_IsSubtype(cell_type, &SketchCell_Type))
        return 12 + self->layout.size;
    return PyType_IsSubtype(cell_type, &RecentCell_Type) ? 4 : 1;
}

static int fill(Shape *self, PyObject *family, PyTypeObject *cell_type, PyObject **bounds, PyObject **layout)
{
    self->name = PyObject_GetAttrString(family, "name");
    if (self->name == NULL)
        return -1;
    if (PyType_IsSubtype(cell_type, &DistributionCell_Type)) {
        *bounds = bounds_of(family);
        if (*bounds == NULL || parse_bounds(self, *bounds) < 0)
            return -1;
    }
    if (PyType_IsSubtype(cell_type, &SketchCell_Type)) {
        *layout = layout_of(family);
        if (*layout == NULL || parse_layout(self, *layout) < 0)
            return -1;
    }
    if (self->width == words_of(self, cell_type))
        return 0;
    PyErr_Format(PyExc_ValueError, "a series of %R has %zd words, not %zd", self->name, words_of(self, cell_type),
                 self->width);
    return -1;
}

Shape *shape_of(PyObject *family, PyTypeObject *cell_type, Py_ssize_t width, PyObject **bounds, PyObject **layout)
{
    Shape *self = PyMem_Calloc(1, sizeof *self);
    if (self == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    self->users = 1;
    self->width = width;
    if (fill(self, family, cell_type, bounds, layout) == 0)
        return self;
    shape_release(self);
    return NULL;
}

void shape_release(Shape *self)
{
    if (self == NULL || --self->users > 0)
        return;
    Py_XDECREF(self->name);
    PyMem_Free(self->bounds);
    PyMem_Free(self);
}
