/* What the reading part of the compiled twin shares: rows, sources, sums, text. */

#ifndef MPMETRICS_INDEX_H
#define MPMETRICS_INDEX_H

#include "core.h"
#include "format.h"
#include <sys/mman.h>

/* A text in UTF-8, not terminated. */
typedef struct {
    const char *bytes;
    Py_ssize_t size;
} Text;

typedef struct {
    Text name, value;
} Pair;

/* The label names of one declaration. The str objects in `labels` own the texts. */
typedef struct {
    PyObject *labels;
    Text *names;
    uint64_t *hashes;
    Py_ssize_t count;
    int is_open;
} Names;

/* One label set: where the table's keys hold its key, which is the texts of a SERIES record. */
typedef struct {
    uint32_t at; /* in units of KEY_UNIT bytes */
    uint32_t size;
    uint32_t names;
    uint32_t uses; /* series of this row in sources */
} Row;

#define KEY_UNIT 4

typedef struct {
    uint32_t hash;
    uint32_t row; /* number of the row + 1; 0: empty */
} Slot;

/* A cached result, valid while the series of each source have these stamps. */
typedef struct {
    uint64_t *stamps;
    Py_ssize_t count, rows;
    PyObject *made;
} Cache;

typedef struct {
    PyObject_HEAD
    Row *rows;
    uint64_t *removed; /* by row: series of a lower generation have ended; NULL: no row was removed yet */
    Py_ssize_t count, room;
    Py_ssize_t present; /* rows in use */
    Slot *slots;
    size_t slot_mask;
    char *keys;
    Py_ssize_t keys_size, keys_room;
    Names *names;
    Py_ssize_t names_count;
    PyObject *names_index; /* (labels, is_open) -> index */
    PyObject *texts;       /* key -> Texts */
    Py_ssize_t overflow;   /* the row of the overflow series, or -1 */
    uint64_t removals;     /* how often remove() found a row */
    Cache cached_present, cached_created;
} Table;

/* The texts of rows, concatenated. */
typedef struct {
    PyObject_HEAD
    char *bytes;
    size_t size, room;
    size_t *ends;
    Py_ssize_t count, ends_room;
} Texts;

/* A series whose row has not been looked up yet; the source's pending keys hold its key. */
typedef struct {
    uint32_t hash, size;
    size_t at;
    uint32_t part, member, names;
} Pending;

#define MOST_PENDING 32

/* The series of one table in one source, in the order of their records. Arrays have `room` items, of which `count` are
   in use; the first `loaded` of them have values. */
typedef struct {
    Table *table;
    uint32_t width; /* words of each series; 0: the numbers differ */
    Py_ssize_t count, loaded, room, gone;
    Py_ssize_t words_end; /* where the last word of a series ends */
    Py_ssize_t next; /* the probable row of the next series */
    uint32_t *words;
    uint32_t *rows; /* GONE: ended, or removed */
    uint32_t *widths; /* NULL unless width is 0 */
    uint64_t *generations;
    double *created;
    double *values; /* `width` of each; else at `starts` */
    int is_run;     /* whether the loaded ones are in the order of rows, without a gap */
    size_t *starts;
    uint64_t stamp; /* changes whenever loaded series come or go */
    Py_ssize_t swept;
    uint64_t swept_removals;
    uint32_t *by_row; /* by row, its last member + 1; valid for the stamp `by_row_stamp` */
    Py_ssize_t by_row_count;
    uint64_t by_row_stamp;
} Part;

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    Py_ssize_t limit;
    int is_retired;
    PyObject *identity;
    int has_begun, is_cut, was_loaded, must_load, restarts;
    uint64_t flips;
    Py_ssize_t position;
    Py_ssize_t wanted; /* where committed records end; the file may have grown since its size was checked */
    int64_t check_budget; /* bytes of damaged records that may still be checked */
    Py_ssize_t damaged;
    PyObject *folded;
    struct FamilyEntry *families;
    Py_ssize_t families_room;
    Part *parts;
    Py_ssize_t parts_count;
    PyObject *parts_index; /* Table -> index */
    uint64_t *used_words;  /* a bit for each word that a series has */
    size_t used_size;
    struct Place *places;  /* by first word; NULL until needed */
    size_t places_mask, places_count;
    char *body;            /* a copy of the present record's body, which the writer cannot change */
    size_t body_room;
    Pending pending[MOST_PENDING];
    int pending_count;
    char *pending_keys;
    Py_ssize_t pending_size, pending_room;
} Source;

#define GONE UINT32_MAX
#define SKETCH_RECORD 6 /* words of a sketch's record; a retired sketch has one record, others have two */
enum { ROW_FAILED = -1, ROW_NONE = -2 };

extern PyTypeObject Table_Type, Source_Type, Texts_Type;
extern PyMethodDef reader_methods[], line_methods[];

/* index.c */
Py_ssize_t table_names(Table *table, PyObject *labels, int is_open);
int table_is_key(const Table *table, uint32_t names, const char *key, uint32_t size);
uint32_t table_hash(const Table *table, uint32_t names, const char *key);
void table_prefetch(const Table *table, uint32_t hash);
Py_ssize_t table_row(Table *table, uint32_t names, const char *key, uint32_t size, uint32_t hash);
Py_ssize_t row_pairs(const Table *table, const Row *row, Pair *pairs);
Py_ssize_t row_most_pairs(const Table *table, const Row *row);
PyObject *row_labels(const Table *table, Py_ssize_t row);
void row_release(Table *table, uint32_t row);
void cache_clear(Cache *cache);

/* source.c */
Part *source_part(Source *source, Table *table);
Py_ssize_t part_member(Part *part, Py_ssize_t row);

/* lines.c */
PyObject *texts_new(void);
int texts_extend(Texts *texts, Table *table, PyObject *make);

/* numbers.c */
double exact_sum(const double *addends, Py_ssize_t count, double *room);
Py_ssize_t write_number(double value, char *text); /* at most NUMBER_ROOM characters */
#define NUMBER_ROOM 32

static inline const char *row_key(const Table *table, const Row *row)
{
    return table->keys + (size_t)row->at * KEY_UNIT;
}

/* memcmp() == 0 for texts that mostly have few bytes: those are compared without a call. */
static inline int same_few(const char *one, const char *other, size_t size)
{
    uint64_t left, right, differ = 0;
    if (size < 8 || size > 64)
        return memcmp(one, other, size) == 0;
    for (size_t at = 0; at + 8 < size; at += 8) {
        memcpy(&left, one + at, 8);
        memcpy(&right, other + at, 8);
        differ |= left ^ right;
    }
    memcpy(&left, one + size - 8, 8);
    memcpy(&right, other + size - 8, 8);
    return (differ | (left ^ right)) == 0;
}

/* Whether the row has this very key; equal labels may have another key. */
static inline int row_has_key(const Table *table, Py_ssize_t number, uint32_t names, const char *key, uint32_t size)
{
    if (number >= table->count)
        return 0;
    const Row *row = &table->rows[number];
    return row->names == names && row->size == size && same_few(row_key(table, row), key, size);
}

static inline const double *member_values(const Part *part, Py_ssize_t member)
{
    return part->values + (part->width ? (size_t)member * part->width : part->starts[member]);
}

static inline uint32_t member_width(const Part *part, Py_ssize_t member)
{
    return part->width ? part->width : part->widths[member];
}

/* memcpy() for texts that mostly have few bytes: those are copied without a call. */
static inline void copy_few(char *to, const char *from, size_t size)
{
    if (size > 64)
        memcpy(to, from, size);
    else if (size >= 16) {
        for (size_t at = 0; at + 16 < size; at += 16)
            memcpy(to + at, from + at, 16);
        memcpy(to + size - 16, from + size - 16, 16);
    } else if (size >= 8) {
        uint64_t first, last;
        memcpy(&first, from, 8);
        memcpy(&last, from + size - 8, 8);
        memcpy(to, &first, 8);
        memcpy(to + size - 8, &last, 8);
    } else
        for (size_t at = 0; at < size; at++)
            to[at] = from[at];
}

/* How much room to make for `wanted` items. Generous, so that items seldom move: untouched pages cost nothing. */
static inline Py_ssize_t room_for(Py_ssize_t wanted) { return 3 * wanted + 8; }

/* Ask for large pages, for fewer page faults and TLB misses. It does not matter if the kernel has none. */
static inline void want_large_pages(void *start, size_t size)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 4096, low = ((uintptr_t)start + page - 1) & ~(page - 1);
    if (size >= (size_t)1 << 23)
        (void)madvise((void *)low, ((uintptr_t)start + size - low) & ~(page - 1), MADV_HUGEPAGE);
#endif
}

/* Make room for so many items and keep the present ones. Returns 0, or -1 with MemoryError. */
static inline int resize_array(void *array, Py_ssize_t room, size_t item)
{
    void **place = array, *resized = PyMem_RawRealloc(*place, (size_t)room * item);
    if (resized == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *place = resized;
    want_large_pages(resized, (size_t)room * item);
    return 0;
}

static inline int grow_array(void *array, Py_ssize_t *room, Py_ssize_t wanted, size_t item)
{
    if (wanted <= *room)
        return 0;
    Py_ssize_t more = room_for(wanted);
    if (resize_array(array, more, item) < 0)
        return -1;
    *room = more;
    return 0;
}

#endif
