/* The numbers of the format. mpmetrics/storage/format.py explains them, and a test compares the two. */

#ifndef MPMETRICS_FORMAT_H
#define MPMETRICS_FORMAT_H

#include <stddef.h>
#include <stdint.h>

enum {
    WORD_SIZE = 8,
    HEAD_SIZE = 4096,
    FIRST_WORD = HEAD_SIZE / WORD_SIZE,
    /* Words of the head. */
    WORDS_END = 64 / WORD_SIZE,
    FLIPS = 72 / WORD_SIZE,
    COMMITTED = 80 / WORD_SIZE, /* two, one for each area */
    ROOM = 96 / WORD_SIZE, /* two */
};

static const size_t AREA_0 = (size_t)1 << 26, AREA_SIZE = (size_t)1 << 27;
static const size_t SLAB_SIZE = ((size_t)1 << 26) + ((size_t)1 << 28);

enum { KIND_FAMILY = 1, KIND_SERIES, KIND_END, KIND_FOLDED, KIND_REMOVE };
enum { MAX_GROWTH = 1 << 15 };
enum { RECORD_MAGIC = 0x4D50524B, MAX_BODY = 1 << 20, OVERFLOW_TEXTS = 0xFFFF };

/* Bytes of damaged records whose checksums are computed, at most; bounds the time that a damaged file costs. */
enum { CHECK_BUDGET = 1 << 26 };

typedef struct {
    uint32_t magic, length, checksum, kind;
} RecordHead;

/* The body of a SERIES record before the texts. */
typedef struct {
    uint32_t family, words;
    uint64_t first_word;
    double created;
    uint64_t generation;
} SeriesHead;

/* Bytes of a record with a body of `length` bytes, padding included. */
static inline size_t record_size(size_t length) { return (sizeof(RecordHead) + length + 7) & ~(size_t)7; }

#endif
