/* Tables: the different label sets of one metric, over all processes. Contract: mpmetrics/_cells/index.py. */

#include "index.h"

#define MOST_ROWS (UINT32_MAX - 1)

static inline uint16_t u16_at(const char *at)
{
    uint16_t number;
    memcpy(&number, at, sizeof number);
    return number;
}

/* Keyed by the interpreter's secret, so a client cannot choose labels that collide. */
static inline uint64_t hash_text(Text text)
{
    return (uint64_t)PyHash_GetFuncDef()->hash(text.bytes, text.size);
}

/* A row's hash is the sum of its pairs' hashes, so their order does not matter. Each must be as good as random. */
static inline uint64_t hash_pair(uint64_t name, uint64_t value)
{
    uint64_t hash = name * 0x9E3779B97F4A7C15u + value;
    hash = (hash ^ hash >> 30) * 0xBF58476D1CE4E5B9u;
    hash = (hash ^ hash >> 27) * 0x94D049BB133111EBu;
    return hash ^ hash >> 31;
}

/* --- keys: u16 count, u16 lengths, texts --- */

static int is_ascii(const char *bytes, Py_ssize_t size)
{
    uint64_t all = 0, word = 0;
    for (; size >= 8; size -= 8, bytes += 8) {
        memcpy(&word, bytes, 8);
        all |= word;
    }
    word = 0;
    memcpy(&word, bytes, (size_t)size);
    return ((all | word) & 0x8080808080808080u) == 0;
}

static int is_utf8(const char *bytes, Py_ssize_t size)
{
    PyObject *text = PyUnicode_DecodeUTF8(bytes, size, NULL);
    if (text == NULL)
        PyErr_Clear();
    Py_XDECREF(text);
    return text != NULL;
}

/* Whether a key is valid for a series with these labels. */
static int is_key(const Names *names, const char *key, uint32_t size)
{
    if (size < 2)
        return 0;
    Py_ssize_t count = u16_at(key);
    if (count == OVERFLOW_TEXTS)
        return size == 2;
    if (names->is_open ? count < names->count || (count - names->count) % 2 != 0 : count != names->count)
        return 0;
    size_t start = 2 + 2 * (size_t)count, end = start;
    if (start > size)
        return 0;
    for (Py_ssize_t at = 0; at < count; at++) {
        Py_ssize_t length = u16_at(key + 2 + 2 * at);
        if (length == 0 && at >= names->count && (at - names->count) % 2 == 0)
            return 0; /* an empty name */
        end += (size_t)length;
    }
    if (end != size)
        return 0;
    if (is_ascii(key + start, (Py_ssize_t)(end - start)))
        return 1;
    for (Py_ssize_t at = 0; at < count; at++) {
        Py_ssize_t length = u16_at(key + 2 + 2 * at);
        if (!is_utf8(key + start, length))
            return 0;
        start += (size_t)length;
    }
    return 1;
}

typedef struct {
    const char *lengths, *texts;
    Py_ssize_t left;
} Cursor;

static Cursor cursor_of(const char *key)
{
    Py_ssize_t count = u16_at(key);
    return (Cursor){key + 2, key + 2 + 2 * count, count == OVERFLOW_TEXTS ? 0 : count};
}

static inline Text cursor_next(Cursor *cursor)
{
    Text text = {cursor->texts, u16_at(cursor->lengths)};
    cursor->lengths += 2;
    cursor->texts += text.size;
    cursor->left--;
    return text;
}

/* The hash of a valid key. */
uint32_t table_hash(const Table *table, uint32_t names_index, const char *key)
{
    const Names *names = &table->names[names_index];
    uint64_t hash = 0;
    Cursor cursor = cursor_of(key);
    for (Py_ssize_t at = 0; cursor.left > 0; at++) {
        uint64_t name = at < names->count ? names->hashes[at] : hash_text(cursor_next(&cursor));
        Text value = cursor_next(&cursor);
        if (value.size > 0)
            hash += hash_pair(name, hash_text(value));
    }
    return (uint32_t)(hash >> 32);
}

static Py_ssize_t pairs_of(const Names *names, const char *key, Pair *pairs)
{
    Py_ssize_t count = 0;
    for (Cursor cursor = cursor_of(key); cursor.left > 0; count++) {
        pairs[count].name = count < names->count ? names->names[count] : cursor_next(&cursor);
        pairs[count].value = cursor_next(&cursor);
    }
    return count;
}

/* The most pairs that a row can have. */
Py_ssize_t row_most_pairs(const Table *table, const Row *row)
{
    return cursor_of(row_key(table, row)).left;
}

/* The pairs of a row, those with empty values included. */
Py_ssize_t row_pairs(const Table *table, const Row *row, Pair *pairs)
{
    return pairs_of(&table->names[row->names], row_key(table, row), pairs);
}

static int compare_texts(Text one, Text other)
{
    int order = memcmp(one.bytes, other.bytes, (size_t)(one.size < other.size ? one.size : other.size));
    return order != 0 ? order : (one.size > other.size) - (one.size < other.size);
}

static int compare_pairs(const void *one, const void *other)
{
    const Pair *left = one, *right = other;
    int order = compare_texts(left->name, right->name);
    return order != 0 ? order : compare_texts(left->value, right->value);
}

/* The pairs of a key whose values are not empty, sorted. NULL with MemoryError. */
static Pair *sorted_pairs(const Names *names, const char *key, Py_ssize_t *count)
{
    Pair *pairs = PyMem_New(Pair, cursor_of(key).left + 1);
    if (pairs == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    Py_ssize_t all = pairs_of(names, key, pairs);
    *count = 0;
    for (Py_ssize_t at = 0; at < all; at++)
        if (pairs[at].value.size > 0)
            pairs[(*count)++] = pairs[at];
    qsort(pairs, (size_t)*count, sizeof(Pair), compare_pairs);
    return pairs;
}

static int same_pairs(const Pair *some, Py_ssize_t count, const Pair *others, Py_ssize_t others_count)
{
    int is_same = count == others_count;
    for (Py_ssize_t at = 0; is_same && at < count; at++)
        is_same = compare_pairs(&some[at], &others[at]) == 0;
    return is_same;
}

/* Whether a key has the row's labels: 1 or 0, or -1 with MemoryError. */
static int is_row(const Table *table, const Row *row, const Names *names, const char *key, uint32_t size)
{
    const Names *own = &table->names[row->names];
    if (own == names && row->size == size && memcmp(row_key(table, row), key, size) == 0)
        return 1;
    if (own == names && !names->is_open)
        return 0;
    Py_ssize_t count, own_count;
    Pair *pairs = sorted_pairs(names, key, &count);
    Pair *own_pairs = pairs == NULL ? NULL : sorted_pairs(own, row_key(table, row), &own_count);
    int is_same = own_pairs == NULL ? -1 : same_pairs(pairs, count, own_pairs, own_count);
    PyMem_Free(pairs);
    PyMem_Free(own_pairs);
    return is_same;
}

/* --- rows --- */

/* The row of a key; ROW_NONE if no row has it, ROW_FAILED with MemoryError. */
static Py_ssize_t row_find(const Table *table, const Names *names, const char *key, uint32_t size, uint32_t hash)
{
    for (size_t at = hash & table->slot_mask; table->slots != NULL && table->slots[at].row != 0;
         at = (at + 1) & table->slot_mask) {
        Slot slot = table->slots[at];
        if (slot.hash != hash)
            continue;
        int is_same = is_row(table, &table->rows[slot.row - 1], names, key, size);
        if (is_same != 0)
            return is_same < 0 ? ROW_FAILED : (Py_ssize_t)slot.row - 1;
    }
    return ROW_NONE;
}

static void slot_put(Slot *slots, size_t mask, Slot slot)
{
    size_t at = slot.hash & mask;
    while (slots[at].row != 0)
        at = (at + 1) & mask;
    slots[at] = slot;
}

/* Keep at least half of the slots empty with one more row. */
static int slots_grow(Table *table)
{
    if (table->slots != NULL && (size_t)table->count < table->slot_mask / 2)
        return 0;
    size_t size = table->slots == NULL ? 16 : 4 * (table->slot_mask + 1);
    Slot *slots = PyMem_RawCalloc(size, sizeof(Slot));
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    want_large_pages(slots, size * sizeof(Slot));
    for (size_t at = 0; table->slots != NULL && at <= table->slot_mask; at++)
        if (table->slots[at].row != 0)
            slot_put(slots, size - 1, table->slots[at]);
    PyMem_RawFree(table->slots);
    table->slots = slots;
    table->slot_mask = size - 1;
    return 0;
}

/* Make room for one more row, and for its removal if any row was removed. */
static int rows_grow(Table *table)
{
    if (table->count < table->room)
        return 0;
    Py_ssize_t room = room_for(table->count + 1);
    if (resize_array(&table->rows, room, sizeof(Row)) < 0
        || (table->removed != NULL && resize_array(&table->removed, room, sizeof *table->removed) < 0))
        return -1;
    if (table->removed != NULL)
        memset(table->removed + table->room, 0, (size_t)(room - table->room) * sizeof *table->removed);
    table->room = room;
    return 0;
}

static Py_ssize_t row_add(Table *table, uint32_t names, const char *key, uint32_t size)
{
    Py_ssize_t whole = (Py_ssize_t)((size + KEY_UNIT - 1) & ~(uint32_t)(KEY_UNIT - 1));
    if (table->count >= (Py_ssize_t)MOST_ROWS || (table->keys_size + whole) / KEY_UNIT > (Py_ssize_t)UINT32_MAX) {
        PyErr_NoMemory();
        return ROW_FAILED;
    }
    if (rows_grow(table) < 0 || grow_array(&table->keys, &table->keys_room, table->keys_size + whole, 1) < 0)
        return ROW_FAILED;
    copy_few(table->keys + table->keys_size, key, size);
    table->rows[table->count] = (Row){(uint32_t)(table->keys_size / KEY_UNIT), size, names, 0};
    table->keys_size += whole;
    return table->count++;
}

/* Whether bytes are a valid key of a series with these label names. */
int table_is_key(const Table *table, uint32_t names, const char *key, uint32_t size)
{
    return is_key(&table->names[names], key, size);
}

/* Prefetch the memory in which a row with this hash is looked up. */
void table_prefetch(const Table *table, uint32_t hash)
{
    if (table->slots != NULL)
        __builtin_prefetch(&table->slots[hash & table->slot_mask]);
}

/* The row of a key with this hash, made if it is new; ROW_FAILED with MemoryError. */
Py_ssize_t table_row(Table *table, uint32_t names, const char *key, uint32_t size, uint32_t hash)
{
    if (u16_at(key) == OVERFLOW_TEXTS) {
        if (table->overflow < 0)
            table->overflow = row_add(table, names, key, size);
        return table->overflow;
    }
    Py_ssize_t row = row_find(table, &table->names[names], key, size, hash);
    if (row != ROW_NONE || slots_grow(table) < 0)
        return row == ROW_NONE ? ROW_FAILED : row;
    row = row_add(table, names, key, size);
    if (row >= 0)
        slot_put(table->slots, table->slot_mask, (Slot){hash, (uint32_t)row + 1});
    return row;
}

/* Count one series less for this row. */
void row_release(Table *table, uint32_t row)
{
    if (--table->rows[row].uses == 0)
        table->present--;
}

static PyObject *pair_as_object(const Pair *pair)
{
    PyObject *name = PyUnicode_DecodeUTF8(pair->name.bytes, pair->name.size, NULL);
    PyObject *value = name == NULL ? NULL : PyUnicode_DecodeUTF8(pair->value.bytes, pair->value.size, NULL);
    PyObject *made = value == NULL ? NULL : PyTuple_Pack(2, name, value);
    Py_XDECREF(name);
    Py_XDECREF(value);
    return made;
}

static const Pair overflow_pair = {{"otel_metric_overflow", 20}, {"true", 4}};

/* Label names and values of a row, as a tuple of tuples. */
PyObject *row_labels(const Table *table, Py_ssize_t number)
{
    if (number == table->overflow) {
        PyObject *pair = pair_as_object(&overflow_pair);
        return pair == NULL ? NULL : Py_BuildValue("(N)", pair);
    }
    const Row *row = &table->rows[number];
    Pair *pairs = PyMem_New(Pair, row_most_pairs(table, row) + 1);
    if (pairs == NULL)
        return PyErr_NoMemory();
    Py_ssize_t count = row_pairs(table, row, pairs);
    PyObject *labels = PyTuple_New(count);
    for (Py_ssize_t at = 0; labels != NULL && at < count; at++) {
        PyObject *pair = pair_as_object(&pairs[at]);
        if (pair == NULL)
            Py_CLEAR(labels);
        else
            PyTuple_SET_ITEM(labels, at, pair);
    }
    PyMem_Free(pairs);
    return labels;
}

/* --- names --- */

static void names_clear(Names *names)
{
    PyMem_Free(names->names);
    PyMem_Free(names->hashes);
    Py_XDECREF(names->labels);
    *names = (Names){0};
}

static int names_open(Names *names, PyObject *labels, int is_open)
{
    Py_ssize_t count = PyTuple_GET_SIZE(labels);
    *names = (Names){.labels = Py_NewRef(labels), .count = count, .is_open = is_open};
    names->names = PyMem_New(Text, count + 1);
    names->hashes = PyMem_New(uint64_t, count + 1);
    if (names->names == NULL || names->hashes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t at = 0; at < count; at++) {
        Text *name = &names->names[at];
        name->bytes = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(labels, at), &name->size);
        if (name->bytes == NULL)
            return -1;
        names->hashes[at] = hash_text(*name);
    }
    return 0;
}

/* The index of these label names; -1 with an error. */
Py_ssize_t table_names(Table *table, PyObject *labels, int is_open)
{
    PyObject *key = Py_BuildValue("(OO)", labels, is_open ? Py_True : Py_False);
    if (key == NULL)
        return -1;
    Py_ssize_t index = -1;
    PyObject *known = PyDict_GetItemWithError(table->names_index, key);
    if (known != NULL)
        index = PyLong_AsSsize_t(known);
    else if (!PyErr_Occurred()) {
        Py_ssize_t room = table->names_count; /* grows one by one, since declarations are few */
        Names *more = PyMem_Resize(table->names, Names, room + 1);
        PyObject *number = PyLong_FromSsize_t(room);
        if (more == NULL)
            PyErr_NoMemory();
        else {
            table->names = more;
            if (number == NULL || names_open(&more[room], labels, is_open) < 0
                || PyDict_SetItem(table->names_index, key, number) < 0)
                names_clear(&more[room]);
            else
                index = table->names_count++;
        }
        Py_XDECREF(number);
    }
    Py_DECREF(key);
    return index;
}

/* --- the type --- */

void cache_clear(Cache *cache)
{
    PyMem_RawFree(cache->stamps);
    Py_XDECREF(cache->made);
    *cache = (Cache){0};
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (!PyArg_ParseTuple(args, ":Table") || (kwargs != NULL && !PyArg_ValidateKeywordArguments(kwargs)))
        return NULL;
    Table *table = (Table *)type->tp_alloc(type, 0);
    if (table == NULL)
        return NULL;
    table->overflow = -1;
    table->names_index = PyDict_New();
    table->texts = PyDict_New();
    if (table->names_index == NULL || table->texts == NULL)
        Py_CLEAR(table);
    return (PyObject *)table;
}

static int table_traverse(Table *table, visitproc visit, void *arg)
{
    Py_VISIT(table->texts);
    return 0;
}

static int table_clear(Table *table)
{
    PyDict_Clear(table->texts);
    return 0;
}

static void table_dealloc(Table *table)
{
    PyObject_GC_UnTrack(table);
    PyMem_RawFree(table->rows);
    PyMem_RawFree(table->removed);
    PyMem_RawFree(table->slots);
    PyMem_RawFree(table->keys);
    for (Py_ssize_t at = 0; at < table->names_count; at++)
        names_clear(&table->names[at]);
    PyMem_Free(table->names);
    Py_XDECREF(table->names_index);
    Py_XDECREF(table->texts);
    cache_clear(&table->cached_present);
    cache_clear(&table->cached_created);
    Py_TYPE(table)->tp_free(table);
}

static Py_ssize_t table_length(Table *table)
{
    return table->count;
}

static Py_ssize_t parse_row(Table *table, PyObject *number)
{
    Py_ssize_t row = PyNumber_AsSsize_t(number, PyExc_IndexError);
    if (row == -1 && PyErr_Occurred())
        return -1;
    if (row < 0 || row >= table->count) {
        PyErr_Format(PyExc_IndexError, "there is no row %zd, of %zd", row, table->count);
        return -1;
    }
    return row;
}

static PyObject *table_labels(Table *table, PyObject *number)
{
    Py_ssize_t row = parse_row(table, number);
    return row < 0 ? NULL : row_labels(table, row);
}

/* The pairs of a query, sorted. Pairs with empty values stand behind the others: such a label must be missing. */
typedef struct {
    PyObject *objects;
    Pair *pairs, *missing;
    Py_ssize_t count, missing_count;
} Wanted;

static void wanted_close(Wanted *wanted)
{
    PyMem_Free(wanted->pairs);
    Py_XDECREF(wanted->objects);
}

static int parse_text(PyObject *object, Text *text)
{
    text->bytes = PyUnicode_AsUTF8AndSize(object, &text->size);
    return text->bytes == NULL ? -1 : 0;
}

static int parse_pair(PyObject *object, Pair *pair)
{
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 2) {
        PyErr_SetString(PyExc_TypeError, "labels must be pairs of a name and a value");
        return -1;
    }
    return parse_text(PyTuple_GET_ITEM(object, 0), &pair->name) < 0
        ? -1 : parse_text(PyTuple_GET_ITEM(object, 1), &pair->value);
}

static int wanted_open(Wanted *wanted, PyObject *pairs)
{
    *wanted = (Wanted){.objects = PySequence_Tuple(pairs)};
    if (wanted->objects == NULL)
        return -1;
    Py_ssize_t count = PyTuple_GET_SIZE(wanted->objects);
    wanted->pairs = PyMem_New(Pair, count + 1);
    int failed = wanted->pairs == NULL;
    if (failed)
        PyErr_NoMemory();
    for (Py_ssize_t at = 0; !failed && at < count; at++) {
        Pair pair;
        failed = parse_pair(PyTuple_GET_ITEM(wanted->objects, at), &pair) < 0;
        if (!failed && pair.value.size > 0)
            wanted->pairs[wanted->count++] = pair;
        else if (!failed)
            wanted->pairs[count - ++wanted->missing_count] = pair;
    }
    if (failed) {
        wanted_close(wanted);
        return -1;
    }
    wanted->missing = wanted->pairs + wanted->count;
    qsort(wanted->pairs, (size_t)wanted->count, sizeof(Pair), compare_pairs);
    return 0;
}

static Py_ssize_t wanted_find(const Table *table, const Wanted *wanted)
{
    uint64_t hash = 0;
    for (Py_ssize_t at = 0; at < wanted->count; at++)
        hash += hash_pair(hash_text(wanted->pairs[at].name), hash_text(wanted->pairs[at].value));
    hash >>= 32;
    for (size_t at = hash & table->slot_mask; table->slots != NULL && table->slots[at].row != 0;
         at = (at + 1) & table->slot_mask) {
        const Row *row = &table->rows[table->slots[at].row - 1];
        if (table->slots[at].hash != (uint32_t)hash)
            continue;
        Py_ssize_t count;
        Pair *pairs = sorted_pairs(&table->names[row->names], row_key(table, row), &count);
        if (pairs == NULL)
            return ROW_FAILED;
        int is_same = same_pairs(pairs, count, wanted->pairs, wanted->count);
        PyMem_Free(pairs);
        if (is_same)
            return (Py_ssize_t)table->slots[at].row - 1;
    }
    return ROW_NONE;
}

static PyObject *table_find(Table *table, PyObject *pairs)
{
    Wanted wanted;
    if (wanted_open(&wanted, pairs) < 0)
        return NULL;
    Py_ssize_t row = wanted_find(table, &wanted);
    wanted_close(&wanted);
    return row == ROW_FAILED ? NULL : PyLong_FromSsize_t(row < 0 ? -1 : row);
}

/* Whether a row has all wanted pairs and none of the labels that must be missing: 1 or 0, or -1 with MemoryError. The
   overflow row matches only a query without pairs. */
static int has_wanted(const Table *table, Py_ssize_t number, const Wanted *wanted)
{
    const Row *row = &table->rows[number];
    if (wanted->count + wanted->missing_count == 0)
        return 1;
    if (number == table->overflow || row_most_pairs(table, row) < wanted->count)
        return 0;
    Py_ssize_t count, from = 0, found = 0;
    Pair *pairs = sorted_pairs(&table->names[row->names], row_key(table, row), &count);
    if (pairs == NULL)
        return -1;
    while (found < wanted->count && from < count)
        found += compare_pairs(&pairs[from++], &wanted->pairs[found]) == 0;
    int is_wanted = found == wanted->count;
    for (Py_ssize_t at = 0; is_wanted && at < wanted->missing_count; at++)
        for (from = 0; is_wanted && from < count; from++)
            is_wanted = compare_texts(pairs[from].name, wanted->missing[at].name) != 0;
    PyMem_Free(pairs);
    return is_wanted;
}

static int row_remove(Table *table, Py_ssize_t row, uint64_t generation)
{
    if (table->removed == NULL && (table->removed = PyMem_RawCalloc((size_t)table->room, sizeof *table->removed)) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (table->removed[row] < generation) {
        table->removed[row] = generation;
        table->removals++;
    }
    return 0;
}

static PyObject *table_remove(Table *table, PyObject *args)
{
    PyObject *pairs;
    int is_subset, failed = 0;
    unsigned long long generation;
    Py_ssize_t first = 0;
    if (!PyArg_ParseTuple(args, "OpK|n:remove", &pairs, &is_subset, &generation, &first))
        return NULL;
    Wanted wanted;
    if (wanted_open(&wanted, pairs) < 0)
        return NULL;
    if (!is_subset) {
        Py_ssize_t row = wanted_find(table, &wanted);
        failed = row == ROW_FAILED;
        if (row >= 0 && row >= first)
            failed = row_remove(table, row, generation) < 0;
    }
    for (Py_ssize_t row = first < 0 ? 0 : first; is_subset && !failed && row < table->count; row++) {
        int is_wanted = has_wanted(table, row, &wanted);
        failed = is_wanted < 0 || (is_wanted > 0 && row_remove(table, row, generation) < 0);
    }
    wanted_close(&wanted);
    return failed ? NULL : Py_NewRef(Py_None);
}

static PyObject *table_texts(Table *table, PyObject *args)
{
    PyObject *key, *make;
    if (!PyArg_ParseTuple(args, "OO:texts", &key, &make))
        return NULL;
    PyObject *texts = PyDict_GetItemWithError(table->texts, key);
    Py_XINCREF(texts);
    if (texts == NULL && !PyErr_Occurred()) {
        texts = texts_new();
        if (texts != NULL && PyDict_SetItem(table->texts, key, texts) < 0)
            Py_CLEAR(texts);
    }
    if (texts != NULL && texts_extend((Texts *)texts, table, make) < 0)
        Py_CLEAR(texts);
    return texts;
}

static PyObject *table_get_families(Table *table, void *Py_UNUSED(closure))
{
    PyObject *families = PyList_New(0);
    for (Py_ssize_t at = 0; families != NULL && at < table->names_count; at++) {
        const Names *names = &table->names[at];
        PyObject *family = Py_BuildValue("(OO)", names->labels, names->is_open ? Py_True : Py_False);
        if (family == NULL || PyList_Append(families, family) < 0)
            Py_CLEAR(families);
        Py_XDECREF(family);
    }
    return families;
}

static PyObject *table_get_overflow(Table *table, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(table->overflow);
}

static PyObject *table_get_present(Table *table, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(table->present);
}

static PyMethodDef table_methods[] = {
    {"labels", (PyCFunction)table_labels, METH_O, "labels($self, row, /)\n--\n\n"},
    {"find", (PyCFunction)table_find, METH_O, "find($self, pairs, /)\n--\n\n"},
    {"remove", (PyCFunction)table_remove, METH_VARARGS,
     "remove($self, pairs, subset, generation, first_row=0, /)\n--\n\n"},
    {"texts", (PyCFunction)table_texts, METH_VARARGS, "texts($self, key, make, /)\n--\n\n"},
    {NULL},
};

static PyGetSetDef table_getset[] = {
    {"families", (getter)table_get_families, NULL, NULL, NULL},
    {"overflow", (getter)table_get_overflow, NULL, NULL, NULL},
    {"present", (getter)table_get_present, NULL, NULL, NULL},
    {NULL},
};

static PySequenceMethods table_sequence = {.sq_length = (lenfunc)table_length};

PyTypeObject Table_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells.Table",
    .tp_doc = "Table()\n--\n\nThe different label sets of one metric. See mpmetrics._cells.index.",
    .tp_basicsize = sizeof(Table),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = table_new,
    .tp_dealloc = (destructor)table_dealloc,
    .tp_traverse = (traverseproc)table_traverse,
    .tp_clear = (inquiry)table_clear,
    .tp_as_sequence = &table_sequence,
    .tp_methods = table_methods,
    .tp_getset = table_getset,
};
