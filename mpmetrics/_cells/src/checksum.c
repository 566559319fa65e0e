/* CRC-32, sixteen bytes at a time.

   Source: Kounavis, Berry: "A systematic approach to building high performance, software-based, CRC generators" (2005). */

#include "core.h"

static uint32_t tables[16][256];

static void make_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        tables[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int at = 1; at < 16; at++)
            tables[at][byte] = tables[at - 1][byte] >> 8 ^ tables[0][tables[at - 1][byte] & 0xFF];
}

static inline uint32_t little(const unsigned char *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Four bytes, with so many more behind them. */
static inline uint32_t step(int behind, uint32_t word)
{
    return tables[behind + 3][word & 0xFF] ^ tables[behind + 2][word >> 8 & 0xFF] ^ tables[behind + 1][word >> 16 & 0xFF]
        ^ tables[behind][word >> 24];
}

/* What zlib.crc32(bytes, start) is. */
uint32_t checksum(uint32_t start, const void *bytes, Py_ssize_t size)
{
    const unsigned char *at = bytes;
    uint32_t crc = ~start;
    if (tables[0][1] == 0)
        make_tables();
    for (; size >= 16; size -= 16, at += 16)
        crc = step(12, crc ^ little(at)) ^ step(8, little(at + 4)) ^ step(4, little(at + 8)) ^ step(0, little(at + 12));
    for (; size >= 4; size -= 4, at += 4)
        crc = step(0, crc ^ little(at));
    for (; size > 0; size--)
        crc = crc >> 8 ^ tables[0][(crc ^ *at++) & 0xFF];
    return ~crc;
}
