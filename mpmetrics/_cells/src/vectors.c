/* Merging the words of many processes, all series of a family at a time. */

#include "core.h"

/* Words of one process, slot 0 first; slots past the end are zero. */
typedef struct {
    const double *data;
    Py_ssize_t size;
    Py_buffer view;
    double *own; /* the copy, of what is no buffer of doubles */
} Vector;

typedef struct {
    Vector *items;
    Py_ssize_t count;
} Vectors;

static int vector_open(Vector *vector, PyObject *object)
{
    if (PyObject_CheckBuffer(object)) {
        if (PyObject_GetBuffer(object, &vector->view, PyBUF_ND | PyBUF_FORMAT) < 0)
            return -1;
        if (vector->view.itemsize == sizeof(double) && vector->view.format != NULL
            && strcmp(vector->view.format, "d") == 0) {
            vector->data = vector->view.buf;
            vector->size = vector->view.len / (Py_ssize_t)sizeof(double);
            return 0;
        }
        PyErr_Format(PyExc_TypeError, "a vector is of doubles, not of format '%s'", vector->view.format);
        return -1;
    }
    PyObject *items = PySequence_Tuple(object); /* which no number's code can change */
    if (items == NULL)
        return -1;
    Py_ssize_t size = PyTuple_GET_SIZE(items);
    vector->own = PyMem_New(double, size + 1);
    for (Py_ssize_t at = 0; vector->own != NULL && at < size && !PyErr_Occurred(); at++)
        vector->own[at] = PyFloat_AsDouble(PyTuple_GET_ITEM(items, at));
    Py_DECREF(items);
    vector->data = vector->own;
    vector->size = size;
    if (vector->own == NULL)
        PyErr_NoMemory();
    return PyErr_Occurred() ? -1 : 0;
}

static void vector_close(Vector *vector)
{
    if (vector->view.obj != NULL)
        PyBuffer_Release(&vector->view);
    PyMem_Free(vector->own);
    *vector = (Vector){0};
}

static void vectors_close(Vectors *vectors)
{
    for (Py_ssize_t at = 0; at < vectors->count; at++)
        vector_close(&vectors->items[at]);
    PyMem_Free(vectors->items);
    *vectors = (Vectors){0};
}

/* Takes a sequence of vectors; closed again, and -1, when one of them is none. */
static int vectors_open(Vectors *vectors, PyObject *sequence)
{
    *vectors = (Vectors){0};
    PyObject *objects = PySequence_Tuple(sequence);
    if (objects == NULL)
        return -1;
    Py_ssize_t count = PyTuple_GET_SIZE(objects);
    vectors->items = PyMem_Calloc((size_t)count + 1, sizeof(Vector));
    int failed = vectors->items == NULL;
    if (failed)
        PyErr_NoMemory();
    for (; !failed && vectors->count < count; vectors->count++)
        failed = vector_open(&vectors->items[vectors->count], PyTuple_GET_ITEM(objects, vectors->count)) < 0;
    Py_DECREF(objects);
    if (failed)
        vectors_close(vectors);
    return failed ? -1 : 0;
}

static inline double word_of(const Vector *vector, Py_ssize_t slot)
{
    return slot < vector->size ? vector->data[slot] : 0.0;
}

/* Whole numbers of 8 bytes: first slots, places, spans. */
static int indices_open(Py_buffer *view, PyObject *object, const int64_t **data, Py_ssize_t *count)
{
    if (PyObject_GetBuffer(object, view, PyBUF_ND | PyBUF_FORMAT) < 0)
        return -1;
    *data = view->buf;
    *count = view->len / 8;
    int is_valid = view->itemsize == 8 && view->format != NULL && strcmp(view->format, "q") == 0;
    for (Py_ssize_t at = 0; is_valid && at < *count; at++)
        is_valid = (*data)[at] >= 0 && (*data)[at] < (int64_t)1 << 48;
    if (is_valid)
        return 0;
    PyBuffer_Release(view);
    PyErr_SetString(PyExc_ValueError, "slots are an array of format 'q', none of them negative");
    return -1;
}

/* A new vector, all zero: a view of doubles, and where they are. */
static PyObject *new_vector(Py_ssize_t size, double **data)
{
    PyObject *bytes = PyByteArray_FromStringAndSize(NULL, size * (Py_ssize_t)sizeof(double));
    PyObject *view = bytes == NULL ? NULL : PyMemoryView_FromObject(bytes);
    PyObject *cast = view == NULL ? NULL : PyObject_CallMethod(view, "cast", "s", "d");
    if (cast != NULL) {
        *data = (double *)PyByteArray_AS_STRING(bytes);
        memset(*data, 0, (size_t)size * sizeof(double));
    }
    Py_XDECREF(bytes);
    Py_XDECREF(view);
    return cast;
}

/* What a merge works on: vectors, the first slots of a family's series, and a row of results for each. */
typedef struct {
    Vectors vectors;
    Py_buffer view;
    const int64_t *firsts;
    Py_ssize_t rows, width;
    double *room; /* twice the number of vectors, and some */
    PyObject *values, *mask;
    double *value;
    char *shown;
} Merge;

static void merge_close(Merge *merge)
{
    vectors_close(&merge->vectors);
    if (merge->view.obj != NULL)
        PyBuffer_Release(&merge->view);
    PyMem_Free(merge->room);
}

static int merge_open(Merge *merge, PyObject *vectors, PyObject *firsts, Py_ssize_t width)
{
    *merge = (Merge){.width = width};
    if (width < 0) {
        PyErr_Format(PyExc_ValueError, "a width of %zd", width);
        return -1;
    }
    if (vectors_open(&merge->vectors, vectors) < 0)
        return -1;
    if (indices_open(&merge->view, firsts, &merge->firsts, &merge->rows) < 0) {
        vectors_close(&merge->vectors);
        return -1;
    }
    merge->room = PyMem_New(double, 2 * merge->vectors.count + 4);
    if (merge->room == NULL || (width > 0 && merge->rows > PY_SSIZE_T_MAX / (Py_ssize_t)sizeof(double) / width))
        PyErr_NoMemory();
    else
        merge->values = new_vector(merge->rows * width, &merge->value);
    if (merge->values != NULL) {
        merge->mask = PyBytes_FromStringAndSize(NULL, merge->rows * width);
        if (merge->mask != NULL)
            merge->shown = memset(PyBytes_AS_STRING(merge->mask), 0, (size_t)(merge->rows * width));
    }
    if (merge->mask != NULL)
        return 0;
    Py_XDECREF(merge->values);
    merge_close(merge);
    return -1;
}

static PyObject *merge_end(Merge *merge, int is_masked)
{
    merge_close(merge);
    if (is_masked)
        return Py_BuildValue("NN", merge->values, merge->mask);
    Py_DECREF(merge->mask);
    return merge->values;
}

static double sum_of(Merge *merge, Py_ssize_t slot)
{
    Py_ssize_t count = 0;
    double *addends = merge->room;
    for (Py_ssize_t at = 0; at < merge->vectors.count; at++) {
        double word = word_of(&merge->vectors.items[at], slot);
        addends[count] = word;
        count += word != 0.0;
    }
    return exact_sum(addends, count, addends + merge->vectors.count + 1);
}

static PyObject *sums(PyObject *Py_UNUSED(module), PyObject *args)
{
    Merge merge;
    PyObject *vectors, *firsts, *memo; /* adding is so quick that there is nothing to remember */
    Py_ssize_t width;
    if (!PyArg_ParseTuple(args, "OOn|O:sums", &vectors, &firsts, &width, &memo)
        || merge_open(&merge, vectors, firsts, width) < 0)
        return NULL;
    for (Py_ssize_t row = 0; row < merge.rows; row++)
        for (Py_ssize_t at = 0; at < width; at++)
            merge.value[row * width + at] = sum_of(&merge, merge.firsts[row] + at);
    return merge_end(&merge, 0);
}

static PyObject *extremes(PyObject *Py_UNUSED(module), PyObject *args)
{
    Merge merge;
    PyObject *vectors, *firsts;
    int is_max;
    if (!PyArg_ParseTuple(args, "OOp:extremes", &vectors, &firsts, &is_max)
        || merge_open(&merge, vectors, firsts, 1) < 0)
        return NULL;
    for (Py_ssize_t row = 0; row < merge.rows; row++) {
        double best = NAN;
        for (Py_ssize_t at = 0; at < merge.vectors.count; at++) {
            double word = word_of(&merge.vectors.items[at], merge.firsts[row]);
            if (!is_set(word))
                continue;
            merge.shown[row] = 1;
            if (isnan(best) || (is_max ? word > best : word < best))
                best = word;
        }
        merge.value[row] = merge.shown[row] ? best + 0.0 : 0.0;
    }
    return merge_end(&merge, 1);
}

static PyObject *levels(PyObject *Py_UNUSED(module), PyObject *args)
{
    Merge merge;
    PyObject *vectors, *places, *firsts;
    Py_ssize_t width, count;
    Py_buffer view;
    const int64_t *place;
    if (!PyArg_ParseTuple(args, "OOnO:levels", &vectors, &places, &width, &firsts)
        || indices_open(&view, places, &place, &count) < 0)
        return NULL;
    int failed = merge_open(&merge, vectors, firsts, width) < 0;
    if (!failed && count != merge.vectors.count) {
        PyErr_Format(PyExc_ValueError, "%zd places for %zd vectors", count, merge.vectors.count);
        Py_DECREF(merge_end(&merge, 1));
        failed = 1;
    }
    for (Py_ssize_t at = 0; !failed && at < count; at++) {
        for (Py_ssize_t row = 0; row < merge.rows && place[at] < width; row++) {
            double word = word_of(&merge.vectors.items[at], merge.firsts[row]);
            if (is_set(word)) {
                merge.value[row * width + place[at]] = word + 0.0;
                merge.shown[row * width + place[at]] = 1;
            }
        }
    }
    PyBuffer_Release(&view);
    return failed ? NULL : merge_end(&merge, 1);
}

static PyObject *recents(PyObject *Py_UNUSED(module), PyObject *args)
{
    Merge merge;
    PyObject *vectors, *firsts;
    if (!PyArg_ParseTuple(args, "OO:recents", &vectors, &firsts) || merge_open(&merge, vectors, firsts, 2) < 0)
        return NULL;
    for (Py_ssize_t row = 0; row < merge.rows; row++) {
        double *value = merge.value + 2 * row, time = 0.0;
        int is_first = 1;
        for (Py_ssize_t at = 0; at < merge.vectors.count; at++) {
            const Vector *vector = &merge.vectors.items[at];
            if (merge.firsts[row] + 4 > vector->size)
                continue;
            const double *words = vector->data + merge.firsts[row];
            const double *later = words[1] >= words[3] ? words : words + 2;
            if (is_first || later[1] > time) {
                is_first = 0;
                value[0] = later[0] + 0.0;
                value[1] = time = later[1];
            }
        }
    }
    return merge_end(&merge, 0);
}

/* The sum that counts, of the words `sum, sum, bucket, ...` at `first`. */
static double distribution_sum(const Vector *vector, Py_ssize_t first, Py_ssize_t buckets)
{
    double count = 0.0;
    for (Py_ssize_t at = 0; at < buckets; at++)
        count += word_of(vector, first + 2 + at);
    return word_of(vector, first + (isfinite(count) && fmod(trunc(count), 2.0) != 0.0));
}

static PyObject *distributions(PyObject *Py_UNUSED(module), PyObject *args)
{
    Merge merge;
    PyObject *vectors, *firsts;
    Py_ssize_t buckets, plain;
    if (!PyArg_ParseTuple(args, "OnOn:distributions", &vectors, &plain, &firsts, &buckets)
        || merge_open(&merge, vectors, firsts, buckets < 1 || buckets > PY_SSIZE_T_MAX - 2 ? -1 : buckets + 2) < 0)
        return NULL;
    for (Py_ssize_t row = 0; row < merge.rows; row++) {
        double *value = merge.value + row * (buckets + 2), count = 0.0;
        Py_ssize_t first = merge.firsts[row], addends = 0;
        for (Py_ssize_t at = 0; at < buckets; at++)
            value[at] = count += sum_of(&merge, first + 2 + at);
        for (Py_ssize_t at = 0; at < merge.vectors.count; at++) {
            const Vector *vector = &merge.vectors.items[at];
            double word = at < plain ? word_of(vector, first)
                : first + 2 + buckets <= vector->size ? distribution_sum(vector, first, buckets) : 0.0;
            merge.room[addends] = word;
            addends += word != 0.0;
        }
        value[buckets] = count;
        value[buckets + 1] = exact_sum(merge.room, addends, merge.room + merge.vectors.count + 1);
    }
    return merge_end(&merge, 0);
}

enum { RETRIES = 256, RECORDS = 12 };

/* The words that a writer is at: those of which it was seen, and the first ones, which may change and change back. */
typedef struct {
    char *marked;
    int32_t *hot;
    int32_t count;
    int left; /* readings that may still be made */
} Busy;

static void mark(Busy *busy, Py_ssize_t at)
{
    if (!busy->marked[at]) {
        busy->marked[at] = 1;
        busy->hot[busy->count++] = (int32_t)at;
    }
}

/* Load the busy words until two readings agree: they all had these values between the two. */
static int load_busy(Busy *busy, const double *source, double *target)
{
    for (int attempt = 0; busy->left-- > 0; attempt++) {
        int is_same = attempt > 0;
        for (int32_t at = 0; at < busy->count; at++) {
            double word = load_word(source + busy->hot[at]);
            is_same &= memcmp(&word, target + busy->hot[at], sizeof word) == 0;
            target[busy->hot[at]] = word;
        }
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (is_same)
            return 1;
    }
    return 0;
}

/* Load the words that were not busy so far; whether they are as they were. */
static int load_rest(Busy *busy, const double *source, double *target, Py_ssize_t width)
{
    int is_same = 1;
    for (Py_ssize_t at = 0; at < width; at++) {
        double word = load_word(source + at);
        if (!busy->marked[at] && memcmp(&word, target + at, sizeof word) != 0) {
            is_same = 0;
            target[at] = word;
            mark(busy, at);
        }
    }
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return is_same;
}

/* Words that belong together, as they were at one moment, if that can be had in a bounded number of attempts.

   A writer may be quicker than a reading of all of them, but it is at few words at a time. So those are read, in the
   middle of two readings of the others, which are buckets: they only grow, so the same twice means the same between. */
static void settle(Busy *busy, const double *source, double *target, Py_ssize_t width)
{
    memset(busy->marked, 0, (size_t)width);
    busy->count = 0;
    busy->left = RETRIES;
    for (Py_ssize_t at = 0; at < width && at < RECORDS; at++)
        mark(busy, at);
    while (busy->left > 0)
        if (load_busy(busy, source, target) & load_rest(busy, source, target, width))
            return;
}

/* Whether words are as they were when they were loaded. */
static int is_steady(const double *source, const double *target, Py_ssize_t width)
{
    for (Py_ssize_t at = 0; at < width; at++) {
        double word = load_word(source + at);
        if (memcmp(&word, target + at, sizeof word) != 0)
            return 0;
    }
    return 1;
}

static int settle_all(const Vector *source, double *target, Py_ssize_t count, const int64_t *span, Py_ssize_t size)
{
    Busy busy = {0};
    int64_t widest = 0;
    for (Py_ssize_t at = 0; at + 1 < size; at += 2)
        widest = span[at + 1] > widest && span[at + 1] <= count ? span[at + 1] : widest;
    busy.marked = PyMem_Malloc((size_t)widest + 1);
    busy.hot = PyMem_New(int32_t, widest + 1);
    int failed = busy.marked == NULL || busy.hot == NULL;
    for (Py_ssize_t at = 0; !failed && at + 1 < size; at += 2)
        if (span[at] + span[at + 1] <= count && !is_steady(source->data + span[at], target + span[at], span[at + 1]))
            settle(&busy, source->data + span[at], target + span[at], span[at + 1]);
    PyMem_Free(busy.marked);
    PyMem_Free(busy.hot);
    if (failed)
        PyErr_NoMemory();
    return failed ? -1 : 0;
}

static PyObject *load(PyObject *Py_UNUSED(module), PyObject *args)
{
    Vector source = {0};
    Py_buffer view;
    PyObject *words, *spans, *held; /* loading is so quick that nothing is gained by what is held */
    Py_ssize_t count, pairs;
    const int64_t *span;
    double *target;
    if (!PyArg_ParseTuple(args, "OnO|O:load", &words, &count, &spans, &held))
        return NULL;
    if (vector_open(&source, words) < 0) {
        vector_close(&source);
        return NULL;
    }
    count = count < 0 ? 0 : count < source.size ? count : source.size;
    PyObject *copy = new_vector(count, &target);
    if (copy != NULL && indices_open(&view, spans, &span, &pairs) < 0)
        Py_CLEAR(copy);
    if (copy != NULL) {
        for (Py_ssize_t at = 0; at < count; at++)
            target[at] = load_word(source.data + at);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (settle_all(&source, target, count, span, pairs) < 0)
            Py_CLEAR(copy);
        PyBuffer_Release(&view);
    }
    vector_close(&source);
    return copy;
}

PyMethodDef vector_methods[] = {
    {"load", load, METH_VARARGS, "See mpmetrics._cells.vectors."},
    {"sums", sums, METH_VARARGS, "See mpmetrics._cells.vectors."},
    {"extremes", extremes, METH_VARARGS, "See mpmetrics._cells.vectors."},
    {"levels", levels, METH_VARARGS, "See mpmetrics._cells.vectors."},
    {"recents", recents, METH_VARARGS, "See mpmetrics._cells.vectors."},
    {"distributions", distributions, METH_VARARGS, "See mpmetrics._cells.vectors."},
    {NULL},
};
