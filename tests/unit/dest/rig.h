/* A real dcmferry-sandbox, DICOM files, and a destination that sends them there. */
#ifndef TEST_DEST_RIG_H
#define TEST_DEST_RIG_H

#include "dest/dest.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#define RIG_ACCOUNT_KEY "aaaaaaaa-1111-4111-8111-111111111111"
#define RIG_API_KEY     "bbbbbbbb-2222-4222-8222-222222222222"
#define RIG_STUDY       "1.2.826.0.1.3680043.10.999.7"

/* One delivery with its file and its result. */
struct rig_file {
    struct dest_delivery delivery;
    char path[256], sop[65], study[65];
    uint8_t sha256[SOURCE_SHA256_SIZE];
    struct dest_result result;
    unsigned done; /* how often cb came */
};

/* cmocka's setup and teardown of each test: folder, loop, job queue, DICOM reader; all of it must
 * be gone at the end. */
int rig_setup(void **state);
int rig_teardown(void **state);

extern uv_loop_t rig_loop;
extern char rig_folder[];

/* Starts the sandbox; options end with NULL. Started again, it has the same port and state. */
void rig_sandbox(const char *option, ...);
void rig_sandbox_kill(void);
/* Stops it without killing it: it hangs. */
void rig_sandbox_hang(bool hang);
/* Sets its faults from here on: a JSON list of texts. */
void rig_faults(const char *json);
/* What it holds. */
cJSON *rig_tree(void);
/* Receipts of an instance; 0 if it is not there, -1 if its current bytes are others. */
int rig_receipts(const struct rig_file *f);
/* Whether the order of the file's study is in the folder. */
bool rig_in_folder(const char *study, const char *folder);
unsigned rig_orders(void);

/* The configuration that rig_open uses; change it before. */
extern struct config_destination rig_config;
void rig_open(void);
extern struct dest *rig_dest;
/* Called after each result, from within the delivery's callback; NULL: nothing. */
extern void (*rig_on_done)(void);
void rig_close(uint64_t deadline_ms);

/* Writes a DICOM file of about `size` bytes whose pixels depend on `seed`, and a delivery of it. */
void rig_make(struct rig_file *f, const char *name, const char *study, const char *sop, size_t size,
              unsigned seed);
void rig_send(struct rig_file *f);
/* Runs the loop until `n` files are done; fails the test after 60 s. */
void rig_wait(struct rig_file *files, size_t n);
/* Sends and waits. */
void rig_deliver(struct rig_file *f);
void rig_run_ms(uint64_t ms);

#define assert_verdict(f, v)                                                                       \
    do {                                                                                           \
        if ((f)->result.verdict != (v))                                                            \
            fail_msg("verdict %d in place of %d: %s", (int)(f)->result.verdict, (int)(v),          \
                     (f)->result.err.text);                                                        \
    } while (0)

#endif
