#include "dicom/dict/dicom_dict.h"

#include "base/text.h"

#include <pthread.h>
#include <string.h>

struct dict_entry {
    uint32_t tag;
    uint32_t keyword; /* offset in dict_keywords */
    char vr[3];
};

#include "dicom_dict_table.h"

#define N_ENTRIES (sizeof(dict_entries) / sizeof(dict_entries[0]))

static const char *keyword_of(const struct dict_entry *entry)
{
    return dict_keywords + entry->keyword;
}

static const struct dict_entry *find_tag(uint32_t tag)
{
    size_t low = 0, high = N_ENTRIES;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (dict_entries[middle].tag < tag) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < N_ENTRIES && dict_entries[low].tag == tag ? &dict_entries[low] : NULL;
}

static const struct dict_entry *find_keyword(const char *keyword)
{
    size_t low = 0, high = N_ENTRIES;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const struct dict_entry *entry = &dict_entries[dict_by_keyword[middle]];
        const int order = strcmp(keyword_of(entry), keyword);
        if (order == 0) {
            return entry;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

static bool parse_hex4(const char *s, uint32_t *ret)
{
    uint32_t value = 0;
    for (size_t i = 0; i < 4; i++) {
        const char c = s[i];
        uint32_t digit;
        if (c >= '0' && c <= '9') {
            digit = (uint32_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            digit = (uint32_t)(c - 'a') + 10;
        } else if (c >= 'A' && c <= 'F') {
            digit = (uint32_t)(c - 'A') + 10;
        } else {
            return false;
        }
        value = value << 4 | digit;
    }
    *ret = value;
    return true;
}

/* "gggg,eeee" or "(gggg,eeee)" */
static bool parse_hex_tag(const char *s, uint32_t *ret_tag)
{
    const size_t length = strlen(s);
    if (length == 11 && s[0] == '(' && s[10] == ')') {
        s++;
    } else if (length != 9) {
        return false;
    }
    uint32_t group, element;
    if (!parse_hex4(s, &group) || s[4] != ',' || !parse_hex4(s + 5, &element)) {
        return false;
    }
    *ret_tag = DICOM_TAG(group, element);
    return true;
}

bool dicom_dict_tag(const char *keyword, uint32_t *ret_tag)
{
    if (parse_hex_tag(keyword, ret_tag)) {
        return true;
    }
    const struct dict_entry *entry = find_keyword(keyword);
    if (entry == NULL) {
        return false;
    }
    *ret_tag = entry->tag;
    return true;
}

const char *dicom_dict_keyword(uint32_t tag)
{
    const struct dict_entry *entry = find_tag(tag);
    return entry != NULL ? keyword_of(entry) : NULL;
}

const char *dicom_dict_vr(uint32_t tag)
{
    const struct dict_entry *entry = find_tag(tag);
    return entry != NULL ? entry->vr : "UN";
}

static const char *all_keywords[N_ENTRIES];
static pthread_once_t all_keywords_once = PTHREAD_ONCE_INIT;

static void fill_all_keywords(void)
{
    for (size_t i = 0; i < N_ENTRIES; i++) {
        all_keywords[i] = keyword_of(&dict_entries[dict_by_keyword[i]]);
    }
}

const char *dicom_dict_closest(const char *keyword)
{
    pthread_once(&all_keywords_once, fill_all_keywords);
    return text_closest(keyword, all_keywords, N_ENTRIES);
}
