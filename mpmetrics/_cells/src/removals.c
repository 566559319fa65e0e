/* Find the removals that may end a series of this process. */

#include "cells.h"

enum { SUBSET = 1, MOST_LABELS = 64 };

/* The parts of a REMOVE record's body that matter here. */
typedef struct {
    uint64_t generation;
    uint32_t flags;
    uint16_t count;
    const char *lengths, *texts, *end;
} Removal;

static int take_apart(const char *body, size_t length, Removal *removal)
{
    size_t head = sizeof removal->generation + sizeof removal->flags + sizeof removal->count;
    if (length < head)
        return 0;
    memcpy(&removal->generation, body, 8);
    memcpy(&removal->flags, body + 8, 4);
    memcpy(&removal->count, body + 12, 2);
    removal->lengths = body + head;
    removal->texts = removal->lengths + 2 * (size_t)removal->count;
    removal->end = body + length;
    size_t total = head + 2 * (size_t)removal->count;
    for (uint16_t at = 0, size; total <= length && at < removal->count; at++, total += size)
        memcpy(&size, removal->lengths + 2 * at, 2);
    return total == length && removal->count % 2 == 1;
}

/* The text at `text`, as a str; moves `text` behind it. NULL with an exception. */
static PyObject *next_text(const Removal *removal, uint16_t at, const char **text)
{
    uint16_t size;
    memcpy(&size, removal->lengths + 2 * at, 2);
    PyObject *made = PyUnicode_DecodeUTF8(*text, size, NULL);
    *text += size;
    return made;
}

/* Whether a metric without open labels has the series with these labels; -1 with an exception. */
static int has_series(Children *children, const Removal *removal, const char *text)
{
    PyObject *values[MOST_LABELS] = {NULL}, *names = PyObject_GetAttrString(children->family, "labels");
    Py_ssize_t count = names == NULL ? -1 : PyTuple_Check(names) ? PyTuple_GET_SIZE(names) : -1;
    int found = count < 0 || count > MOST_LABELS ? -1 : 1;
    for (uint16_t at = 1; found > 0 && at < removal->count; at += 2) {
        PyObject *name = next_text(removal, at, &text);
        PyObject *value = name == NULL ? NULL : next_text(removal, at + 1, &text);
        Py_ssize_t place = 0;
        while (value != NULL && place < count && PyUnicode_Compare(PyTuple_GET_ITEM(names, place), name) != 0)
            place++;
        Py_XDECREF(name);
        if (value == NULL)
            found = -1;
        else if (place == count)
            found = PyUnicode_GET_LENGTH(value) == 0; /* the metric has no such label: only an empty value matches */
        else
            Py_XSETREF(values[place], Py_NewRef(value));
        Py_XDECREF(value);
    }
    for (Py_ssize_t place = 0; found > 0 && place < count; place++)
        if (values[place] == NULL && (values[place] = PyUnicode_FromString("")) == NULL)
            found = -1;
    if (found > 0)
        found = children_find(children, values, count) != NULL;
    for (Py_ssize_t place = 0; place < MOST_LABELS; place++)
        Py_XDECREF(values[place]);
    Py_XDECREF(names);
    return found;
}

/* Whether the process may have a series that this removal ends; -1 with an exception. */
static int matters(const Removal *removal, PyObject *metrics)
{
    const char *text = removal->texts;
    PyObject *name = next_text(removal, 0, &text);
    PyObject *children = name == NULL ? NULL : PyDict_GetItemWithError(metrics, name);
    Py_XDECREF(name);
    if (children == NULL)
        return PyErr_Occurred() ? -1 : 0;
    if (!Py_IS_TYPE(children, &Children_Type))
        return 1;
    Children *series = (Children *)children;
    if (series->used == 0)
        return 0;
    return removal->flags & SUBSET || series->labels < 0 ? 1 : has_series(series, removal, text);
}

/* Where the next valid record at or behind `at` begins; `size` if there is none, or the budget is used up. */
static size_t next_record(const char *data, size_t size, size_t at, RecordHead *head, int64_t *check_budget)
{
    for (; at + sizeof *head <= size && *check_budget >= 0; at += WORD_SIZE) {
        memcpy(head, data + at, sizeof *head);
        if (head->magic != RECORD_MAGIC || head->length > MAX_BODY || head->length > size - at - sizeof *head)
            continue;
        if (checksum(head->kind, data + at + sizeof *head, head->length) == head->checksum)
            return at;
        *check_budget -= head->length;
    }
    return size;
}

PyObject *removals_in(PyObject *bytes, uint64_t after, uint64_t upto, PyObject *metrics)
{
    const char *data = PyBytes_AS_STRING(bytes);
    size_t size = (size_t)PyBytes_GET_SIZE(bytes), at = 0, end = 0;
    Py_ssize_t gaps = 0, gap = 0;
    int64_t check_budget = CHECK_BUDGET;
    PyObject *bodies = PyList_New(0);
    int failed = bodies == NULL;
    while (!failed && at < size) {
        RecordHead head;
        Removal removal;
        size_t start = next_record(data, size, at, &head, &check_budget);
        gap += start != at;
        if (start >= size)
            break;
        const char *body = data + start + sizeof head;
        at = start + record_size(head.length);
        int is_removal = head.kind == KIND_REMOVE && take_apart(body, head.length, &removal);
        if (is_removal && removal.generation > upto)
            break;
        gap += !is_removal;
        if (!is_removal)
            continue;
        end = at < size ? at : size;
        gaps += gap;
        gap = 0;
        int is_wanted = removal.generation > after;
        if (is_wanted && metrics != Py_None && (is_wanted = matters(&removal, metrics)) < 0) {
            PyErr_Clear(); /* invalid texts: the caller detects that when it decodes the body */
            is_wanted = 1;
        }
        PyObject *one = is_wanted ? PyBytes_FromStringAndSize(body, head.length) : NULL;
        failed = is_wanted && (one == NULL || PyList_Append(bodies, one) < 0);
        Py_XDECREF(one);
    }
    if (failed) {
        Py_XDECREF(bodies);
        return NULL;
    }
    return Py_BuildValue("nnN", (Py_ssize_t)end, gaps, bodies);
}

PyObject *find_removals(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long after, upto;
    PyObject *data, *metrics;
    if (!PyArg_ParseTuple(args, "SKKO:find_removals", &data, &after, &upto, &metrics))
        return NULL;
    return removals_in(data, after, upto, metrics);
}
