/* Merge the series of many sources, all rows of a table at a time. Contract: mpmetrics/_cells/merging.py and rows.py. */

#include "index.h"

/* --- what all functions share --- */

typedef struct {
    const Part *part;
    const Source *source;
    Py_ssize_t number; /* of the source */
} Column;

/* The sources that have series of a table. */
typedef struct {
    Table *table;
    PyObject *sources; /* a tuple, so that it cannot change */
    Column *columns;
    Py_ssize_t count, rows;
} Merge;

static void merge_close(Merge *merge)
{
    PyMem_Free(merge->columns);
    Py_XDECREF(merge->sources);
}

static int merge_open(Merge *merge, PyObject *table, PyObject *sources)
{
    *merge = (Merge){0};
    if (!Py_IS_TYPE(table, &Table_Type)) {
        PyErr_Format(PyExc_TypeError, "%R is no Table", table);
        return -1;
    }
    merge->table = (Table *)table;
    merge->rows = merge->table->count;
    merge->sources = PySequence_Tuple(sources);
    if (merge->sources == NULL)
        return -1;
    Py_ssize_t count = PyTuple_GET_SIZE(merge->sources);
    merge->columns = PyMem_New(Column, count + 1);
    if (merge->columns == NULL)
        PyErr_NoMemory();
    for (Py_ssize_t at = 0; merge->columns != NULL && at < count && !PyErr_Occurred(); at++) {
        PyObject *object = PyTuple_GET_ITEM(merge->sources, at);
        if (!Py_IS_TYPE(object, &Source_Type)) {
            PyErr_Format(PyExc_TypeError, "%R is no Source", object);
            break;
        }
        Source *source = (Source *)object;
        const Part *part = source_part(source, merge->table);
        if (part != NULL && part->loaded > 0)
            merge->columns[merge->count++] = (Column){part, source, at};
    }
    if (!PyErr_Occurred())
        return 0;
    merge_close(merge);
    return -1;
}

/* Whether the rows of a column have words that can be merged like this. */
static inline int has_width(const Column *column, Py_ssize_t width)
{
    return (Py_ssize_t)column->part->width == width;
}

/* A memoryview with `count` items of this 8-byte format, all zero. `data` is set to their address. */
static PyObject *new_array(Py_ssize_t count, const char *format, void *data)
{
    if (count > PY_SSIZE_T_MAX / 8)
        return PyErr_NoMemory();
    PyObject *bytes = PyByteArray_FromStringAndSize(NULL, count * 8);
    PyObject *view = bytes == NULL ? NULL : PyMemoryView_FromObject(bytes);
    PyObject *cast = view == NULL ? NULL : PyObject_CallMethod(view, "cast", "s", format);
    if (cast != NULL)
        *(void **)data = memset(PyByteArray_AS_STRING(bytes), 0, (size_t)count * 8);
    Py_XDECREF(bytes);
    Py_XDECREF(view);
    return cast;
}

static PyObject *new_mask(Py_ssize_t size, char **data)
{
    PyObject *mask = PyBytes_FromStringAndSize(NULL, size);
    if (mask != NULL)
        *data = memset(PyBytes_AS_STRING(mask), 0, (size_t)size);
    return mask;
}

/* The items of a buffer of format 'q'. */
static int open_integers(Py_buffer *view, PyObject *object, const int64_t **data, Py_ssize_t *count)
{
    if (PyObject_GetBuffer(object, view, PyBUF_ND | PyBUF_FORMAT) < 0)
        return -1;
    if (view->itemsize == 8 && view->format != NULL && strcmp(view->format, "q") == 0) {
        *data = view->buf;
        *count = view->len / 8;
        return 0;
    }
    PyBuffer_Release(view);
    PyErr_SetString(PyExc_TypeError, "needs an array of format 'q'");
    return -1;
}

/* --- sums --- */

/* Exact sums of cells. The first pass adds up each cell in two doubles and marks the cells whose sum does not fit into
   two. The second pass counts the addends of the marked cells, the third gathers them; then each is summed exactly. */
enum { ADD, COUNT, GATHER };

typedef struct {
    double *value, *rest;
    char *marked;
    Py_ssize_t size, marks;
    uint32_t *index; /* of a marked cell */
    Py_ssize_t *start, *fill;
    double *addends, *room;
} Sums;

static void sums_close(Sums *sums)
{
    PyMem_RawFree(sums->rest);
    PyMem_RawFree(sums->marked);
    PyMem_RawFree(sums->index);
    PyMem_RawFree(sums->start);
    PyMem_RawFree(sums->fill);
    PyMem_RawFree(sums->addends);
    PyMem_RawFree(sums->room);
}

static int sums_open(Sums *sums, double *value, Py_ssize_t size)
{
    /* Untouched pages cost nothing. */
    *sums = (Sums){
        .value = value, .size = size, .rest = PyMem_RawCalloc((size_t)size + 1, sizeof(double)),
        .marked = PyMem_RawCalloc((size_t)size + 1, 1),
    };
    if (sums->rest != NULL && sums->marked != NULL)
        return 0;
    sums_close(sums);
    PyErr_NoMemory();
    return -1;
}

static void add_rest(Sums *sums, Py_ssize_t cell, double lost)
{
    double rest = sums->rest[cell], total = rest + lost, part = total - rest;
    if ((rest - (total - part)) + (lost - part) != 0.0 && !sums->marked[cell]) { /* also true for NaN */
        sums->marked[cell] = 1;
        sums->marks++;
    }
    sums->rest[cell] = total;
}

static inline void add(Sums *sums, Py_ssize_t cell, double x, const int pass)
{
    if (pass == ADD) {
        double sum = sums->value[cell], total = sum + x, part = total - sum;
        double lost = (sum - (total - part)) + (x - part);
        sums->value[cell] = total;
        if (lost != 0.0)
            add_rest(sums, cell, lost);
    } else if (sums->marked[cell] && x != 0.0) {
        if (pass == COUNT)
            sums->start[sums->index[cell] + 1]++;
        else
            sums->addends[sums->fill[sums->index[cell]]++] = x;
    }
}

typedef struct {
    Py_ssize_t position, width, buckets;
} Shape;

typedef void (*Feed)(Sums *sums, const Merge *merge, const Shape *shape, int pass);

/* Number the marked cells, and make room for their addends once those are counted. */
static int sums_prepare(Sums *sums)
{
    sums->index = PyMem_RawCalloc((size_t)sums->size + 1, sizeof *sums->index);
    sums->start = PyMem_RawCalloc((size_t)sums->marks + 2, sizeof *sums->start);
    sums->fill = PyMem_RawCalloc((size_t)sums->marks + 2, sizeof *sums->fill);
    if (sums->index == NULL || sums->start == NULL || sums->fill == NULL)
        return -1;
    uint32_t next = 0;
    for (Py_ssize_t cell = 0; cell < sums->size; cell++)
        if (sums->marked[cell])
            sums->index[cell] = next++;
    return 0;
}

static int sums_gather(Sums *sums)
{
    Py_ssize_t most = 0;
    for (Py_ssize_t at = 0; at < sums->marks; at++) {
        most = sums->start[at + 1] > most ? sums->start[at + 1] : most;
        sums->start[at + 1] += sums->start[at];
    }
    memcpy(sums->fill, sums->start, (size_t)(sums->marks + 1) * sizeof *sums->fill);
    sums->addends = PyMem_RawMalloc((size_t)(sums->start[sums->marks] + 1) * sizeof(double));
    sums->room = PyMem_RawMalloc((size_t)(2 * most + 4) * sizeof(double));
    return sums->addends == NULL || sums->room == NULL ? -1 : 0;
}

/* The sum of a marked cell; sets `rest` to what rounding left. */
static double sum_marked(Sums *sums, Py_ssize_t cell, double *rest)
{
    uint32_t index = sums->index[cell];
    Py_ssize_t count = sums->fill[index] - sums->start[index];
    double *addends = sums->room, *room = sums->room + count + 1;
    memcpy(addends, sums->addends + sums->start[index], (size_t)count * sizeof(double));
    double value = exact_sum(addends, count, room);
    if (rest != NULL) {
        addends[count] = -value;
        *rest = isfinite(value) ? exact_sum(addends, count + 1, room) : 0.0;
    }
    return value;
}

/* The sum of a cell, rounded once; sets `rest`, unless it is NULL, to what rounding left. */
static inline void finish(Sums *sums, Py_ssize_t cell, double *rest)
{
    double high = sums->value[cell], low = sums->rest[cell], value = high + low;
    if (sums->marked[cell]) {
        sums->value[cell] = sum_marked(sums, cell, rest);
        return;
    }
    if (rest != NULL) {
        double part = value - high;
        *rest = (high - (value - part)) + (low - part) + 0.0;
    }
    sums->value[cell] = value + 0.0; /* never -0.0 */
}

/* Mark cells whose sum exceeds the largest double only together with its rest. */
static void mark_infinite(Sums *sums)
{
    for (Py_ssize_t cell = 0; cell < sums->size; cell++)
        if (!isfinite(sums->value[cell] + sums->rest[cell]) && !sums->marked[cell]) {
            sums->marked[cell] = 1;
            sums->marks++;
        }
}

static int sums_feed(Sums *sums, const Merge *merge, const Shape *shape, Feed feed)
{
    feed(sums, merge, shape, ADD);
    mark_infinite(sums);
    if (sums->marks == 0)
        return 0;
    int failed = sums_prepare(sums) < 0;
    if (!failed) {
        feed(sums, merge, shape, COUNT);
        failed = sums_gather(sums) < 0;
    }
    if (failed) {
        PyErr_NoMemory();
        return -1;
    }
    feed(sums, merge, shape, GATHER);
    return 0;
}

/* The offset of the words in a row of a column; -1 if it has none of them. Sets `pair` if they are value and rest. */
static Py_ssize_t words_at(const Column *column, const Shape *shape, int *pair)
{
    Py_ssize_t has = column->part->width, position = shape->position;
    *pair = column->source->is_retired && has == 2;
    if (*pair)
        return position == 0 && shape->width == 1 ? 0 : -1;
    if (column->source->is_retired && has > 2)
        position -= SKETCH_RECORD;
    return position >= 0 && position <= has - shape->width ? position : -1;
}

typedef double Four __attribute__((vector_size(32), aligned(8), may_alias));
typedef int64_t FourBits __attribute__((vector_size(32)));

/* Add `count` words to as many cells, four at a time. The rest that rounding leaves is mostly zero. */
static void add_run(Sums *sums, Py_ssize_t cell, const double *words, Py_ssize_t count)
{
    Py_ssize_t at = 0;
    for (; at + 4 <= count; at += 4) {
        Four *value = (Four *)(sums->value + cell + at);
        Four sum = *value, word = *(const Four *)(words + at), total = sum + word, part = total - sum;
        Four lost = (sum - (total - part)) + (word - part);
        FourBits is_more = lost != 0.0;
        *value = total;
        if (is_more[0] | is_more[1] | is_more[2] | is_more[3])
            for (int step = 0; step < 4; step++)
                if (lost[step] != 0.0)
                    add_rest(sums, cell + at + step, lost[step]);
    }
    for (; at < count; at++)
        add(sums, cell + at, words[at], ADD);
}

static inline __attribute__((always_inline)) void feed_words_by(
    Sums *sums, const Merge *merge, const Shape *shape, const int pass)
{
    for (Py_ssize_t at = 0; at < merge->count; at++) {
        const Part *part = merge->columns[at].part;
        int pair;
        Py_ssize_t position = words_at(&merge->columns[at], shape, &pair), stride = shape->width;
        const double *value = part->values + position;
        if (pass == ADD && part->is_run && part->width == 1 && position == 0) {
            add_run(sums, part->rows[0], part->values, part->loaded);
            continue;
        }
        for (Py_ssize_t member = 0; position >= 0 && member < part->loaded; member++, value += part->width) {
            Py_ssize_t row = part->rows[member];
            if (row == GONE)
                continue;
            for (Py_ssize_t word = 0; word < shape->width; word++)
                add(sums, row * stride + word, value[word], pass);
            if (pair)
                add(sums, row, value[1], pass);
        }
    }
}

static void feed_words(Sums *sums, const Merge *merge, const Shape *shape, int pass)
{
    if (pass == ADD)
        feed_words_by(sums, merge, shape, ADD);
    else if (pass == COUNT)
        feed_words_by(sums, merge, shape, COUNT);
    else
        feed_words_by(sums, merge, shape, GATHER);
}

static PyObject *sums(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "", "position", "width", NULL};
    PyObject *table, *sources;
    Shape shape = {.position = 0, .width = 1};
    Merge merge;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|nn:sums", keywords, &table, &sources, &shape.position, &shape.width)
        || merge_open(&merge, table, sources) < 0)
        return NULL;
    Sums sums;
    double *value;
    PyObject *values = NULL;
    if (shape.position < 0 || shape.width < 1 || merge.rows > PY_SSIZE_T_MAX / 8 / shape.width)
        PyErr_Format(PyExc_ValueError, "%zd words at %zd", shape.width, shape.position);
    else
        values = new_array(merge.rows * shape.width, "d", &value);
    if (values != NULL && sums_open(&sums, value, merge.rows * shape.width) < 0)
        Py_CLEAR(values);
    if (values != NULL) {
        if (sums_feed(&sums, &merge, &shape, feed_words) < 0)
            Py_CLEAR(values);
        for (Py_ssize_t cell = 0; values != NULL && cell < sums.size; cell++)
            finish(&sums, cell, NULL);
        sums_close(&sums);
    }
    merge_close(&merge);
    return values;
}

static PyObject *sums_and_rests(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "", "position", NULL};
    PyObject *table, *sources;
    Shape shape = {.position = 0, .width = 1};
    Merge merge;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|n:sums_and_rests", keywords, &table, &sources, &shape.position)
        || merge_open(&merge, table, sources) < 0)
        return NULL;
    Sums sums;
    double *value, *sum = PyMem_RawCalloc((size_t)merge.rows + 1, sizeof *sum);
    PyObject *values = sum == NULL ? PyErr_NoMemory() : new_array(merge.rows * 2, "d", &value);
    if (values != NULL && sums_open(&sums, sum, merge.rows) < 0)
        Py_CLEAR(values);
    if (values != NULL) {
        if (sums_feed(&sums, &merge, &shape, feed_words) < 0)
            Py_CLEAR(values);
        for (Py_ssize_t row = 0; values != NULL && row < merge.rows; row++) {
            finish(&sums, row, &value[2 * row + 1]);
            value[2 * row] = sum[row];
        }
        sums_close(&sums);
    }
    PyMem_RawFree(sum);
    merge_close(&merge);
    return values;
}

/* --- distributions --- */

/* The cells of a row: the sum, an unused one, the buckets. */
static inline __attribute__((always_inline)) void feed_distributions_by(
    Sums *sums, const Merge *merge, const Shape *shape, const int pass)
{
    Py_ssize_t buckets = shape->buckets, width = buckets + 2;
    for (Py_ssize_t at = 0; at < merge->count; at++) {
        const Part *part = merge->columns[at].part;
        int is_retired = merge->columns[at].source->is_retired;
        const double *value = part->values;
        if (!has_width(&merge->columns[at], width))
            continue;
        for (Py_ssize_t member = 0; member < part->loaded; member++, value += width) {
            if (part->rows[member] == GONE)
                continue;
            Py_ssize_t first = (Py_ssize_t)part->rows[member] * width;
            double count = 0.0;
            for (Py_ssize_t bucket = 2; bucket < width; bucket++)
                count += value[bucket];
            if (pass == ADD)
                add_run(sums, first + 2, value + 2, buckets);
            for (Py_ssize_t bucket = 2; pass != ADD && bucket < width; bucket++)
                add(sums, first + bucket, value[bucket], pass);
            if (is_retired) {
                add(sums, first, value[0], pass);
                add(sums, first, value[1], pass);
            } else
                add(sums, first, value[isfinite(count) && fmod(trunc(count), 2.0) != 0.0], pass);
        }
    }
}

static void feed_distributions(Sums *sums, const Merge *merge, const Shape *shape, int pass)
{
    if (pass == ADD)
        feed_distributions_by(sums, merge, shape, ADD);
    else if (pass == COUNT)
        feed_distributions_by(sums, merge, shape, COUNT);
    else
        feed_distributions_by(sums, merge, shape, GATHER);
}

/* Turn a row of sum, rest, buckets into cumulative counts, count, sum. */
static void accumulate(double *value, Py_ssize_t buckets)
{
    double sum = value[0], count = 0.0;
    for (Py_ssize_t at = 0; at < buckets; at++)
        value[at] = count += value[at + 2];
    value[buckets] = count;
    value[buckets + 1] = sum;
}

static PyObject *merge_distributions(PyObject *args, const char *format, int is_fold)
{
    PyObject *table, *sources;
    Shape shape = {0};
    Merge merge;
    if (!PyArg_ParseTuple(args, format, &table, &sources, &shape.buckets) || merge_open(&merge, table, sources) < 0)
        return NULL;
    Sums sums;
    Py_ssize_t width = shape.buckets + 2;
    double *value;
    PyObject *values = NULL;
    if (shape.buckets < 1 || shape.buckets > INT32_MAX || merge.rows > PY_SSIZE_T_MAX / 8 / width)
        PyErr_Format(PyExc_ValueError, "%zd buckets", shape.buckets);
    else
        values = new_array(merge.rows * width, "d", &value);
    if (values != NULL && sums_open(&sums, value, merge.rows * width) < 0)
        Py_CLEAR(values);
    if (values != NULL) {
        if (sums_feed(&sums, &merge, &shape, feed_distributions) < 0)
            Py_CLEAR(values);
        for (Py_ssize_t first = 0; values != NULL && first < sums.size; first += width) {
            for (Py_ssize_t at = 2; at < width; at++)
                finish(&sums, first + at, NULL);
            finish(&sums, first, is_fold ? &value[first + 1] : NULL);
            if (!is_fold)
                accumulate(value + first, shape.buckets);
        }
        sums_close(&sums);
    }
    merge_close(&merge);
    return values;
}

static PyObject *distributions(PyObject *Py_UNUSED(module), PyObject *args)
{
    return merge_distributions(args, "OOn:distributions", 0);
}

static PyObject *folded_distributions(PyObject *Py_UNUSED(module), PyObject *args)
{
    return merge_distributions(args, "OOn:folded_distributions", 1);
}

/* --- gauges --- */

static void gather_extremes(const Column *column, double *value, char *shown, int is_max)
{
    const Part *part = column->part;
    for (Py_ssize_t member = 0; member < part->loaded; member++) {
        uint32_t row = part->rows[member];
        double word = part->values[member];
        if (row == GONE || (!column->source->is_retired && !is_set(word)))
            continue;
        if (!shown[row] || isnan(value[row]) || (is_max ? word > value[row] : word < value[row]))
            value[row] = word + 0.0;
        shown[row] = 1;
    }
}

static PyObject *extremes(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *table, *sources, *mask = NULL;
    int is_max;
    Merge merge;
    if (!PyArg_ParseTuple(args, "OOp:extremes", &table, &sources, &is_max) || merge_open(&merge, table, sources) < 0)
        return NULL;
    double *value;
    char *shown;
    PyObject *values = new_array(merge.rows, "d", &value);
    if (values != NULL && (mask = new_mask(merge.rows, &shown)) == NULL)
        Py_CLEAR(values);
    for (Py_ssize_t at = 0; values != NULL && at < merge.count; at++)
        if (has_width(&merge.columns[at], 1))
            gather_extremes(&merge.columns[at], value, shown, is_max);
    merge_close(&merge);
    return values == NULL ? NULL : Py_BuildValue("NN", values, mask);
}

/* The levels: a row for each row of the table, a column for each ordinal, in ascending order. */
typedef struct {
    const int64_t *columns;
    Py_ssize_t width;
    double *value;
    char *shown;
} Levels;

static Py_ssize_t column_of(const Levels *levels, int64_t ordinal)
{
    Py_ssize_t low = 0, high = levels->width;
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (levels->columns[middle] < ordinal)
            low = middle + 1;
        else
            high = middle;
    }
    return low < levels->width && levels->columns[low] == ordinal ? low : -1;
}

static inline void put_level(Levels *levels, uint32_t row, Py_ssize_t column, double value)
{
    levels->value[(Py_ssize_t)row * levels->width + column] = value + 0.0;
    levels->shown[(Py_ssize_t)row * levels->width + column] = 1;
}

static inline int64_t ordinal_in(const double *word)
{
    int64_t ordinal;
    memcpy(&ordinal, word, sizeof ordinal);
    return ordinal;
}

static void gather_own_levels(const Part *part, Py_ssize_t column, Levels *levels)
{
    for (Py_ssize_t member = 0; column >= 0 && part->width == 1 && member < part->loaded; member++)
        if (part->rows[member] != GONE && is_set(part->values[member]))
            put_level(levels, part->rows[member], column, part->values[member]);
}

static void gather_retired_levels(const Part *part, Levels *levels)
{
    for (Py_ssize_t member = 0; member < part->loaded; member++) {
        const double *values = member_values(part, member);
        for (uint32_t at = 0; part->rows[member] != GONE && at + 1 < member_width(part, member); at += 2) {
            Py_ssize_t column = column_of(levels, ordinal_in(values + at));
            if (column >= 0)
                put_level(levels, part->rows[member], column, values[at + 1]);
        }
    }
}

static void gather_levels(const Merge *merge, const int64_t *ordinals, Levels *levels)
{
    for (Py_ssize_t at = 0; at < merge->count; at++) {
        const Column *column = &merge->columns[at];
        if (column->source->is_retired)
            gather_retired_levels(column->part, levels);
        else
            gather_own_levels(column->part, column_of(levels, ordinals[column->number]), levels);
    }
}

static PyObject *levels(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *table, *sources, *ordinals, *columns, *values = NULL, *mask = NULL;
    Py_buffer ordinal_view, column_view;
    const int64_t *ordinal;
    Py_ssize_t count;
    Levels levels;
    Merge merge;
    if (!PyArg_ParseTuple(args, "OOOO:levels", &table, &sources, &ordinals, &columns)
        || open_integers(&ordinal_view, ordinals, &ordinal, &count) < 0)
        return NULL;
    if (open_integers(&column_view, columns, &levels.columns, &levels.width) < 0) {
        PyBuffer_Release(&ordinal_view);
        return NULL;
    }
    if (merge_open(&merge, table, sources) == 0) {
        if (count != PyTuple_GET_SIZE(merge.sources))
            PyErr_Format(PyExc_ValueError, "%zd ordinals of %zd sources", count, PyTuple_GET_SIZE(merge.sources));
        else if (levels.width > 0 && merge.rows > PY_SSIZE_T_MAX / 8 / levels.width)
            PyErr_NoMemory();
        else if ((values = new_array(merge.rows * levels.width, "d", &levels.value)) != NULL
                 && (mask = new_mask(merge.rows * levels.width, &levels.shown)) == NULL)
            Py_CLEAR(values);
        if (values != NULL)
            gather_levels(&merge, ordinal, &levels);
        merge_close(&merge);
    }
    PyBuffer_Release(&ordinal_view);
    PyBuffer_Release(&column_view);
    return values == NULL ? NULL : Py_BuildValue("NN", values, mask);
}

static PyObject *retired_ordinals(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *table, *sources;
    Merge merge;
    if (!PyArg_ParseTuple(args, "OO:retired_ordinals", &table, &sources) || merge_open(&merge, table, sources) < 0)
        return NULL;
    PyObject *found = PySet_New(NULL);
    for (Py_ssize_t at = 0; found != NULL && at < merge.count; at++) {
        const Part *part = merge.columns[at].part;
        for (Py_ssize_t member = 0; merge.columns[at].source->is_retired && member < part->loaded; member++) {
            const double *values = member_values(part, member);
            for (uint32_t word = 0; part->rows[member] != GONE && word + 1 < member_width(part, member); word += 2) {
                PyObject *ordinal = found == NULL ? NULL : PyLong_FromLongLong(ordinal_in(values + word));
                if (found != NULL && (ordinal == NULL || PySet_Add(found, ordinal) < 0))
                    Py_CLEAR(found);
                Py_XDECREF(ordinal);
            }
        }
    }
    merge_close(&merge);
    return found;
}

/* The last set value of each row: its time, its source's identity, the value. */
typedef struct {
    double *value;
    uint64_t *time;
    int64_t *winner;
    const char **identity;
} Recents;

static inline uint64_t time_in(const double *word)
{
    uint64_t time;
    memcpy(&time, word, sizeof time);
    return time;
}

static void gather_recents(const Column *column, Recents *recents)
{
    const Part *part = column->part;
    for (Py_ssize_t member = 0; member < part->loaded; member++) {
        const double *words = part->values + 4 * member;
        uint32_t row = part->rows[member];
        const char *identity = PyBytes_AS_STRING(column->source->identity);
        if (column->source->is_retired)
            identity = (const char *)(words + 2);
        else if (time_in(words + 3) > time_in(words + 1))
            words += 2;
        uint64_t time = time_in(words + 1);
        if (row == GONE || time == 0 || time < recents->time[row]
            || (time == recents->time[row] && memcmp(identity, recents->identity[row], 16) <= 0))
            continue;
        recents->value[row] = words[0] + 0.0;
        recents->time[row] = time;
        recents->winner[row] = column->number;
        recents->identity[row] = identity;
    }
}

static PyObject *recents(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *table, *sources;
    Merge merge;
    if (!PyArg_ParseTuple(args, "OO:recents", &table, &sources) || merge_open(&merge, table, sources) < 0)
        return NULL;
    Recents recents = {.identity = PyMem_RawCalloc((size_t)merge.rows + 1, sizeof *recents.identity)};
    PyObject *values = recents.identity == NULL ? PyErr_NoMemory() : new_array(merge.rows, "d", &recents.value);
    PyObject *times = values == NULL ? NULL : new_array(merge.rows, "Q", &recents.time);
    PyObject *winners = times == NULL ? NULL : new_array(merge.rows, "q", &recents.winner);
    if (winners != NULL) {
        memset(recents.winner, -1, (size_t)merge.rows * 8);
        for (Py_ssize_t at = 0; at < merge.count; at++)
            if (has_width(&merge.columns[at], 4))
                gather_recents(&merge.columns[at], &recents);
    }
    PyMem_RawFree(recents.identity);
    merge_close(&merge);
    if (winners != NULL)
        return Py_BuildValue("NNN", values, times, winners);
    Py_XDECREF(values);
    Py_XDECREF(times);
    return NULL;
}

/* --- which rows have series, and since when --- */

/* The cached result for these columns, or NULL if it is out of date. */
static PyObject *cache_find(Cache *cache, const Merge *merge)
{
    int is_same = cache->made != NULL && cache->count == merge->count && cache->rows == merge->rows;
    for (Py_ssize_t at = 0; is_same && at < merge->count; at++)
        is_same = cache->stamps[at] == merge->columns[at].part->stamp;
    return is_same ? Py_NewRef(cache->made) : NULL;
}

static void cache_put(Cache *cache, const Merge *merge, PyObject *made)
{
    cache_clear(cache);
    cache->stamps = PyMem_RawMalloc((size_t)(merge->count + 1) * sizeof *cache->stamps);
    if (cache->stamps == NULL)
        return; /* without a cache the result is computed each time */
    for (Py_ssize_t at = 0; at < merge->count; at++)
        cache->stamps[at] = merge->columns[at].part->stamp;
    cache->count = merge->count;
    cache->rows = merge->rows;
    cache->made = Py_NewRef(made);
}

static PyObject *present(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *table, *sources;
    Merge merge;
    if (!PyArg_ParseTuple(args, "OO:present", &table, &sources) || merge_open(&merge, table, sources) < 0)
        return NULL;
    char *shown;
    PyObject *mask = cache_find(&merge.table->cached_present, &merge);
    if (mask == NULL && (mask = new_mask(merge.rows, &shown)) != NULL) {
        for (Py_ssize_t at = 0; at < merge.count; at++)
            for (Py_ssize_t member = 0; member < merge.columns[at].part->loaded; member++)
                if (merge.columns[at].part->rows[member] != GONE)
                    shown[merge.columns[at].part->rows[member]] = 1;
        cache_put(&merge.table->cached_present, &merge, mask);
    }
    merge_close(&merge);
    return mask;
}

/* The earliest creation of each row; 0 for a row without a series. */
static void gather_created(const Merge *merge, double *created)
{
    for (Py_ssize_t row = 0; row < merge->rows; row++)
        created[row] = INFINITY;
    for (Py_ssize_t at = 0; at < merge->count; at++) {
        const Part *part = merge->columns[at].part;
        for (Py_ssize_t member = 0; member < part->loaded; member++)
            if (part->rows[member] != GONE && part->created[member] < created[part->rows[member]])
                created[part->rows[member]] = part->created[member];
    }
    for (Py_ssize_t row = 0; row < merge->rows; row++)
        created[row] = isinf(created[row]) ? 0.0 : created[row];
}

static PyObject *created(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *table, *sources;
    Merge merge;
    if (!PyArg_ParseTuple(args, "OO:created", &table, &sources) || merge_open(&merge, table, sources) < 0)
        return NULL;
    double *time;
    PyObject *times = cache_find(&merge.table->cached_created, &merge);
    if (times == NULL && (times = new_array(merge.rows, "d", &time)) != NULL) {
        gather_created(&merge, time);
        cache_put(&merge.table->cached_created, &merge, times);
    }
    merge_close(&merge);
    return times;
}

/* --- packing rows as series of a retired file --- */

typedef struct {
    Merge merge;
    Py_buffer values, mask;
    uint32_t *numbers;
    double *created;
    uint64_t *generations;
    PyObject *words, *records;
    char *record;
    uint64_t word;
} Pack;

static void pack_close(Pack *pack)
{
    merge_close(&pack->merge);
    PyMem_RawFree(pack->numbers);
    PyMem_RawFree(pack->created);
    PyMem_RawFree(pack->generations);
    if (pack->values.obj != NULL)
        PyBuffer_Release(&pack->values);
    if (pack->mask.obj != NULL)
        PyBuffer_Release(&pack->mask);
}

static int parse_numbers(Pack *pack, PyObject *sequence)
{
    PyObject *numbers = PySequence_Tuple(sequence);
    if (numbers == NULL)
        return -1;
    Py_ssize_t count = PyTuple_GET_SIZE(numbers);
    if (count < pack->merge.table->names_count)
        PyErr_Format(PyExc_ValueError, "%zd numbers of %zd families", count, pack->merge.table->names_count);
    else if ((pack->numbers = PyMem_RawMalloc((size_t)(count + 1) * sizeof *pack->numbers)) == NULL)
        PyErr_NoMemory();
    for (Py_ssize_t at = 0; !PyErr_Occurred() && at < count; at++)
        pack->numbers[at] = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(numbers, at));
    Py_DECREF(numbers);
    return PyErr_Occurred() ? -1 : 0;
}

static void gather_generations(Pack *pack)
{
    for (Py_ssize_t at = 0; at < pack->merge.count; at++) {
        const Part *part = pack->merge.columns[at].part;
        for (Py_ssize_t member = 0; member < part->loaded; member++)
            if (part->rows[member] != GONE && part->generations[member] > pack->generations[part->rows[member]])
                pack->generations[part->rows[member]] = part->generations[member];
    }
}

static int pack_open(Pack *pack, PyObject *table, PyObject *sources, PyObject *values, PyObject *mask, PyObject *numbers,
                     Py_ssize_t width)
{
    if (merge_open(&pack->merge, table, sources) < 0)
        return -1;
    size_t rows = (size_t)pack->merge.rows + 1;
    pack->created = PyMem_RawMalloc(rows * sizeof *pack->created);
    pack->generations = PyMem_RawCalloc(rows, sizeof *pack->generations);
    int failed = pack->created == NULL || pack->generations == NULL;
    if (failed)
        PyErr_NoMemory();
    failed = failed || parse_numbers(pack, numbers) < 0
        || PyObject_GetBuffer(values, &pack->values, PyBUF_ND | PyBUF_FORMAT) < 0
        || PyObject_GetBuffer(mask, &pack->mask, PyBUF_SIMPLE) < 0;
    if (!failed && (strcmp(pack->values.format, "d") != 0 || pack->values.len / 8 != pack->merge.rows * width
                    || pack->mask.len != pack->merge.rows)) {
        PyErr_Format(PyExc_ValueError, "values and mask do not fit %zd rows", pack->merge.rows);
        failed = 1;
    }
    if (failed) {
        pack_close(pack);
        return -1;
    }
    gather_created(&pack->merge, pack->created);
    gather_generations(pack);
    return 0;
}

static Py_ssize_t row_record_size(const Row *row)
{
    return (Py_ssize_t)record_size(sizeof(SeriesHead) + row->size);
}

/* The SERIES record of a row. */
static void pack_record(Pack *pack, Py_ssize_t number, Py_ssize_t width)
{
    const Row *row = &pack->merge.table->rows[number];
    SeriesHead series = {
        pack->numbers[row->names], (uint32_t)width, pack->word, pack->created[number], pack->generations[number],
    };
    RecordHead head = {RECORD_MAGIC, (uint32_t)sizeof series + row->size, 0, KIND_SERIES};
    char *body = pack->record + sizeof head;
    memset(pack->record, 0, (size_t)row_record_size(row));
    memcpy(body, &series, sizeof series);
    memcpy(body + sizeof series, row_key(pack->merge.table, row), row->size);
    head.checksum = checksum(KIND_SERIES, body, (Py_ssize_t)head.length);
    memcpy(pack->record, &head, sizeof head);
    pack->record += row_record_size(row);
    pack->word += (uint64_t)width;
}

/* Make room for the words and records of the rows in the mask; -1 with MemoryError. */
static int pack_room(Pack *pack, Py_ssize_t width)
{
    const char *shown = pack->mask.buf;
    Py_ssize_t size = 0, words = 0;
    for (Py_ssize_t row = 0; row < pack->merge.rows; row++)
        if (shown[row] == 1) {
            size += row_record_size(&pack->merge.table->rows[row]);
            words += width;
        }
    pack->words = PyBytes_FromStringAndSize(NULL, words * 8);
    pack->records = pack->words == NULL ? NULL : PyBytes_FromStringAndSize(NULL, size);
    if (pack->records == NULL) {
        Py_CLEAR(pack->words);
        return -1;
    }
    pack->record = PyBytes_AS_STRING(pack->records);
    return 0;
}

static PyObject *pack_end(Pack *pack)
{
    pack_close(pack);
    return pack->words == NULL ? NULL : Py_BuildValue("NN", pack->words, pack->records);
}

static PyObject *pack_rows(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *table, *sources, *values, *mask, *numbers;
    Py_ssize_t width;
    unsigned long long first;
    if (!PyArg_ParseTuple(args, "OOOOnKO:pack_rows", &table, &sources, &values, &mask, &width, &first, &numbers))
        return NULL;
    Pack pack = {.word = first};
    if (pack_open(&pack, table, sources, values, mask, numbers, width) < 0)
        return NULL;
    if (pack_room(&pack, width) == 0) {
        char *words = PyBytes_AS_STRING(pack.words);
        for (Py_ssize_t row = 0; row < pack.merge.rows; row++) {
            if (((const char *)pack.mask.buf)[row] != 1)
                continue;
            memcpy(words, (const double *)pack.values.buf + row * width, (size_t)width * 8);
            words += width * 8;
            pack_record(&pack, row, width);
        }
    }
    return pack_end(&pack);
}

PyMethodDef reader_methods[] = {
    {"present", present, METH_VARARGS, "present(table, sources, /)\n--\n\nSee mpmetrics._cells.rows."},
    {"created", created, METH_VARARGS, "created(table, sources, /)\n--\n\nSee mpmetrics._cells.rows."},
    {"sums", (PyCFunction)(void (*)(void))sums, METH_VARARGS | METH_KEYWORDS,
     "sums(table, sources, /, position=0, width=1)\n--\n\nSee mpmetrics._cells.merging."},
    {"sums_and_rests", (PyCFunction)(void (*)(void))sums_and_rests, METH_VARARGS | METH_KEYWORDS,
     "sums_and_rests(table, sources, /, position=0)\n--\n\nSee mpmetrics._cells.merging."},
    {"distributions", distributions, METH_VARARGS,
     "distributions(table, sources, buckets, /)\n--\n\nSee mpmetrics._cells.merging."},
    {"folded_distributions", folded_distributions, METH_VARARGS,
     "folded_distributions(table, sources, buckets, /)\n--\n\nSee mpmetrics._cells.merging."},
    {"extremes", extremes, METH_VARARGS,
     "extremes(table, sources, is_max, /)\n--\n\nSee mpmetrics._cells.merging."},
    {"levels", levels, METH_VARARGS,
     "levels(table, sources, ordinals, columns, /)\n--\n\nSee mpmetrics._cells.merging."},
    {"retired_ordinals", retired_ordinals, METH_VARARGS,
     "retired_ordinals(table, sources, /)\n--\n\nSee mpmetrics._cells.merging."},
    {"recents", recents, METH_VARARGS,
     "recents(table, sources, /)\n--\n\nSee mpmetrics._cells.merging."},
    {"pack_rows", pack_rows, METH_VARARGS,
     "pack_rows(table, sources, values, mask, width, first_word, numbers, /)\n--\n\nSee mpmetrics._cells.rows."},
    {NULL},
};
