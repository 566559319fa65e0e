/* The writing part of the compiled twin: processes, slabs, and the series of this process. */

#ifndef MPMETRICS_CELLS_H
#define MPMETRICS_CELLS_H

#include "core.h"
#include "format.h"

/* The headers may be older than the kernel. */
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { NAME_ROOM = 80 };

/* A directory as Python passes it: path, device, inode number and owner. Without a path, there is none. */
typedef struct {
    PyObject *path;
    unsigned long long device, number;
    unsigned long owner;
} Directory;

/* The state of one provider in this process. `words` are in a page that the kernel wipes in a forked child. */
enum { COUNTING, BEGUN };
typedef struct {
    PyObject_HEAD
    PyObject *owner;
    PyObject *clock; /* NULL or None: the system's */
    struct Slab *slab; /* new series go to it; NULL: they wait */
    uint64_t *words;
    uint64_t token, seen, last_time;
    long long time_offset;
    Py_buffer watched;
    const uint64_t *generation; /* in the watched buffer, or NULL */
    Directory where;   /* of the epoch whose removals are read here */
    PyObject *metrics; /* the series that they may end, by metric; NULL: removals are not read here */
    uint64_t removals; /* inode number of their file */
    Py_ssize_t position; /* up to which it was read */
    uint64_t shortened; /* how often it had been shortened then */
} Process;

/* Runs of words, all of one width, that ended series have freed. */
typedef struct {
    size_t width, count, room;
    uint32_t *firsts;
} FreeRuns;

/* The writer of one slab. It never reads back from the file where to write next: the file could be damaged. */
typedef struct Slab {
    PyObject_HEAD
    Py_buffer view;
    char *base;
    size_t area, committed, garbage, next_word;
    uint32_t *record_of; /* by first word of a living series: 1 + offset / 8 of its SERIES record */
    FreeRuns *free;
    size_t widths;
    Directory where; /* of its file */
    char file[NAME_ROOM];
    uint64_t number; /* inode number of its file */
    unsigned long lowest; /* the lowest ordinal that it may claim */
    long ordinal; /* -1: none yet */
    int sets_aside; /* whether it may rename the slabs of dead processes */
} Slab;

typedef struct {
    double lowest, log_growth;
    Py_ssize_t side, zero, size;
    int is_signed;
} Layout;

/* What a cell needs of its metric, shared by the metric's cells. Cells hold no references that lead back to them, so the
   garbage collector need not track them, and a first use never starts it. */
typedef struct {
    size_t users;
    PyObject *name;
    Py_ssize_t width;
    double *bounds; /* of the buckets of a distribution, else NULL */
    Py_ssize_t bound_count;
    Layout layout; /* of a sketch */
} Shape;

/* The series of one metric in this process: a mapping by linear hashing, which splits one bucket for each new series.
   Source: Litwin, "Linear hashing: a new tool for file and table addressing" (1980). */
typedef struct {
    PyObject_HEAD
    Process *process;
    PyTypeObject *cell_type;
    PyObject *family, *context, *bounds, *layout; /* the last two NULL where the cells have none */
    Shape *shape;
    Py_ssize_t limit, labels;
    size_t budget, bytes; /* of the keys, as UTF-8 */
    long number; /* of the family in the slab; -1: it could not be declared there */
    uint64_t stamp; /* the process's token when it was declared */
    struct Cell **buckets;
    size_t count, base, room; /* of buckets: how many, the largest power of two up to that, and the array's size */
    Py_ssize_t used; /* series */
    uint64_t made; /* series made so far */
} Children;

/* One series. While `stamp` equals what `counting` points to, `words` belong to this process. */
enum { MAKING, LIVE, GONE };
typedef struct Cell {
    PyObject_HEAD
    uint64_t stamp;
    const uint64_t *counting;
    double *words;
    uint64_t count; /* values that a distribution or sketch has counted since its words were zero */
    Shape *shape;
    Children *children; /* that hold it; a borrowed reference, NULL once it is gone */
    PyObject **key; /* its label values */
    Py_ssize_t key_size; /* -1: it is the overflow series */
    Slab *slab; /* that has the words; NULL: the words are private memory of the cell */
    uint32_t first; /* word number there */
    int state;
    uint64_t hash, serial;
    struct Cell *next; /* in its bucket */
} Cell;

extern PyTypeObject Map_Type, Process_Type, Slab_Type, Children_Type, Labelled_Type;
extern PyTypeObject Cell_Type, CounterCell_Type, GaugeCell_Type, RecentCell_Type, DistributionCell_Type;
extern PyTypeObject SketchCell_Type;
extern PyMethodDef map_functions[];

/* map.c */
uint64_t *wipe_page(void); /* a page of words that are zero in a forked child; NULL with an exception */
void wipe_page_free(uint64_t *words);
uint64_t fork_mark(void); /* constant within a process, different in each child; 0 with an exception */
int owner_call(Process *self, const char *method, PyObject *argument); /* -1 with an exception */
static inline uint64_t process_generation(const Process *self)
{
    return self->generation == NULL ? self->seen : *(const volatile uint64_t *)self->generation;
}

/* slab.c. None of these runs Python code. */
int slab_has_room(const Slab *self, size_t words, size_t bytes);
uint32_t slab_allocate_words(Slab *self, size_t width); /* words for a series; the slab must have room */
void slab_put_series(Slab *self, const SeriesHead *head, PyObject *const *key, Py_ssize_t count, size_t texts);
int slab_end(Slab *self, uint32_t first, size_t width); /* 0: no room for the record */
static inline double *slab_words(const Slab *self, uint32_t first) { return (double *)self->base + first; }

uint64_t slab_head_word(const Slab *self, size_t at);
void slab_put_head_word(Slab *self, size_t at, uint64_t value);
int slab_needs_flip(const Slab *self);
int slab_do_flip(Slab *self); /* 0: no room in the other area */

/* shape.c */
Shape *shape_of(PyObject *family, PyTypeObject *cell_type, Py_ssize_t width, PyObject **bounds, PyObject **layout);
void shape_release(Shape *shape);

/* mapping.c. Values are exact str; a count of -1 stands for the overflow series. None of these runs Python code. */
Cell *children_find(const Children *self, PyObject *const *values, Py_ssize_t count); /* borrowed; NULL: none */
int children_reserve(Children *self); /* room for one more; -1 with an exception */
void children_free(Children *self); /* the buckets */
void children_insert(Children *self, Cell *cell); /* takes over the reference */
void children_remove(Children *self, Cell *cell); /* gives the reference back */
Cell **children_cells(const Children *self); /* in the order of creation, from PyMem; NULL with an exception */

/* children.c */
PyObject *children_make(Children *self, PyObject *const *values, Py_ssize_t count);
int cell_bind(Cell *self); /* -1 with an exception */
PyObject *cell_place(Cell *self, void *closure);
PyObject *cell_key(Cell *self, void *closure);

/* removals.c */
PyObject *find_removals(PyObject *module, PyObject *args);
PyObject *removals_in(PyObject *bytes, uint64_t after, uint64_t upto, PyObject *metrics);

/* files.c. None of these runs Python code. */
int directory_converter(PyObject *where, void *directory);
int slab_claim(Slab *self); /* -1 with an exception */
int slab_grow(Slab *self, size_t words, size_t bytes); /* 0: it has its maximal size; -1 with an exception */
int process_skip_removals(Process *self, uint64_t generation); /* 0: some may matter, the owner must apply them */
PyObject *make_slab(PyObject *module, PyObject *args);
PyObject *read_tail(PyObject *module, PyObject *args);

/* cell.c */
PyObject *without_gc(PyObject *module, PyObject *type);
double *cell_ready(Cell *self); /* NULL with an exception */
static inline double *cell_words(Cell *self)
{
    return __builtin_expect(self->stamp == *self->counting, 1) ? self->words : cell_ready(self);
}
int warn_exemplar(PyObject *exemplar);
int parse_float(PyObject *value, double *number);
int parse_arguments(const char *method, PyObject *const *args, Py_ssize_t count, PyObject *names,
                   const char *const *keywords, int most, PyObject **values);

#endif
