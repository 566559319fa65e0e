/* What all files of the compiled twin use. The contract: mpmetrics/_cells/__init__.py.

   All of it relies on the GIL: between two calls into Python, no other thread runs. The module does not declare that it
   works without the GIL, so a free-threaded interpreter enables the GIL while this module is loaded. */

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

/* Loads and stores of whole words, in program order: other processes read the words meanwhile. */
static inline double load_word(const double *at) { return *(const volatile double *)at; }
static inline void store_word(double *at, double value) { *(volatile double *)at = value; }
static inline void commit_word(double *at, double value)
{
    __atomic_thread_fence(__ATOMIC_RELEASE);
    store_word(at, value);
}

/* All bits zero: never set. */
static inline int is_set(double value) { return value != 0.0 || signbit(value); }

uint32_t checksum(uint32_t start, const void *bytes, Py_ssize_t size); /* zlib.crc32(bytes, start) */
uint32_t checksum_copy(uint32_t start, void *to, const void *from, Py_ssize_t size); /* copies; checksum of the copy */

int parse_number(PyObject *value, double *number);

#endif
