/* What Python is too slow for: rows of numbers read, with or without a label first, and lines of labels written.

   fast.py calls it, from several threads at once. Whatever is not plain (quotes, a missing value, a row of another
   length, a number beyond float32) ends the reading with -1, and Python reads the text again: it knows the rest of the
   grammar, and the words for what is wrong. So the reader may refuse anything, and what it takes it must take as Python
   does. compile.sh builds this, without Python's headers: ctypes loads it.
*/
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The powers of ten that a double holds exactly. */
static const double TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
#define MOST_TENS 22
#define MOST_DIGITS 19 /* that a 64-bit integer always holds */
#define EXACT_INTEGER (1ULL << 53)
#define SURE 0x1p-50 /* far more than the roundings of one conversion and one division */

static const char *blanks(const char *text)
{
    while (*text == ' ' || *text == '\t') text++;
    return text;
}

static const char *digits(const char *text, uint64_t *value)
{
    for (; (unsigned char)(*text - '0') < 10; text++) *value = *value * 10 + (uint64_t)(*text - '0');
    return text;
}

/* Reads the number that stands at `text`, blanks around it, as Python's float() and then float32 would.
   Returns what follows it, NULL where there is none that is finite. */
static const char *number(const char *text, float *value)
{
    const char *start = blanks(text), *first = start + (*start == '-' || *start == '+');
    uint64_t integer = 0, power = 0;
    const char *point = digits(first, &integer), *end = point;
    long count = point - first, scale = 0;

    if (*point == '.') {
        end = digits(point + 1, &integer);
        scale = -(end - point - 1);
        count -= scale;
    }
    if (count == 0) return NULL;
    if (*end == 'e' || *end == 'E') {
        const char *sign = end + 1, *exponent = sign + (*sign == '-' || *sign == '+');
        end = digits(exponent, &power);
        if (end == exponent) return NULL;
        if (end - exponent > 4) power = 9999; /* more than any double has: strtod knows what becomes of it */
        scale += *sign == '-' ? -(long)power : (long)power;
    }
    if (count <= MOST_DIGITS && -MOST_TENS <= scale && scale <= MOST_TENS) {
        double near = scale < 0 ? (double)integer / TENS[-scale] : (double)integer * TENS[scale];
        /* Of two exact numbers the result is the nearest double. Else it is near the nearest one, which does where all
           that is near is one and the same float32. */
        if (integer < EXACT_INTEGER || (float)(near * (1 - SURE)) == (float)(near * (1 + SURE))) {
            *value = (float)(*start == '-' ? -near : near);
            return isfinite(*value) ? blanks(end) : NULL;
        }
    }
    char *read;
    *value = (float)strtod(start, &read);
    return read == end && isfinite(*value) ? blanks(end) : NULL; /* a locale may want another decimal point */
}

/* Reads rows of `columns` numbers into `values`, which has room for one more row than `text` has line ends.

   text:   `size` bytes and a NUL; rows end in LF, the last one in nothing
   codes:  NULL, or each row begins with a label and a comma: takes the label's number, from 0 in order of appearance
   labels: takes where each of the first `most` different labels begins and how many bytes it has

   Returns the number of rows, -1 where the text is not plain. */
long read_rows(const char *text, long size, long columns, float *values, int32_t *codes, int64_t (*labels)[2],
               long most, long *known)
{
    const char *at = text, *end = text + size;
    long rows = 0, code = 0;

    for (*known = 0;; at++) {
        if (codes) {
            long length = 0;
            while (at[length] != ',' && at[length] != '\n' && at[length] != '"' && at[length]) length++;
            if (at[length] != ',' || length == 0) return -1;
#define SAME(label) (labels[label][1] == length && memcmp(text + labels[label][0], at, (size_t)length) == 0)
            if (rows == 0 || !SAME(code)) /* labels often come in order */
                for (code = 0; code < *known && !SAME(code); code++) continue;
            if (code == *known) {
                if (code == most) return -1;
                labels[code][0] = at - text;
                labels[code][1] = length;
                ++*known;
            }
            codes[rows] = (int32_t)code;
            at += length + 1;
        }
        for (long column = 0; column < columns; column++) {
            if (column && *at++ != ',') return -1;
            if ((at = number(at, values++)) == NULL) return -1;
        }
        rows++;
        if (at == end) return rows;
        if (*at != '\n') return -1;
    }
}

/* Writes the line of each row's code into `out`, which has room for all. `lines` has them end to end, `ends` where each
   of them ends. */
void write_lines(const int64_t *codes, long rows, const char *lines, const int64_t *ends, char *out)
{
    for (long row = 0; row < rows; row++) {
        int64_t begin = codes[row] ? ends[codes[row] - 1] : 0;
        size_t size = (size_t)(ends[codes[row]] - begin);
        memcpy(out, lines + begin, size);
        out += size;
    }
}
