/* What the files of the compiled twin share. The contract is the package's, mpmetrics/_cells/__init__.py.

   All of it relies on the GIL: between two calls into Python, an operation is alone. The module does not declare itself
   free of the GIL, so an interpreter without one takes it back for as long as this module is loaded. */

#ifndef MPMETRICS_CORE_H
#define MPMETRICS_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "sums are exact only where each operation on doubles is rounded by itself"
#endif

/* A run of 8-byte words. While `data` is not NULL, `view` keeps the map under it open: whoever would close it is
   refused. `stamp` is another one after each replacement of the words, in this or any other segment. */
typedef struct {
    PyObject_HEAD
    PyObject *words;
    double *data;
    Py_ssize_t size;
    uint64_t stamp;
    Py_buffer view;
} Segment;

/* Whether an operation that calls into Python is under way, and what came meanwhile. */
typedef struct {
    PyObject_HEAD
    uint64_t held; /* 0, or the turn of the holder */
    uint64_t turn;
    PyObject *queue; /* a list of (operation, argument) */
} Guard;

#define CELL_HEAD \
    PyObject_HEAD \
    Guard *guard; \
    Segment *segment; \
    Py_ssize_t index; \
    PyObject *name;

typedef struct {
    CELL_HEAD
} Cell;

/* `counted` is the segment's stamp when `odd` was last right; 0 when it has to be counted anew. */
#define COUNTED_HEAD \
    CELL_HEAD \
    uint64_t counted; \
    int odd;

typedef struct {
    COUNTED_HEAD
} CountedCell;

/* The words of one operation: the segment's, as they were when it began, whatever becomes of the segment meanwhile. */
typedef struct {
    PyObject *words;
    double *data;
    Py_ssize_t index;
} Place;

extern PyTypeObject Guard_Type, Segment_Type, Removals_Type, Labelled_Type;
extern PyTypeObject Cell_Type, CounterCell_Type, GaugeCell_Type, RecentCell_Type, DistributionCell_Type;
extern PyTypeObject SketchCell_Type;
extern PyMethodDef vector_methods[];

/* Loads and stores of whole words, in the order in which they are written down. Other processes look on. */
static inline double load_word(const double *at) { return *(const volatile double *)at; }
static inline void store_word(double *at, double value) { *(volatile double *)at = value; }
static inline void commit_word(double *at, double value)
{
    __atomic_thread_fence(__ATOMIC_RELEASE);
    store_word(at, value);
}

/* All bits zero: never set. */
static inline int is_set(double value) { return value != 0.0 || signbit(value); }

/* Whether the cell's `width` words can be written right now, without a call into Python. */
static inline double *direct(Cell *cell, Py_ssize_t width)
{
    Segment *segment = cell->segment;
    if (segment == NULL || cell->guard->held || segment->data == NULL || cell->index > segment->size - width)
        return NULL;
    return segment->data + cell->index;
}

int guard_run(Guard *guard, PyObject *operation, PyObject *argument);

int place_begin(Cell *cell, Py_ssize_t width, Place *place);
void place_end(Place *place);
int place_get(Place *place, Py_ssize_t at, double *value);
int place_put(Place *place, Py_ssize_t at, double value);

int cell_init(Cell *cell, PyObject *guard, PyObject *segment, Py_ssize_t index, PyObject *name);
int cell_traverse(Cell *cell, visitproc visit, void *arg);
int cell_clear(Cell *cell);
void cell_dealloc(Cell *cell);
int cell_later(Cell *cell, const char *operation, PyObject *argument);
PyObject *cell_later_number(Cell *cell, const char *operation, double value);
int is_odd(CountedCell *cell, Place *place, Py_ssize_t first, Py_ssize_t buckets, int *odd);
int counted_commit(CountedCell *cell, Place *place, Py_ssize_t bucket, int odd);
PyObject *counted_place(CountedCell *cell, PyObject *args);
int say_no_exemplars(PyObject *exemplar);
int take_number(PyObject *value, double *number);
int take_float(PyObject *value, double *number);
int take_arguments(const char *method, PyObject *const *args, Py_ssize_t count, PyObject *names,
                   const char *const *keywords, int most, PyObject **values);

double exact_sum(const double *addends, Py_ssize_t count, double *room);
Py_ssize_t write_number(double value, char *text); /* at most NUMBER_ROOM characters */
#define NUMBER_ROOM 32

#endif
