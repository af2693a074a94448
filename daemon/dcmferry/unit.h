/* The service's unit as systemd has loaded it: who it runs as, and what it lets it do. */
#ifndef DCMFERRY_UNIT_H
#define DCMFERRY_UNIT_H

#include <stdbool.h>
#include <stddef.h>

#define UNIT_STATE "/var/lib/dcmferry" /* StateDirectory of the unit we ship */

struct unit_words {
    char **items;
    size_t n;
};

struct unit {
    bool known; /* false: systemd is not there or does not know it; then as in the unit we ship */
    char *user;
    struct unit_words groups;      /* SupplementaryGroups= */
    struct unit_words writable;    /* ReadWritePaths= and the state folder */
    struct unit_words credentials; /* the names of those that it is handed */
    bool strict, private_tmp, home_read_only, home_hidden;
};

/* Asks systemctl, which blocks. What cannot be learnt, or kept for want of memory, is left out. */
void unit_load(struct unit *ret);
void unit_free(struct unit *u);

/* Appends a copy; NULL adds nothing. */
void unit_words_add(struct unit_words *w, const char *word);
bool unit_words_has(const struct unit_words *w, const char *word);
void unit_words_free(struct unit_words *w);

#endif
