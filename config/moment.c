#include "config/moment.h"

#include <string.h>

const char *moment_conversions(const char *vr)
{
    if (strcmp(vr, "DA") == 0)
        return "Yymdj%";
    if (strcmp(vr, "TM") == 0)
        return "HMS%";
    if (strcmp(vr, "DT") == 0)
        return "YymdjHMS%";
    return NULL;
}

static bool digits(const char **s, const char *end, int n, int *ret)
{
    int value = 0;

    if (end - *s < n)
        return false;
    for (int i = 0; i < n; i++) {
        if ((*s)[i] < '0' || (*s)[i] > '9')
            return false;
        value = value * 10 + ((*s)[i] - '0');
    }
    *s += n;
    *ret = value;
    return true;
}

static bool leap(int year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static int days_in(int year, int month)
{
    static const int DAYS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return DAYS[month - 1] + (month == 2 && leap(year));
}

static bool valid(const struct moment *m)
{
    const int *f = m->field;

    return f[0] != 0 && (f[1] < 0 || (f[1] >= 1 && f[1] <= 12)) &&
           (f[2] < 0 || (f[2] >= 1 && f[2] <= days_in(f[0], f[1]))) && f[3] <= 23 && f[4] <= 59 &&
           f[5] <= 60;
}

bool moment_parse(struct moment *m, const char *vr, const char *s, size_t n)
{
    const char *end;
    size_t first = vr[0] == 'T' ? 3 : 0, last = vr[0] == 'D' && vr[1] == 'A' ? 3 : 6;
    char separator = '\0';

    while (n > 0 && (s[n - 1] == ' ' || s[n - 1] == '\0'))
        n--;
    while (n > 0 && s[0] == ' ') {
        s++;
        n--;
    }
    end = s + n;
    for (size_t i = 0; i < 6; i++)
        m->field[i] = -1;
    for (size_t i = first; i < last; i++) {
        if (i > first && s < end && vr[1] != 'T') { /* DA and TM had separators once */
            char old = last == 3 ? '.' : ':';
            if (i == first + 1 && *s == old)
                separator = old;
            if (separator != '\0' && *s++ != separator)
                return false;
        }
        if (s == end || (i > first && (*s == '+' || *s == '-' || *s == '.')))
            break;
        if (!digits(&s, end, i == 0 ? 4 : 2, &m->field[i]))
            return false;
    }
    if (m->field[first] < 0 || (last == 3 && m->field[2] < 0))
        return false;
    if (last == 6 && m->field[5] >= 0 && s < end && *s == '.') {
        const char *fraction = ++s;
        while (s < end && *s >= '0' && *s <= '9')
            s++;
        if (s == fraction || s - fraction > 6)
            return false;
    }
    if (vr[1] == 'T' && s < end && (*s == '+' || *s == '-')) {
        int zone = 0;
        s++;
        if (!digits(&s, end, 4, &zone))
            return false;
    }
    return s == end && valid(m);
}

bool moment_format(const struct moment *m, const char *format, struct buf *b)
{
    const int *f = m->field;

    for (const char *p = format; *p != '\0'; p++) {
        int value = 0, width = 2, day = 0;

        if (*p != '%') {
            buf_put_u8(b, (uint8_t)*p);
            continue;
        }
        switch (*++p) {
        case 'Y':
            value = f[0];
            width = 4;
            break;
        case 'y':
            value = f[0] >= 0 ? f[0] % 100 : -1;
            break;
        case 'm':
            value = f[1];
            break;
        case 'd':
            value = f[2];
            break;
        case 'H':
            value = f[3];
            break;
        case 'M':
            value = f[4];
            break;
        case 'S':
            value = f[5];
            break;
        case 'j':
            for (int month = 1; f[2] >= 0 && month < f[1]; month++)
                day += days_in(f[0], month);
            value = f[2] >= 0 ? day + f[2] : -1;
            width = 3;
            break;
        default: /* %%: the parser let nothing else through */
            buf_put_u8(b, '%');
            continue;
        }
        if (value < 0)
            return false;
        buf_printf(b, "%0*d", width, value);
    }
    return true;
}
