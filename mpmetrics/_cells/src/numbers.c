/* Exact sums, and numbers as text. */

#include "index.h"

/* The exact sum of finite numbers, rounded once; -1 when a partial sum exceeds the largest double. `partials` has room
   for `count` + 1 numbers, which do not overlap and grow in magnitude.

   Source: Shewchuk, "Adaptive precision floating-point arithmetic and fast robust geometric predicates" (1997). */
static int sum_partials(const double *addends, Py_ssize_t count, double *partials, double *sum)
{
    Py_ssize_t size = 0;
    for (Py_ssize_t at = 0; at < count; at++) {
        double x = addends[at];
        Py_ssize_t kept = 0;
        for (Py_ssize_t from = 0; from < size; from++) {
            double y = partials[from];
            if (fabs(x) < fabs(y)) {
                double larger = y;
                y = x;
                x = larger;
            }
            double high = x + y, low = y - (high - x);
            if (low != 0.0)
                partials[kept++] = low;
            x = high;
        }
        if (!isfinite(x))
            return -1;
        size = kept;
        if (x != 0.0)
            partials[size++] = x;
    }
    double high = 0.0, low = 0.0;
    while (size > 0 && low == 0.0) {
        double x = high, y = partials[--size];
        high = x + y;
        low = y - (high - x);
    }
    /* Half way between two doubles: the lower partials decide. */
    if (size > 0 && ((low < 0.0 && partials[size - 1] < 0.0) || (low > 0.0 && partials[size - 1] > 0.0))) {
        double twice = low * 2.0, next = high + twice;
        if (twice == next - high)
            high = next;
    }
    *sum = high;
    return 0;
}

double exact_sum(const double *addends, Py_ssize_t count, double *room)
{
    double sum = 0.0, rest = 0.0;
    Py_ssize_t at;
    for (at = 0; at < count; at++) {
        double x = addends[at];
        double total = sum + x, part = total - sum;
        double lost = (sum - (total - part)) + (x - part);
        sum = total;
        if (lost != 0.0) { /* also true for NaN, if an addend is not finite */
            total = rest + lost;
            part = total - rest;
            if ((rest - (total - part)) + (lost - part) != 0.0)
                break;
            rest = total;
        }
    }
    if (at == count && isfinite(sum + rest))
        return sum + rest + 0.0; /* sum plus rest is exact; never -0.0 */
    int finite = 1;
    for (at = 0; at < count && finite; at++)
        finite = isfinite(addends[at]);
    if (finite && sum_partials(addends, count, room, &sum) == 0)
        return sum;
    /* Infinities, NaN, or a sum beyond the largest double: added one after the other, as in IEEE 754. */
    for (at = 0, sum = 0.0; at < count; at++)
        sum += addends[at];
    return sum;
}

static const double POWERS[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12};

static Py_ssize_t write_digits(uint64_t number, char *text)
{
    char digits[20];
    Py_ssize_t count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    for (Py_ssize_t at = 0; at < count; at++)
        text[at] = digits[count - 1 - at];
    return count;
}

/* A number of at most 15 digits, `places` of them after the decimal point. */
static Py_ssize_t write_decimal(uint64_t number, int places, char *text)
{
    uint64_t power = (uint64_t)POWERS[places];
    Py_ssize_t size = write_digits(number / power, text);
    text[size++] = '.';
    number %= power;
    for (int at = places - 1; at >= 0; at--) {
        text[size + at] = (char)('0' + number % 10);
        number /= 10;
    }
    return size + places;
}

/* A decimal of up to 15 digits survives the conversion to a double and back, so the first one that reads back to `value`
   is its shortest; -1 if none does. The two deciding operations have exact operands, so each is rounded once. */
static Py_ssize_t write_short(double value, char *text)
{
    if (value >= 1e15 || value < 1e-4)
        return -1;
    if (value == (double)(uint64_t)value) {
        Py_ssize_t size = write_digits((uint64_t)value, text);
        memcpy(text + size, ".0", 2);
        return size + 2;
    }
    for (int places = 1; places <= 12; places++) {
        double scaled = value * POWERS[places] + 0.5;
        if (scaled >= 1e15)
            return -1;
        if ((double)(uint64_t)scaled / POWERS[places] == value)
            return write_decimal((uint64_t)scaled, places, text);
    }
    return -1;
}

Py_ssize_t write_number(double value, char *text)
{
    Py_ssize_t sign = 0;
    if (isnan(value)) {
        memcpy(text, "NaN", 3);
        return 3;
    }
    if (isinf(value)) {
        memcpy(text, value > 0 ? "+Inf" : "-Inf", 4);
        return 4;
    }
    if (signbit(value))
        text[sign++] = '-';
    if (value == 0.0) {
        memcpy(text + sign, "0.0", 3);
        return sign + 3;
    }
    Py_ssize_t size = write_short(fabs(value), text + sign);
    if (size >= 0)
        return sign + size;
    char *whole = PyOS_double_to_string(value, 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
    if (whole == NULL)
        return -1;
    size = (Py_ssize_t)strlen(whole);
    memcpy(text, whole, (size_t)size);
    PyMem_Free(whole);
    return size;
}
