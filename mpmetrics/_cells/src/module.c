/* The module. Each file explains its part; the contract is the package's, mpmetrics/_cells/__init__.py. */

#include "cells.h"

/* Increment this when the twin in Python expects something else of this one. */
enum { CONTRACT = 7 };

extern PyTypeObject Table_Type, Source_Type, Texts_Type;
extern PyMethodDef reader_methods[], line_methods[];

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mpmetrics._cells._native",
    .m_doc = "The compiled twin; the docstring of mpmetrics._cells is the contract.",
    .m_size = -1,
    .m_methods = map_functions,
};

PyMODINIT_FUNC PyInit__native(void)
{
    static PyTypeObject *const types[] = {
        &Map_Type, &Process_Type, &Slab_Type, &Children_Type, &Labelled_Type, &Cell_Type, &CounterCell_Type,
        &GaugeCell_Type, &RecentCell_Type, &DistributionCell_Type, &SketchCell_Type, &Table_Type, &Source_Type,
        &Texts_Type,
    };
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    int failed = PyModule_AddIntConstant(module, "CONTRACT", CONTRACT) < 0
        || PyModule_AddFunctions(module, reader_methods) < 0 || PyModule_AddFunctions(module, line_methods) < 0;
    for (size_t at = 0; !failed && at < sizeof types / sizeof *types; at++)
        failed = PyModule_AddType(module, types[at]) < 0;
    if (failed)
        Py_CLEAR(module);
    return module;
}
