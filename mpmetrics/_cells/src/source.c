/* Sources: parse the records and copy the words of one slab or retired file.
   Contract: mpmetrics/_cells/source.py. Format: mpmetrics/storage/format.py.

   Invalid bytes affect only their own source, and memory use is proportional to the file's size. The bytes may change at
   any time, so each check is made on a copy. */

#include "index.h"

enum {
    MAX_FAMILIES = 1 << 16,
    MAX_WIDTH = 1 << 17,
    RESTARTS = 16, /* at most between two loads: a writer may flip again and again */
};

struct FamilyEntry {
    enum { UNKNOWN, ANNOUNCED, IGNORED, KNOWN } state;
    uint32_t part, names, checksum;
};

struct Place {
    uint32_t word; /* 0: empty */
    uint32_t part, member;
};

typedef struct {
    uint32_t kind, size;
    Py_ssize_t end;
} Record;

static uint64_t stamps;

/* --- parts --- */

/* Make room for one more member. A part begins with room for all rows, but not for more than the words: most sources
   have series of most rows. */
static int part_grow(Part *part, Py_ssize_t words)
{
    if (part->count < part->room)
        return 0;
    Py_ssize_t room = part->room == 0 ? Py_MIN(part->table->count, words) + 8 : room_for(part->count + 1);
    if (resize_array(&part->words, room, sizeof *part->words) < 0
        || resize_array(&part->rows, room, sizeof *part->rows) < 0
        || resize_array(&part->generations, room, sizeof *part->generations) < 0
        || resize_array(&part->created, room, sizeof *part->created) < 0
        || (part->width == 0 && resize_array(&part->widths, room, sizeof *part->widths) < 0))
        return -1;
    part->room = room;
    return 0;
}

static void part_close(Part *part)
{
    for (Py_ssize_t at = 0; at < part->count; at++)
        if (part->rows[at] != GONE)
            row_release(part->table, part->rows[at]);
    PyMem_RawFree(part->words);
    PyMem_RawFree(part->rows);
    PyMem_RawFree(part->widths);
    PyMem_RawFree(part->generations);
    PyMem_RawFree(part->created);
    PyMem_RawFree(part->values);
    PyMem_RawFree(part->starts);
    PyMem_RawFree(part->by_row);
    Py_XDECREF(part->table);
}

/* Forget the members that are gone. */
static void part_compact(Part *part)
{
    Py_ssize_t kept = 0, swept = 0;
    for (Py_ssize_t at = 0; at < part->count; at++) {
        if (part->rows[at] == GONE)
            continue;
        swept += at < part->swept;
        part->words[kept] = part->words[at];
        part->rows[kept] = part->rows[at];
        part->generations[kept] = part->generations[at];
        part->created[kept] = part->created[at];
        if (part->widths != NULL)
            part->widths[kept] = part->widths[at];
        kept++;
    }
    part->count = kept;
    part->swept = swept;
    part->gone = 0;
}

/* The last loaded member of a row; -1 if it has none, -2 with MemoryError. */
Py_ssize_t part_member(Part *part, Py_ssize_t row)
{
    if (part->by_row == NULL || part->by_row_stamp != part->stamp) {
        Py_ssize_t count = part->table->count;
        uint32_t *by_row = PyMem_RawRealloc(part->by_row, (size_t)(count + 1) * sizeof *by_row);
        if (by_row == NULL) {
            PyErr_NoMemory();
            return -2;
        }
        memset(by_row, 0, (size_t)(count + 1) * sizeof *by_row);
        for (Py_ssize_t at = 0; at < part->loaded; at++)
            if (part->rows[at] != GONE)
                by_row[part->rows[at]] = (uint32_t)at + 1;
        part->by_row = by_row;
        part->by_row_count = count;
        part->by_row_stamp = part->stamp;
    }
    return row >= 0 && row < part->by_row_count ? (Py_ssize_t)part->by_row[row] - 1 : -1;
}

/* The source's series of a table; NULL if it has none. */
Part *source_part(Source *source, Table *table)
{
    PyObject *index = PyDict_GetItemWithError(source->parts_index, (PyObject *)table);
    return index == NULL ? NULL : &source->parts[PyLong_AsSsize_t(index)];
}

/* --- which words series have --- */

static inline uint64_t bits_between(Py_ssize_t low, Py_ssize_t high)
{
    return (high < 64 ? ((uint64_t)1 << high) - 1 : ~(uint64_t)0) & ~(((uint64_t)1 << low) - 1);
}

static inline int are_free(const Source *source, Py_ssize_t first, Py_ssize_t width)
{
    if (width == 1)
        return (source->used_words[first / 64] >> first % 64 & 1) == 0;
    for (Py_ssize_t at = first / 64; at * 64 < first + width; at++) {
        Py_ssize_t low = first - at * 64, high = first + width - at * 64;
        if (source->used_words[at] & bits_between(low < 0 ? 0 : low, high))
            return 0;
    }
    return 1;
}

static inline void flip_used(Source *source, Py_ssize_t first, Py_ssize_t width)
{
    if (width == 1) {
        source->used_words[first / 64] ^= (uint64_t)1 << first % 64;
        return;
    }
    for (Py_ssize_t at = first / 64; at * 64 < first + width; at++) {
        Py_ssize_t low = first - at * 64, high = first + width - at * 64;
        source->used_words[at] ^= bits_between(low < 0 ? 0 : low, high);
    }
}

static int used_words_grow(Source *source, Py_ssize_t words)
{
    size_t size = (size_t)words / 64 + 1;
    if (size <= source->used_size)
        return 0;
    uint64_t *used_words = PyMem_RawRealloc(source->used_words, size * sizeof *used_words);
    if (used_words == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(used_words + source->used_size, 0, (size - source->used_size) * sizeof *used_words);
    source->used_words = used_words;
    source->used_size = size;
    return 0;
}

/* --- members by first word: made when needed, discarded when members are renumbered --- */

static struct Place *place_of(struct Place *places, size_t mask, uint32_t word)
{
    size_t at = word * (size_t)0x9E3779B97F4A7C15u >> 32 & mask;
    while (places[at].word != 0 && places[at].word != word)
        at = (at + 1) & mask;
    return &places[at];
}

static void places_drop(Source *source)
{
    PyMem_RawFree(source->places);
    source->places = NULL;
}

static void places_put(Source *source, uint32_t part, uint32_t member)
{
    uint32_t word = source->parts[part].words[member];
    struct Place *place = place_of(source->places, source->places_mask, word);
    source->places_count += place->word == 0;
    *place = (struct Place){word, part, member};
}

static int places_make(Source *source)
{
    size_t count = 0, size = 64;
    for (Py_ssize_t at = 0; at < source->parts_count; at++)
        count += (size_t)source->parts[at].count;
    while (size < 4 * count)
        size *= 2;
    struct Place *places = PyMem_RawCalloc(size, sizeof *places);
    if (places == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    source->places = places;
    source->places_mask = size - 1;
    source->places_count = 0;
    for (Py_ssize_t part = 0; part < source->parts_count; part++)
        for (Py_ssize_t member = 0; member < source->parts[part].count; member++)
            if (source->parts[part].rows[member] != GONE)
                places_put(source, (uint32_t)part, (uint32_t)member);
    return 0;
}

/* Find the living member that begins at a word: 1 if found, 0 if not, -1 with MemoryError. */
static int find_member(Source *source, uint64_t word, Part **part, Py_ssize_t *member)
{
    if (source->places == NULL && places_make(source) < 0)
        return -1;
    if (word < FIRST_WORD || word > UINT32_MAX)
        return 0;
    struct Place *place = place_of(source->places, source->places_mask, (uint32_t)word);
    if (place->word == 0)
        return 0;
    *part = &source->parts[place->part];
    *member = place->member;
    return (*part)->rows[*member] != GONE;
}

static void drop_member(Source *source, Part *part, Py_ssize_t member)
{
    flip_used(source, part->words[member], member_width(part, member));
    row_release(part->table, part->rows[member]);
    part->rows[member] = GONE;
    part->gone++;
    part->is_run = 0;
    if (member < part->loaded)
        part->stamp = ++stamps;
}

/* --- records --- */

static inline uint64_t head_word(const Source *source, int word)
{
    return __atomic_load_n((const uint64_t *)source->view.buf + word, __ATOMIC_ACQUIRE);
}

/* Offset of the area in use. */
static inline Py_ssize_t area_of(const Source *source)
{
    return (Py_ssize_t)(AREA_0 + (source->flips & 1) * AREA_SIZE);
}

/* The number of words in the file, by both its head and its size. */
static Py_ssize_t words_limit(const Source *source)
{
    uint64_t end = head_word(source, WORDS_END);
    if (end > AREA_0)
        end = AREA_0;
    if (end > (uint64_t)source->limit)
        end = (uint64_t)source->limit;
    return (Py_ssize_t)(end / WORD_SIZE);
}

static int body_room(Source *source, size_t size)
{
    if (size <= source->body_room)
        return 0;
    char *body = PyMem_RawRealloc(source->body, size + 256);
    if (body == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    source->body = body;
    source->body_room = size + 256;
    return 0;
}

/* Copy the body of the record at a position to `source->body`: 1, or 0 if the record is invalid; -1 with MemoryError. */
static int read_record(Source *source, Py_ssize_t position, Py_ssize_t end, Record *record)
{
    const char *at = (const char *)source->view.buf + area_of(source) + position;
    RecordHead head;
    if (end - position < (Py_ssize_t)sizeof head)
        return 0;
    memcpy(&head, at, sizeof head);
    if (head.magic != RECORD_MAGIC || head.length > MAX_BODY
        || head.length > (size_t)(end - position) - sizeof head || source->check_budget < 0)
        return 0;
    if (body_room(source, head.length) < 0)
        return -1;
    if (checksum_copy(head.kind, source->body, at + sizeof head, head.length) != head.checksum) {
        source->check_budget -= head.length;
        return 0;
    }
    *record = (Record){head.kind, head.length, position + (Py_ssize_t)record_size(head.length)};
    return 1;
}

/* Whether the record at a position extends beyond `end`. */
static int is_incomplete(Source *source, Py_ssize_t position, Py_ssize_t end)
{
    RecordHead head;
    if (end - position < (Py_ssize_t)sizeof head)
        return 1;
    memcpy(&head, (const char *)source->view.buf + area_of(source) + position, sizeof head);
    return head.magic == RECORD_MAGIC && head.length <= MAX_BODY
        && head.length > (size_t)(end - position) - sizeof head;
}

static void put_in_row(Part *part, Py_ssize_t member, Py_ssize_t row)
{
    Row *used = &part->table->rows[row];
    part->table->present += used->uses++ == 0;
    part->rows[member] = (uint32_t)row;
    part->next = row + 1;
}

/* Look up the rows of the deferred series. -1 with MemoryError: the remaining ones have no row. */
static int look_up_deferred(Source *source)
{
    int failed = 0;
    for (int at = 0; at < source->pending_count; at++) {
        const Pending *pending = &source->pending[at];
        Part *part = &source->parts[pending->part];
        const char *key = source->pending_keys + pending->at;
        Py_ssize_t row = failed ? ROW_FAILED
            : table_row(part->table, pending->names, key, pending->size, pending->hash);
        failed = row < 0;
        if (failed)
            part->gone++;
        else
            put_in_row(part, pending->member, row);
    }
    source->pending_count = 0;
    source->pending_size = 0;
    return failed ? -1 : 0;
}

/* Defer the look-up of a series' row. It reads memory that no cache holds, so look-ups are made in batches, and the
   memory is prefetched meanwhile. */
static int defer_look_up(Source *source, struct FamilyEntry entry, Py_ssize_t member, const char *key, uint32_t size)
{
    Table *table = source->parts[entry.part].table;
    Py_ssize_t at = source->pending_size;
    if (grow_array(&source->pending_keys, &source->pending_room, at + size, 1) < 0)
        return -1;
    copy_few(source->pending_keys + at, key, size);
    source->pending_size += size;
    uint32_t hash = table_hash(table, entry.names, key);
    source->pending[source->pending_count++] =
        (Pending){hash, size, (size_t)at, entry.part, (uint32_t)member, entry.names};
    table_prefetch(table, hash);
    return 0;
}

static int apply_series(Source *source, uint32_t size, Py_ssize_t limit)
{
    SeriesHead head;
    if (size < sizeof head)
        return 0;
    memcpy(&head, source->body, sizeof head);
    if (head.family >= (uint64_t)source->families_room || source->families[head.family].state < IGNORED)
        return 0;
    struct FamilyEntry entry = source->families[head.family];
    if (entry.state == IGNORED)
        return 1;
    Part *part = &source->parts[entry.part];
    uint64_t first = head.first_word, words = (uint64_t)limit;
    if (head.words == 0 || (part->width ? head.words != part->width : head.words > words) || first < FIRST_WORD
        || first > words || head.words > words - first || !isfinite(head.created)
        || !are_free(source, (Py_ssize_t)first, head.words))
        return 0;
    const char *key = source->body + sizeof head;
    uint32_t key_size = size - (uint32_t)sizeof head;
    int is_next = row_has_key(part->table, part->next, entry.names, key, key_size);
    if (!is_next && !table_is_key(part->table, entry.names, key, key_size))
        return 0;
    if (part_grow(part, limit) < 0)
        return -1;
    Py_ssize_t member = part->count;
    part->words[member] = (uint32_t)first;
    part->rows[member] = GONE;
    part->generations[member] = head.generation;
    part->created[member] = head.created;
    if (part->width == 0)
        part->widths[member] = head.words;
    if (is_next)
        put_in_row(part, member, part->next);
    else if (defer_look_up(source, entry, member, key, key_size) < 0)
        return -1;
    part->count++;
    part->words_end = Py_MAX(part->words_end, (Py_ssize_t)(first + head.words));
    flip_used(source, (Py_ssize_t)first, head.words);
    if (source->places != NULL && 2 * source->places_count > source->places_mask)
        places_drop(source);
    if (source->places != NULL)
        places_put(source, entry.part, (uint32_t)member);
    return 1;
}

static int apply_end(Source *source, uint32_t size)
{
    Part *part;
    Py_ssize_t member;
    uint64_t first;
    if (size != sizeof first)
        return 0;
    if (look_up_deferred(source) < 0)
        return -1;
    memcpy(&first, source->body, sizeof first);
    int found = find_member(source, first, &part, &member);
    if (found > 0)
        drop_member(source, part, member);
    return found < 0 ? -1 : 1;
}

static int apply_folded(Source *source, uint32_t size)
{
    if (size != 16)
        return 0;
    PyObject *identity = PyBytes_FromStringAndSize(source->body, 16);
    int failed = identity == NULL || PySet_Add(source->folded, identity) < 0;
    Py_XDECREF(identity);
    return failed ? -1 : 1;
}

static PyStructSequence_Field record_fields[] = {{"number", NULL}, {"declared", NULL}, {"packed", NULL}, {NULL, NULL}};
static PyStructSequence_Desc record_description = {
    "mpmetrics._cells.FamilyRecord", "A FAMILY record. See mpmetrics._cells.source.", record_fields, 3,
};
/* Static, as all types of this module, which several interpreters of a process share: CPython numbers the classes that
   it makes at run time in each interpreter for itself, and finds attributes by that number. */
static PyTypeObject record_type;

/* Return a new family to the caller, in `made`. */
static int apply_family(Source *source, uint32_t size, PyObject **made)
{
    uint32_t number;
    uint64_t declared;
    if (size < 16)
        return 0;
    memcpy(&number, source->body, sizeof number);
    memcpy(&declared, source->body + 8, sizeof declared);
    if (number >= MAX_FAMILIES)
        return 0;
    Py_ssize_t room = source->families_room;
    if (grow_array(&source->families, &source->families_room, (Py_ssize_t)number + 1, sizeof *source->families) < 0)
        return -1;
    memset(source->families + room, 0, (size_t)(source->families_room - room) * sizeof *source->families);
    uint32_t sum = checksum(0, source->body, size);
    if (source->families[number].state != UNKNOWN) /* perhaps an interrupted declaration, repeated by the writer */
        return source->families[number].checksum == sum;
    if (record_type.tp_name == NULL && PyStructSequence_InitType2(&record_type, &record_description) < 0)
        return -1;
    PyObject *fields[] = {
        PyLong_FromUnsignedLong(number), PyLong_FromUnsignedLongLong(declared),
        PyBytes_FromStringAndSize(source->body + 16, size - 16),
    };
    *made = PyStructSequence_New(&record_type);
    if (*made == NULL || fields[0] == NULL || fields[1] == NULL || fields[2] == NULL) {
        for (int at = 0; at < 3; at++)
            Py_XDECREF(fields[at]);
        Py_CLEAR(*made);
        return -1;
    }
    for (int at = 0; at < 3; at++)
        PyStructSequence_SetItem(*made, at, fields[at]);
    source->families[number].state = ANNOUNCED;
    source->families[number].checksum = sum;
    return 1;
}

/* Apply records up to the end, or up to a new family, returned in `made`. -1 with MemoryError. */
static int walk(Source *source, Py_ssize_t end, int is_cut, Py_ssize_t limit, PyObject **made)
{
    while (source->position < end && *made == NULL) {
        Record record;
        int found = read_record(source, source->position, end, &record);
        if (found == 0) {
            if (is_cut && is_incomplete(source, source->position, end))
                break;
            source->damaged++;
            do {
                source->position = source->check_budget < 0 || end - source->position <= 8 ? end : source->position + 8;
                found = source->position < end ? read_record(source, source->position, end, &record) : 0;
            } while (found == 0 && source->position < end);
            if (found == 0)
                break;
        }
        int applied = found < 0 ? -1
            : record.kind == KIND_SERIES ? apply_series(source, record.size, limit)
            : record.kind == KIND_END ? apply_end(source, record.size)
            : record.kind == KIND_FOLDED ? apply_folded(source, record.size)
            : record.kind == KIND_FAMILY ? apply_family(source, record.size, made) : 1;
        if (applied < 0)
            return -1;
        source->damaged += applied == 0;
        source->position = record.end;
        if (source->pending_count == MOST_PENDING && look_up_deferred(source) < 0)
            return -1;
    }
    return look_up_deferred(source);
}

/* --- words --- */

enum { RETRIES = 256, RECORDS = 12 };

/* The words that a writer is changing: those seen to change, and the first ones, which may change and change back. */
typedef struct {
    char *marked;
    int32_t *hot;
    int32_t count;
    int left; /* how many readings are still allowed */
} Busy;

static void mark(Busy *busy, Py_ssize_t at)
{
    if (!busy->marked[at]) {
        busy->marked[at] = 1;
        busy->hot[busy->count++] = (int32_t)at;
    }
}

/* Load the busy words until two readings agree: between the two, all words had these values. */
static int load_busy(Busy *busy, const double *words, double *values)
{
    for (int attempt = 0; busy->left-- > 0; attempt++) {
        int is_same = attempt > 0;
        for (int32_t at = 0; at < busy->count; at++) {
            double word = load_word(words + busy->hot[at]);
            is_same &= memcmp(&word, values + busy->hot[at], sizeof word) == 0;
            values[busy->hot[at]] = word;
        }
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (is_same)
            return 1;
    }
    return 0;
}

/* Load the words that are not busy; whether they are unchanged. */
static int load_rest(Busy *busy, const double *words, double *values, Py_ssize_t width)
{
    int is_same = 1;
    for (Py_ssize_t at = 0; at < width; at++) {
        double word = load_word(words + at);
        if (!busy->marked[at] && memcmp(&word, values + at, sizeof word) != 0) {
            is_same = 0;
            values[at] = word;
            mark(busy, at);
        }
    }
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return is_same;
}

/* Take the words of one series as they were at one moment, if a bounded number of attempts allows it.

   A writer may be faster than a reading of all words, but it changes few words at a time. So the busy words are read
   between two readings of the others. The others are buckets, which only grow: if two readings agree, the buckets did
   not change in between. */
static void take_stable(Busy *busy, const double *words, double *values, Py_ssize_t width)
{
    memset(busy->marked, 0, (size_t)width);
    busy->count = 0;
    busy->left = RETRIES;
    for (Py_ssize_t at = 0; at < width && at < RECORDS; at++)
        mark(busy, at);
    while (busy->left > 0)
        if (load_busy(busy, words, values) & load_rest(busy, words, values, width))
            return;
}

/* Whether words are unchanged since they were loaded. */
static int is_steady(const double *words, const double *values, Py_ssize_t width)
{
    for (Py_ssize_t at = 0; at < width; at++) {
        double word = load_word(words + at);
        if (memcmp(&word, values + at, sizeof word) != 0)
            return 0;
    }
    return 1;
}

/* Whether the file, which may have been truncated, still has the words of a member. */
static inline int has_words(const Part *part, Py_ssize_t member, Py_ssize_t limit)
{
    return (Py_ssize_t)part->words[member] + (Py_ssize_t)member_width(part, member) <= limit;
}

static int take_stable_part(Part *part, const double *words, Py_ssize_t limit)
{
    Busy busy = {.marked = PyMem_RawMalloc(part->width), .hot = PyMem_RawMalloc(part->width * sizeof(int32_t))};
    int failed = busy.marked == NULL || busy.hot == NULL;
    for (Py_ssize_t at = 0; !failed && at < part->count; at++) {
        const double *source = words + part->words[at];
        double *values = part->values + (size_t)at * part->width;
        if (has_words(part, at, limit) && !is_steady(source, values, part->width))
            take_stable(&busy, source, values, part->width);
    }
    PyMem_RawFree(busy.marked);
    PyMem_RawFree(busy.hot);
    if (failed)
        PyErr_NoMemory();
    return failed ? -1 : 0;
}

/* Make room for the values of all members. */
static int part_room(Part *part)
{
    size_t size = (size_t)part->count * part->width;
    if (part->width == 0) {
        size_t *starts = PyMem_RawRealloc(part->starts, (size_t)(part->count + 1) * sizeof *starts);
        if (starts == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        part->starts = starts;
        for (Py_ssize_t at = 0; at < part->count; at++) {
            starts[at] = size;
            size += part->widths[at];
        }
    }
    double *values = PyMem_RawRealloc(part->values, (size + 1) * sizeof *values);
    if (values == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    part->values = values;
    return 0;
}

/* Load words of any width from a file that may have been truncated; missing words are zero. */
static void load_members(Part *part, const double *words, Py_ssize_t limit)
{
    double *value = part->values;
    for (Py_ssize_t member = 0; member < part->count; member++) {
        Py_ssize_t first = part->words[member], end = first + member_width(part, member);
        for (Py_ssize_t word = first; word < end; word++)
            *value++ = word < limit ? load_word(words + word) : 0.0;
    }
}

static int load_part(Part *part, const double *words, Py_ssize_t limit, int is_retired)
{
    if (part->loaded != part->count) {
        if (part_room(part) < 0)
            return -1;
        part->loaded = part->count;
        part->stamp = ++stamps;
        part->is_run = 1;
        for (Py_ssize_t member = 1; member < part->count && part->is_run; member++)
            part->is_run = part->rows[member] == part->rows[0] + member;
    }
    if (part->words_end <= limit && part->width == 1)
        for (Py_ssize_t member = 0; member < part->count; member++)
            part->values[member] = load_word(words + part->words[member]);
    else
        load_members(part, words, limit);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return part->width > 1 && !is_retired ? take_stable_part(part, words, limit) : 0;
}

static int load_all(Source *source)
{
    Py_ssize_t limit = source->limit / WORD_SIZE;
    for (Py_ssize_t at = 0; at < source->parts_count; at++) {
        Part *part = &source->parts[at];
        if (part->gone > 0) {
            part_compact(part);
            part->loaded = -1;
            places_drop(source);
        }
        if (load_part(part, source->view.buf, limit, source->is_retired) < 0)
            return -1;
    }
    source->was_loaded = 1;
    return 0;
}

/* --- the type --- */

static void forget(Source *source)
{
    for (Py_ssize_t at = 0; at < source->parts_count; at++)
        part_close(&source->parts[at]);
    source->parts_count = 0;
    if (source->used_words != NULL)
        memset(source->used_words, 0, source->used_size * sizeof *source->used_words);
    if (source->families != NULL)
        memset(source->families, 0, (size_t)source->families_room * sizeof *source->families);
    places_drop(source);
    source->pending_count = 0;
    source->pending_size = 0;
    source->position = source->damaged = 0;
    source->check_budget = CHECK_BUDGET;
    source->wanted = 0;
    source->is_cut = 0;
}

static PyObject *source_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "retired", NULL};
    PyObject *buffer;
    int is_retired = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$p:Source", keywords, &buffer, &is_retired))
        return NULL;
    Source *source = (Source *)type->tp_alloc(type, 0);
    if (source == NULL)
        return NULL;
    source->is_retired = is_retired;
    source->parts_index = PyDict_New();
    source->folded = PySet_New(NULL);
    if (source->parts_index != NULL && source->folded != NULL
        && PyObject_GetBuffer(buffer, &source->view, PyBUF_SIMPLE) == 0) {
        if (source->view.len < HEAD_SIZE || (uintptr_t)source->view.buf % 8 != 0)
            PyErr_Format(PyExc_ValueError, "%zd bytes are no slab", source->view.len);
        else
            source->identity = PyBytes_FromStringAndSize((const char *)source->view.buf + 16, 16);
    }
    source->limit = source->view.len;
    forget(source);
    if (source->identity == NULL)
        Py_CLEAR(source);
    return (PyObject *)source;
}

static void source_dealloc(Source *source)
{
    forget(source);
    PyMem_RawFree(source->parts);
    PyMem_RawFree(source->families);
    PyMem_RawFree(source->used_words);
    PyMem_RawFree(source->body);
    PyMem_RawFree(source->pending_keys);
    Py_XDECREF(source->parts_index);
    Py_XDECREF(source->folded);
    Py_XDECREF(source->identity);
    if (source->view.obj != NULL)
        PyBuffer_Release(&source->view);
    Py_TYPE(source)->tp_free(source);
}

static PyObject *source_limit(Source *source, PyObject *size)
{
    Py_ssize_t limit = PyNumber_AsSsize_t(size, NULL);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    source->limit = limit < 0 ? 0 : limit > source->view.len ? source->view.len : limit;
    if (source->wanted > source->limit && !source->is_cut) {
        source->damaged++;
        source->is_cut = 1;
    }
    Py_RETURN_NONE;
}

/* Start parsing, or start over after the writer has moved the records. */
static int source_begin(Source *source)
{
    PyObject *folded = PySet_New(NULL); /* a new set: callers may hold the old one */
    if (folded == NULL)
        return -1;
    forget(source);
    PyDict_Clear(source->parts_index);
    Py_SETREF(source->folded, folded);
    source->has_begun = 1;
    source->restarts++;
    source->must_load = source->was_loaded;
    return 0;
}

static PyObject *source_parse(Source *source, PyObject *Py_UNUSED(ignored))
{
    if (source->limit < HEAD_SIZE)
        Py_RETURN_NONE;
    for (;;) {
        uint64_t flips = head_word(source, FLIPS);
        uint64_t end = head_word(source, COMMITTED + (int)(flips & 1)) & ~(uint64_t)7;
        int is_restart = !source->has_begun || flips != source->flips || end < (uint64_t)source->position;
        if (is_restart && source->restarts == RESTARTS)
            Py_RETURN_NONE;
        if (is_restart && source_begin(source) < 0)
            return NULL;
        source->flips = flips;
        Py_ssize_t there = source->limit - area_of(source);
        there = there < 0 ? 0 : there > (Py_ssize_t)AREA_SIZE ? (Py_ssize_t)AREA_SIZE : there & ~(Py_ssize_t)7;
        source->wanted = end > INT64_MAX / 2 ? INT64_MAX : area_of(source) + (Py_ssize_t)end;
        int is_cut = end > (uint64_t)there; /* more is committed than the file had at the last check of its size */
        if (is_cut)
            end = (uint64_t)there;
        Py_ssize_t limit = words_limit(source);
        PyObject *made = NULL;
        if (used_words_grow(source, limit) < 0 || walk(source, (Py_ssize_t)end, is_cut, limit, &made) < 0) {
            Py_XDECREF(made);
            return NULL;
        }
        if (head_word(source, FLIPS) != source->flips) {
            Py_XDECREF(made);
            continue;
        }
        if (made != NULL)
            return made;
        if (!source->must_load)
            Py_RETURN_NONE;
        /* A flip moves records, not words. The parts are new, so load their words again at once. */
        source->must_load = 0;
        if (load_all(source) < 0)
            return NULL;
    }
}

static Part *add_part(Source *source, PyObject *table, uint32_t width)
{
    Part *parts = PyMem_RawRealloc(source->parts, (size_t)(source->parts_count + 1) * sizeof(Part));
    if (parts == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    source->parts = parts;
    PyObject *index = PyLong_FromSsize_t(source->parts_count);
    if (index == NULL || PyDict_SetItem(source->parts_index, table, index) < 0) {
        Py_XDECREF(index);
        return NULL;
    }
    Py_DECREF(index);
    Part *part = &parts[source->parts_count++];
    *part = (Part){.table = (Table *)Py_NewRef(table), .width = width, .stamp = ++stamps};
    return part;
}

static PyObject *source_family(Source *source, PyObject *args)
{
    Py_ssize_t number, width;
    PyObject *table, *labels;
    int is_open;
    if (!PyArg_ParseTuple(args, "nOnO!p:family", &number, &table, &width, &PyTuple_Type, &labels, &is_open))
        return NULL;
    if (number < 0 || number >= source->families_room || source->families[number].state != ANNOUNCED)
        return PyErr_Format(PyExc_ValueError, "parse() has not returned family %zd", number);
    if (table == Py_None) {
        source->families[number].state = IGNORED;
        Py_RETURN_NONE;
    }
    if (!Py_IS_TYPE(table, &Table_Type) || width < 0 || width > MAX_WIDTH)
        return PyErr_Format(PyExc_TypeError, "family() needs a Table and a width of at most %d", MAX_WIDTH);
    Py_ssize_t names = table_names((Table *)table, labels, is_open);
    Part *part = names < 0 ? NULL : source_part(source, (Table *)table);
    if (part == NULL && !PyErr_Occurred())
        part = add_part(source, table, (uint32_t)width);
    if (part == NULL)
        return NULL;
    if (part->width != (uint32_t)width)
        return PyErr_Format(PyExc_ValueError, "the table has %u words a series, not %zd", part->width, width);
    struct FamilyEntry *entry = &source->families[number];
    *entry = (struct FamilyEntry){KNOWN, (uint32_t)(part - source->parts), (uint32_t)names, entry->checksum};
    Py_RETURN_NONE;
}

static PyObject *source_load(Source *source, PyObject *Py_UNUSED(ignored))
{
    source->restarts = 0;
    if (source->limit >= HEAD_SIZE && load_all(source) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *source_sweep(Source *source, PyObject *table)
{
    Part *part = Py_IS_TYPE(table, &Table_Type) ? source_part(source, (Table *)table) : NULL;
    PyObject *removals = PyErr_Occurred() ? NULL : PySet_New(NULL);
    uint64_t last = 0;
    if (part == NULL || removals == NULL)
        return removals;
    if (part->swept_removals != part->table->removals)
        part->swept = 0;
    part->swept_removals = part->table->removals;
    for (Py_ssize_t at = part->swept; part->swept_removals > 0 && at < part->count; at++) {
        uint64_t removed = part->rows[at] == GONE ? 0 : part->table->removed[part->rows[at]];
        if (part->generations[at] >= removed)
            continue;
        PyObject *generation = removed == last ? NULL : PyLong_FromUnsignedLongLong(removed);
        int failed = removed != last && (generation == NULL || PySet_Add(removals, generation) < 0);
        Py_XDECREF(generation);
        if (failed) {
            part->swept = 0;
            Py_DECREF(removals);
            return NULL;
        }
        last = removed;
        drop_member(source, part, at);
    }
    part->swept = part->count;
    return removals;
}

static PyObject *source_words(Source *source, PyObject *args)
{
    PyObject *table;
    Py_ssize_t row;
    if (!PyArg_ParseTuple(args, "O!n:words", &Table_Type, &table, &row))
        return NULL;
    Part *part = source_part(source, (Table *)table);
    if (part == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    Py_ssize_t member = part_member(part, row);
    if (member < 0)
        return member == -2 ? NULL : Py_NewRef(Py_None);
    Py_ssize_t width = member_width(part, member);
    const double *values = member_values(part, member);
    PyObject *words = PyList_New(width);
    for (Py_ssize_t at = 0; words != NULL && at < width; at++) {
        PyObject *word = PyFloat_FromDouble(values[at]);
        if (word == NULL)
            Py_CLEAR(words);
        else
            PyList_SET_ITEM(words, at, word);
    }
    return words;
}

static PyObject *source_rows_at(Source *source, PyObject *args)
{
    PyObject *table, *firsts;
    if (!PyArg_ParseTuple(args, "O!O:rows_at", &Table_Type, &table, &firsts))
        return NULL;
    PyObject *words = PySequence_Tuple(firsts), *rows = words == NULL ? NULL : PyList_New(0);
    for (Py_ssize_t at = 0; rows != NULL && at < PyTuple_GET_SIZE(words); at++) {
        PyObject *number = PyTuple_GET_ITEM(words, at);
        Part *part;
        Py_ssize_t member;
        Py_ssize_t word = PyLong_Check(number) ? PyLong_AsSsize_t(number) : 0;
        if (word == -1 && PyErr_Occurred())
            PyErr_Clear();
        int found = find_member(source, word < 0 ? 0 : (uint64_t)word, &part, &member);
        PyObject *row = NULL;
        if (found > 0 && (PyObject *)part->table == table) {
            row = PyLong_FromUnsignedLong(part->rows[member]);
            found = row == NULL || PyList_Append(rows, row) < 0 ? -1 : 1;
        }
        Py_XDECREF(row);
        if (found < 0)
            Py_CLEAR(rows);
    }
    Py_XDECREF(words);
    return rows;
}

static PyObject *source_get_series(Source *source, void *Py_UNUSED(closure))
{
    Py_ssize_t count = 0;
    for (Py_ssize_t at = 0; at < source->parts_count; at++)
        count += source->parts[at].count - source->parts[at].gone;
    return PyLong_FromSsize_t(count);
}

static PyObject *source_get_damaged(Source *source, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(source->damaged);
}

static PyObject *source_get_is_retired(Source *source, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(source->is_retired);
}

static PyObject *source_get_folded(Source *source, void *Py_UNUSED(closure))
{
    return Py_NewRef(source->folded);
}

static PyObject *source_get_identity(Source *source, void *Py_UNUSED(closure))
{
    return Py_NewRef(source->identity);
}

static int source_set_identity(Source *source, PyObject *identity, void *Py_UNUSED(closure))
{
    if (identity == NULL || !PyBytes_Check(identity) || PyBytes_GET_SIZE(identity) != 16) {
        PyErr_SetString(PyExc_TypeError, "an identity must be 16 bytes");
        return -1;
    }
    Py_SETREF(source->identity, Py_NewRef(identity));
    return 0;
}

static PyMethodDef source_methods[] = {
    {"limit", (PyCFunction)source_limit, METH_O, "limit($self, size, /)\n--\n\n"},
    {"parse", (PyCFunction)source_parse, METH_NOARGS, "parse($self)\n--\n\n"},
    {"family", (PyCFunction)source_family, METH_VARARGS,
     "family($self, number, table, width, labels, is_open, /)\n--\n\n"},
    {"load", (PyCFunction)source_load, METH_NOARGS, "load($self)\n--\n\n"},
    {"sweep", (PyCFunction)source_sweep, METH_O, "sweep($self, table, /)\n--\n\n"},
    {"words", (PyCFunction)source_words, METH_VARARGS, "words($self, table, row, /)\n--\n\n"},
    {"rows_at", (PyCFunction)source_rows_at, METH_VARARGS, "rows_at($self, table, firsts, /)\n--\n\n"},
    {NULL},
};

static PyGetSetDef source_getset[] = {
    {"series", (getter)source_get_series, NULL, NULL, NULL},
    {"damaged", (getter)source_get_damaged, NULL, NULL, NULL},
    {"folded", (getter)source_get_folded, NULL, NULL, NULL},
    {"is_retired", (getter)source_get_is_retired, NULL, NULL, NULL},
    {"identity", (getter)source_get_identity, (setter)source_set_identity, NULL, NULL},
    {NULL},
};

PyTypeObject Source_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells.Source",
    .tp_doc = "Source(buffer, /, *, retired=False)\n--\n\nReads one slab or retired file. See mpmetrics._cells.source.",
    .tp_basicsize = sizeof(Source),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = source_new,
    .tp_dealloc = (destructor)source_dealloc,
    .tp_methods = source_methods,
    .tp_getset = source_getset,
};
