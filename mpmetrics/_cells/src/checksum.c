/* CRC-32: sixteen bytes at a time if the processor has carry-less multiplication, else eight at a time by tables.

   Sources: Kounavis, Berry: "A systematic approach to building high performance, software-based, CRC generators" (2005);
   Gopal et al.: "Fast CRC computation for generic polynomials using PCLMULQDQ instruction" (2009). */

#include "core.h"

static uint32_t tables[8][256];

static void make_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        tables[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int at = 1; at < 8; at++)
            tables[at][byte] = tables[at - 1][byte] >> 8 ^ tables[0][tables[at - 1][byte] & 0xFF];
}

static inline uint32_t little(const unsigned char *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* What four bytes contribute, with `behind` further bytes after them. */
static inline uint32_t step(int behind, uint32_t word)
{
    return tables[behind + 3][word & 0xFF] ^ tables[behind + 2][word >> 8 & 0xFF] ^ tables[behind + 1][word >> 16 & 0xFF]
        ^ tables[behind][word >> 24];
}

static uint32_t by_tables(uint32_t crc, const unsigned char *at, Py_ssize_t size)
{
    if (tables[0][1] == 0)
        make_tables();
    for (; size >= 8; size -= 8, at += 8)
        crc = step(4, crc ^ little(at)) ^ step(0, little(at + 4));
    for (; size > 0; size--)
        crc = crc >> 8 ^ tables[0][(crc ^ *at++) & 0xFF];
    return crc;
}

#ifdef __x86_64__
#include <immintrin.h>

#define MULTIPLIES __attribute__((target("pclmul,sse4.1"))) static
#define multiply(one, other, halves) _mm_clmulepi64_si128(one, other, halves)

MULTIPLIES inline __m128i load(const void *at) { return _mm_loadu_si128(at); }
MULTIPLIES inline void store(void *at, __m128i block) { _mm_storeu_si128(at, block); }

/* 16 bytes modulo the polynomial, with 16 further bytes after them. */
MULTIPLIES inline __m128i fold(__m128i sum)
{
    const __m128i powers = _mm_set_epi64x(0x0CCAA009E, 0x1751997D0);
    return multiply(sum, powers, 0x00) ^ multiply(sum, powers, 0x11);
}

/* Of at least 16 bytes, which are copied to `to` unless it is NULL. Each byte counts as it is in the copy. */
MULTIPLIES uint32_t by_multiplying(uint32_t crc, unsigned char *to, const unsigned char *at, Py_ssize_t size)
{
    static const unsigned char moves[48] = {
        128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, /* zeros */
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
        128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
    };
    __m128i last = load(at + size - 16), sum = _mm_cvtsi32_si128((int)crc), block;
    if (to != NULL)
        store(to + size - 16, last);
    for (Py_ssize_t from = 0; from + 16 <= size; from += 16) {
        block = load(at + from);
        if (to != NULL)
            store(to + from, block);
        sum = (from == 0 ? sum : fold(sum)) ^ block;
    }
    if (size % 16 > 0) { /* Fold as many bytes of the sum; its others go before the remaining bytes. */
        __m128i back = load(moves + size % 16), forth = load(moves + 16 + size % 16);
        sum = fold(_mm_shuffle_epi8(sum, back)) ^ _mm_blendv_epi8(last, _mm_shuffle_epi8(sum, forth), back);
    }
    const __m128i powers = _mm_set_epi64x(0x163CD6124, 0x0CCAA009E), low = _mm_set_epi32(0, -1, 0, -1);
    const __m128i polynomial = _mm_set_epi64x(0x1F7011641, 0x1DB710641); /* its inverse, and itself */
    sum = _mm_srli_si128(sum, 8) ^ multiply(sum, powers, 0x00);
    sum = _mm_srli_si128(sum, 4) ^ multiply(sum & low, powers, 0x10);
    __m128i factor = multiply(sum & low, polynomial, 0x10) & low;
    return (uint32_t)_mm_extract_epi32(sum ^ multiply(factor, polynomial, 0x00), 1);
}

static inline int can_multiply(void) { return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"); }
#endif

uint32_t checksum_copy(uint32_t start, void *to, const void *from, Py_ssize_t size)
{
#ifdef __x86_64__
    if (size >= 16 && can_multiply())
        return ~by_multiplying(~start, to, from, size);
#endif
    return ~by_tables(~start, to == NULL ? from : memcpy(to, from, (size_t)size), size);
}

uint32_t checksum(uint32_t start, const void *bytes, Py_ssize_t size)
{
    return checksum_copy(start, NULL, bytes, size);
}
