/* Deliveries to a real sandbox. */
#include "rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PART (512U * 1024)

static void test_one_file(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox(NULL);
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 4000, 1);
    f.delivery.folder = "Radiology/OT/2026";
    rig_deliver(&f);
    assert_verdict(&f, DEST_DELIVERED);
    assert_false(f.result.uncertain);
    assert_int_equal(f.result.bytes, f.delivery.size);
    assert_memory_equal(f.result.sha256, f.sha256, SOURCE_SHA256_SIZE);
    assert_true(f.result.remote_id[0]);
    assert_int_equal(rig_receipts(&f), 1);
    assert_true(rig_in_folder(RIG_STUDY, "Radiology/OT/2026"));
}

/* Parts over four connections, three of them in flight on each; bytes equal in the end. */
static void test_many_parts(void **state)
{
    static struct rig_file f[3];
    (void)state;
    rig_sandbox(NULL);
    rig_config.postdicom.pipeline = 3;
    rig_open();
    rig_make(&f[0], "a", RIG_STUDY, RIG_STUDY ".1.1", 20 * PART + 12345, 1);
    rig_make(&f[1], "b", RIG_STUDY, RIG_STUDY ".1.2", 3 * PART, 2);
    rig_make(&f[2], "c", RIG_STUDY, RIG_STUDY ".1.3", 100, 3);
    for (int i = 0; i < 3; i++)
        rig_send(&f[i]);
    rig_wait(f, 3);
    for (int i = 0; i < 3; i++) {
        assert_verdict(&f[i], DEST_DELIVERED);
        assert_memory_equal(f[i].result.sha256, f[i].sha256, SOURCE_SHA256_SIZE);
        assert_int_equal(rig_receipts(&f[i]), 1);
    }
    assert_int_equal(rig_orders(), 1);
}

/* As many as it takes, several studies, upload sessions that end after 7 files. */
static void test_many_files(void **state)
{
    enum { N = 200 };
    static struct rig_file f[N];
    char name[16], study[80], sop[100];
    unsigned sent = 0, done = 0;
    (void)state;
    rig_sandbox(NULL);
    rig_config.postdicom.session_files = 7;
    rig_open();
    for (unsigned i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        snprintf(study, sizeof(study), "%s.%u", RIG_STUDY, i % 3);
        snprintf(sop, sizeof(sop), "%s.1.%u", study, i + 1);
        rig_make(&f[i], name, study, sop, 3000 + i, i);
        f[i].delivery.folder = i % 3 == 0 ? "A/B" : i % 3 == 1 ? "A/C" : "";
    }
    assert_true(dest_capacity(rig_dest) >= 8);
    while (done < N) {
        while (sent < N && dest_capacity(rig_dest) > 0)
            rig_send(&f[sent++]);
        uv_run(&rig_loop, UV_RUN_ONCE);
        done = 0;
        for (unsigned i = 0; i < sent; i++)
            done += f[i].done;
    }
    for (unsigned i = 0; i < N; i++) {
        assert_verdict(&f[i], DEST_DELIVERED);
        assert_int_equal(f[i].done, 1);
    }
    assert_int_equal(rig_orders(), 3);
    assert_true(rig_in_folder(RIG_STUDY ".0", "A/B"));
    assert_true(rig_in_folder(RIG_STUDY ".1", "A/C"));
    assert_int_equal(rig_receipts(&f[0]), 1);
    assert_int_equal(rig_receipts(&f[N - 1]), 1);
}

/* ---- duplicates ---- */

static void as_sibling(struct rig_file *f, const struct rig_file *first)
{
    f->delivery.has_sibling = true;
    memcpy(f->delivery.sibling_sha256, first->result.sha256, SOURCE_SHA256_SIZE);
    f->delivery.sibling_folder = first->delivery.folder;
    f->delivery.sibling_remote_id = first->result.remote_id;
}

static void duplicates(size_t size)
{
    struct rig_file first, same, moved, other, nameless;
    rig_make(&first, "first", RIG_STUDY, RIG_STUDY ".1.1", size, 1);
    first.delivery.folder = "A";
    rig_deliver(&first);
    assert_verdict(&first, DEST_DELIVERED);

    rig_make(&same, "same", RIG_STUDY, RIG_STUDY ".1.1", size, 1);
    same.delivery.folder = "A";
    as_sibling(&same, &first);
    rig_deliver(&same);
    assert_verdict(&same, DEST_DUPLICATE);
    assert_memory_equal(same.result.sha256, same.sha256, SOURCE_SHA256_SIZE);
    assert_int_equal(same.result.bytes, 0);

    rig_make(&moved, "moved", RIG_STUDY, RIG_STUDY ".1.1", size, 1);
    moved.delivery.folder = "B/C";
    as_sibling(&moved, &first);
    rig_deliver(&moved);
    assert_verdict(&moved, DEST_DUPLICATE);
    assert_string_equal(moved.result.remote_id, first.result.remote_id);
    assert_true(rig_in_folder(RIG_STUDY, "A"));
    assert_true(rig_in_folder(RIG_STUDY, "B/C"));
    assert_int_equal(rig_receipts(&first), 1);

    /* Which order the sibling went into is not known: the server is asked. */
    rig_make(&nameless, "nameless", RIG_STUDY, RIG_STUDY ".1.1", size, 1);
    nameless.delivery.folder = "D";
    as_sibling(&nameless, &first);
    nameless.delivery.sibling_remote_id = "";
    rig_deliver(&nameless);
    assert_verdict(&nameless, DEST_DELIVERED);
    assert_true(rig_in_folder(RIG_STUDY, "D"));
    assert_int_equal(rig_receipts(&first), 1);
    assert_memory_equal(nameless.result.sha256, nameless.sha256, SOURCE_SHA256_SIZE);

    rig_make(&other, "other", RIG_STUDY, RIG_STUDY ".1.1", size, 99);
    as_sibling(&other, &first);
    rig_deliver(&other);
    assert_verdict(&other, DEST_CONFLICT);
    assert_int_equal(rig_receipts(&first), 1);

    other.delivery.send_anyway = true;
    rig_deliver(&other);
    assert_verdict(&other, DEST_DELIVERED);
    assert_int_equal(rig_receipts(&other), 1);
}

static void test_duplicates(void **state)
{
    (void)state;
    rig_sandbox(NULL);
    rig_open();
    duplicates(1000);
}

static void test_duplicates_large(void **state)
{
    (void)state;
    rig_sandbox(NULL);
    rig_open();
    duplicates(3 * PART + 7);
}

/* ---- the source ---- */

static void test_source_gone(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox(NULL);
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    remove(f.path);
    rig_deliver(&f);
    assert_verdict(&f, DEST_VANISHED);
    assert_int_equal(rig_orders(), 0);
}

static void test_source_changed(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox(NULL);
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    f.delivery.mtime_ns--;
    rig_deliver(&f);
    assert_verdict(&f, DEST_CHANGED);
    assert_false(f.result.uncertain);
    assert_int_equal(rig_orders(), 0);
}

/* Another file takes its place while it is on its way. */
static void test_source_changes_while_sent(void **state)
{
    struct rig_file f, other;
    char path[256];
    (void)state;
    rig_sandbox("--fault", "answer-late=500:on=part", NULL);
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_send(&f);
    rig_run_ms(300);
    rig_make(&other, "b", RIG_STUDY, RIG_STUDY ".1.1", 1200, 2);
    snprintf(path, sizeof(path), "%s", f.path);
    assert_int_equal(rename(other.path, path), 0);
    rig_wait(&f, 1);
    assert_verdict(&f, DEST_CHANGED);
    assert_true(f.result.uncertain);
}

/* ---- trouble ---- */

static void test_uncertain_is_asked(void **state)
{
    struct rig_file f, big;
    (void)state;
    rig_sandbox(NULL);
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_deliver(&f);
    assert_verdict(&f, DEST_DELIVERED);
    /* Sent once, not recorded, and into another folder: asked for, not sent, and filed. */
    f.delivery.uncertain = true;
    f.delivery.folder = "Late";
    rig_deliver(&f);
    assert_verdict(&f, DEST_DELIVERED);
    assert_int_equal(rig_receipts(&f), 1);
    assert_true(rig_in_folder(RIG_STUDY, "Late"));
    /* Of several parts it proves nothing. */
    rig_make(&big, "b", RIG_STUDY, RIG_STUDY ".1.2", 2 * PART, 1);
    rig_deliver(&big);
    big.delivery.uncertain = true;
    rig_deliver(&big);
    assert_verdict(&big, DEST_DELIVERED);
    assert_int_equal(rig_receipts(&big), 2);
}

/* The answer to a file of one part is lost, whether it arrived or not: it is stored once. */
static void test_lost_answer(void **state)
{
    static const char *const faults[] = {"[\"never-answer=1:on=part:times=1\"]",
                                         "[\"lose-request=1:on=part:times=1\"]",
                                         "[\"garbage-answer=1:on=part:times=1\"]"};
    struct rig_file f, first;
    char name[16], sop[80];
    (void)state;
    rig_sandbox(NULL);
    rig_config.idle_timeout_ms = 1000;
    rig_open();
    /* Orders are known to be in their folder from then on. */
    rig_make(&first, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    first.delivery.folder = "A";
    rig_deliver(&first);
    assert_verdict(&first, DEST_DELIVERED);
    for (unsigned i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "b%u", i);
        snprintf(sop, sizeof(sop), "%s.1.%u", RIG_STUDY, i + 2);
        rig_make(&f, name, RIG_STUDY, sop, 1000, i);
        f.delivery.folder = i == 0 ? "B" : "A";
        rig_faults(faults[i]);
        rig_deliver(&f);
        assert_verdict(&f, DEST_DELIVERED);
        assert_int_equal(f.result.bytes, f.delivery.size);
        assert_int_equal(rig_receipts(&f), 1);
        assert_true(rig_in_folder(RIG_STUDY, f.delivery.folder));
    }
    /* Of several parts the one is sent again, which makes no second file either. */
    rig_make(&f, "c", RIG_STUDY, RIG_STUDY ".1.9", 3 * PART, 1);
    rig_faults(faults[0]);
    rig_deliver(&f);
    assert_verdict(&f, DEST_DELIVERED);
    assert_int_equal(rig_receipts(&f), 1);
}

static void test_never_asked(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox(NULL);
    rig_config.postdicom.check_existing = CONFIG_CHECK_NEVER;
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_deliver(&f);
    f.delivery.uncertain = true;
    rig_deliver(&f);
    assert_verdict(&f, DEST_DELIVERED);
    assert_int_equal(rig_receipts(&f), 2);
}

/* Whatever strikes a few times, all files are there in the end, whole. */
static void survive(const char *fault, const char *assumption, unsigned tries)
{
    enum { N = 6 };
    static struct rig_file f[N];
    static const size_t sizes[N] = {1000, 3 * PART + 5, 2000, 500, 2 * PART, 3000};
    char name[16], sop[80];
    unsigned left = N;
    rig_sandbox("--fault", fault, assumption, NULL);
    rig_config.idle_timeout_ms = 2000;
    rig_open();
    for (unsigned i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        snprintf(sop, sizeof(sop), "%s.1.%u", RIG_STUDY, i + 1);
        rig_make(&f[i], name, RIG_STUDY, sop, sizes[i], i);
        f[i].delivery.folder = "A/B";
    }
    for (unsigned try = 0; left > 0 && try < tries; try++) {
        for (unsigned i = 0; i < N; i++) {
            if (f[i].result.verdict == DEST_DELIVERED && f[i].done)
                continue;
            while (dest_capacity(rig_dest) == 0)
                uv_run(&rig_loop, UV_RUN_ONCE);
            rig_send(&f[i]);
        }
        rig_wait(f, N);
        left = 0;
        for (unsigned i = 0; i < N; i++) {
            if (f[i].result.verdict == DEST_DELIVERED)
                continue;
            if (f[i].result.verdict != DEST_RETRY)
                fail_msg("verdict %d: %s", (int)f[i].result.verdict, f[i].result.err.text);
            f[i].delivery.uncertain = f[i].delivery.uncertain || f[i].result.uncertain;
            left++;
        }
    }
    assert_int_equal(left, 0);
    for (unsigned i = 0; i < N; i++) {
        if (rig_receipts(&f[i]) < 1)
            fail_msg("file %u is not there as it was sent", i);
    }
    assert_true(rig_in_folder(RIG_STUDY, "A/B"));
}

#define SURVIVE(name, ...)                                                                         \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        survive(__VA_ARGS__);                                                                      \
    }
SURVIVE(drop_after, "drop-after=4:times=5", NULL, 3)
SURVIVE(drop_before, "drop-before=4:times=5", NULL, 3)
SURVIVE(never_answer, "never-answer=5:times=2", NULL, 3)
SURVIVE(lose_request, "lose-request=5:times=2", NULL, 3)
SURVIVE(garbage, "garbage-answer=6:times=3", NULL, 3)
SURVIVE(text_answer, "text-answer=6:times=1", NULL, 3)
SURVIVE(answer_error, "answer-error=7:times=2", NULL, 4)
SURVIVE(forget, "forget-session=9:times=2", NULL, 4)
SURVIVE(forget_close, "forget-session=9:times=2", "--assume-session-lost=close", 5)
SURVIVE(displaced, "displace=12:times=1", NULL, 5)
SURVIVE(parts_lost, "drop-after=4:times=3", "--assume-parts-survive=no", 4)
SURVIVE(repeat_refused, "drop-after=4:times=3", "--assume-repeated-part=refuse", 4)

/* Sessions that are lost soon make us wait, but not longer and longer as long as files arrive. */
static void test_lost_with_progress(void **state)
{
    struct rig_file f;
    struct dest_status status;
    char name[16], sop[80];
    unsigned holds = 0;
    bool held = false;
    (void)state;
    rig_sandbox("--fault", "forget-session=7", NULL);
    rig_config.postdicom.connections = 1;
    rig_config.retry_max_ms = 1000;
    rig_open();
    for (unsigned i = 0; holds < 4; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        snprintf(sop, sizeof(sop), "%s.1.%u", RIG_STUDY, i + 1);
        rig_make(&f, name, RIG_STUDY, sop, 1000, i);
        do {
            while (dest_capacity(rig_dest) == 0) {
                dest_get_status(rig_dest, &status);
                if (!held && status.last_error.code == ERR_DISPLACED) {
                    held = true;
                    holds++;
                    assert_in_range(status.next_probe_ms, 0, 2000);
                }
                uv_run(&rig_loop, UV_RUN_ONCE);
            }
            held = false;
            rig_deliver(&f);
        } while (f.result.verdict == DEST_RETRY);
        assert_verdict(&f, DEST_DELIVERED);
    }
}

/* The connections go, the server comes back. */
static void test_server_restarts(void **state)
{
    struct rig_file f[2];
    (void)state;
    rig_sandbox(NULL);
    rig_open();
    rig_make(&f[0], "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_deliver(&f[0]);
    assert_verdict(&f[0], DEST_DELIVERED);
    rig_sandbox_kill();
    rig_make(&f[1], "b", RIG_STUDY, RIG_STUDY ".1.2", 1000, 2);
    rig_deliver(&f[1]);
    assert_verdict(&f[1], DEST_RETRY);
    assert_false(f[1].result.uncertain);
    rig_sandbox(NULL);
    for (int i = 0; i < 20 && f[1].result.verdict == DEST_RETRY; i++) {
        while (dest_capacity(rig_dest) == 0)
            uv_run(&rig_loop, UV_RUN_ONCE);
        rig_deliver(&f[1]);
    }
    assert_verdict(&f[1], DEST_DELIVERED);
    assert_int_equal(rig_receipts(&f[0]), 1);
    assert_int_equal(rig_receipts(&f[1]), 1);
}

/* Nothing answers any more: an idle time-out, not one of the whole exchange. */
static void test_server_hangs(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox(NULL);
    rig_config.idle_timeout_ms = 500;
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_deliver(&f);
    rig_sandbox_hang(true);
    f.delivery.send_anyway = true;
    rig_deliver(&f);
    rig_sandbox_hang(false);
    assert_verdict(&f, DEST_RETRY);
    assert_true(f.result.uncertain);
}

static void test_breaker(void **state)
{
    struct rig_file f;
    struct dest_status status;
    (void)state;
    rig_sandbox(NULL);
    rig_open();
    rig_sandbox_kill();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    for (int i = 0; i < 3; i++) {
        assert_true(dest_capacity(rig_dest) > 1);
        rig_deliver(&f);
        assert_verdict(&f, DEST_RETRY);
    }
    dest_get_status(rig_dest, &status);
    assert_int_equal(status.health, DEST_BROKEN);
    assert_true(status.last_error.text[0]);
    assert_int_equal(dest_capacity(rig_dest), 0);
    dest_poke(rig_dest);
    assert_int_equal(dest_capacity(rig_dest), 1);
    rig_send(&f);
    assert_int_equal(dest_capacity(rig_dest), 0); /* one probe at a time */
    rig_wait(&f, 1);
    rig_sandbox(NULL);
    dest_poke(rig_dest);
    rig_deliver(&f);
    assert_verdict(&f, DEST_DELIVERED);
    dest_get_status(rig_dest, &status);
    assert_int_equal(status.health, DEST_HEALTHY);
    assert_true(dest_capacity(rig_dest) > 1);
}

/* A refused key stops the destination; the one that replaces it is read. */
static void test_keys_replaced(void **state)
{
    struct rig_file f;
    struct dest_status status;
    char path[128];
    (void)state;
    rig_sandbox(NULL);
    snprintf(path, sizeof(path), "%s/key", rig_folder);
    rig_config.postdicom.api_key = (struct secret){SECRET_FILE, path};
    FILE *key = fopen(path, "we");
    fputs("cccccccc-3333-4333-8333-333333333333\n", key);
    fclose(key);
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_deliver(&f);
    assert_verdict(&f, DEST_RETRY);
    assert_int_equal(f.result.err.code, ERR_AUTH);
    assert_null(strstr(f.result.err.text, "cccccccc"));
    dest_get_status(rig_dest, &status);
    assert_int_equal(status.health, DEST_AUTH_FAILED);
    assert_int_equal(dest_capacity(rig_dest), 0);
    key = fopen(path, "we");
    fputs(RIG_API_KEY "\n", key);
    fclose(key);
    while (dest_capacity(rig_dest) == 0) /* the slow probe */
        uv_run(&rig_loop, UV_RUN_ONCE);
    rig_deliver(&f);
    assert_verdict(&f, DEST_DELIVERED);
}

static void test_user_unknown(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox(NULL);
    rig_config.postdicom.institution = (char *)"Elsewhere";
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_deliver(&f);
    assert_verdict(&f, DEST_RETRY);
    assert_int_equal(f.result.err.code, ERR_AUTH);
    assert_non_null(strstr(f.result.err.text, "institution"));
}

/* A second delivery of an instance that is on its way comes back: nobody knows yet what it is to be
 * compared with. */
static void test_same_instance(void **state)
{
    struct rig_file f, other;
    (void)state;
    rig_sandbox("--fault", "answer-late=500:on=part", NULL);
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_make(&other, "b", RIG_STUDY, RIG_STUDY ".1.1", 1000, 2);
    rig_send(&f);
    rig_send(&other);
    rig_wait(&other, 1);
    assert_verdict(&other, DEST_RETRY);
    assert_int_equal(f.done, 0);
    assert_false(other.result.uncertain);
    rig_wait(&f, 1);
    assert_verdict(&f, DEST_DELIVERED);
    assert_int_equal(rig_receipts(&f), 1);
    rig_deliver(&other); /* it is free again */
    assert_verdict(&other, DEST_DELIVERED);
}

/* What is not DICOM is refused. That may pass, for all we know: it is given up when it was refused
 * for long while others were taken. */
static void test_refused(void **state)
{
    struct rig_file f, good;
    (void)state;
    rig_sandbox(NULL);
    rig_config.retry_max_ms = 300;
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    f.delivery.id = 1;
    FILE *out = fopen(f.path, "r+e");
    for (int i = 0; i < 400; i++)
        fputc('x', out);
    fclose(out);
    struct stat st;
    assert_int_equal(stat(f.path, &st), 0);
    f.delivery.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    for (int i = 0; i < 10; i++) {
        rig_deliver(&f);
        assert_verdict(&f, DEST_RETRY);
        assert_int_equal(f.result.err.code, ERR_REFUSED);
        assert_false(f.result.uncertain);
        assert_int_equal(dest_capacity(rig_dest) == 1, i >= 3); /* one at a time by then */
        rig_run_ms(50);
    }
    rig_make(&good, "b", RIG_STUDY, RIG_STUDY ".1.2", 1000, 1);
    good.delivery.id = 2;
    rig_deliver(&good);
    assert_verdict(&good, DEST_DELIVERED);
    assert_true(dest_capacity(rig_dest) > 1);
    rig_deliver(&f);
    assert_verdict(&f, DEST_FAILED);
    assert_int_equal(f.result.err.code, ERR_REFUSED);
}

/* ---- closing ---- */

static void test_close(void **state)
{
    static struct rig_file f[20];
    char name[16], sop[80];
    unsigned delivered = 0;
    (void)state;
    rig_sandbox("--fault", "answer-late=400:on=part", NULL);
    rig_open();
    for (unsigned i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        snprintf(sop, sizeof(sop), "%s.1.%u", RIG_STUDY, i + 1);
        rig_make(&f[i], name, RIG_STUDY, sop, 1000, i);
        rig_send(&f[i]);
    }
    rig_run_ms(200);
    rig_close(20000);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(f[i].done, 1);
        if (f[i].result.verdict == DEST_DELIVERED)
            delivered++;
        else
            assert_verdict(&f[i], DEST_ABANDONED);
    }
    assert_true(delivered > 0); /* those begun may finish */
    for (unsigned i = 0; i < 20; i++)
        if (f[i].result.verdict == DEST_DELIVERED)
            assert_int_equal(rig_receipts(&f[i]), 1);
}

static void test_close_deadline(void **state)
{
    static struct rig_file f[2];
    (void)state;
    rig_sandbox("--fault", "answer-late=30000:on=part", NULL);
    rig_open();
    rig_make(&f[0], "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_make(&f[1], "b", RIG_STUDY, RIG_STUDY ".1.2", 4 * PART, 1);
    rig_send(&f[0]);
    rig_send(&f[1]);
    rig_run_ms(500);
    rig_close(200);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(f[i].done, 1);
        assert_verdict(&f[i], DEST_ABANDONED);
        assert_true(f[i].result.uncertain);
    }
}

/* Only what a connection carried is in doubt: what waited for one is taken back. */
static void test_close_waiting(void **state)
{
    static struct rig_file f[8];
    char name[16], sop[80];
    unsigned uncertain = 0;
    (void)state;
    rig_sandbox("--fault", "never-answer=1:on=part", NULL);
    rig_config.postdicom.connections = 1;
    rig_open();
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        snprintf(sop, sizeof(sop), "%s.1.%u", RIG_STUDY, i + 1);
        rig_make(&f[i], name, RIG_STUDY, sop, i == 7 ? 3 * PART : 1000, i);
        rig_send(&f[i]);
    }
    rig_run_ms(700);
    rig_close(300);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(f[i].done, 1);
        assert_verdict(&f[i], DEST_ABANDONED);
        uncertain += f[i].result.uncertain;
        assert_int_equal(rig_receipts(&f[i]), f[i].result.uncertain ? 1 : 0);
    }
    assert_int_equal(uncertain, 1);
}

static bool closed_within;

static void on_closed_within(void *ctx)
{
    (void)ctx;
    closed_within = true;
}

static void close_within(void)
{
    struct dest *d = rig_dest;
    rig_dest = NULL;
    if (d)
        dest_close(d, 0, on_closed_within, NULL);
}

/* Closed by who hears of a result, in the middle of a refusal, of a lost server, of a success. */
static void test_close_within(void **state)
{
    static struct rig_file f[12];
    char name[16], sop[80];
    (void)state;
    rig_sandbox(NULL);
    rig_on_done = close_within;
    for (int how = 0; how < 3; how++) {
        closed_within = false;
        if (how == 1)
            rig_faults("[\"answer-error=1:on=upload\"]");
        if (how == 2)
            rig_sandbox_kill();
        rig_open();
        for (unsigned i = 0; i < 12; i++) {
            snprintf(name, sizeof(name), "f%d-%u", how, i);
            snprintf(sop, sizeof(sop), "%s.1.%u", RIG_STUDY, i + 1);
            rig_make(&f[i], name, RIG_STUDY, sop, i == 0 ? 4 * PART : 1000, i);
            f[i].delivery.folder = "A/B";
            rig_send(&f[i]);
        }
        rig_wait(f, 12);
        while (!closed_within)
            uv_run(&rig_loop, UV_RUN_ONCE);
        for (unsigned i = 0; i < 12; i++)
            assert_int_equal(f[i].done, 1);
    }
}

static void test_close_at_once(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox(NULL);
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_send(&f);
    rig_close(1000);
    assert_int_equal(f.done, 1);
    assert_verdict(&f, DEST_ABANDONED);
    assert_false(f.result.uncertain);
}

/* ---- limits ---- */

static void test_rate_limit(void **state)
{
    struct rig_file f;
    (void)state;
    rig_sandbox(NULL);
    rig_config.rate_limit = 2 * 1024 * 1024;
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 6 * PART, 1);
    uint64_t start = uv_hrtime();
    rig_deliver(&f);
    assert_verdict(&f, DEST_DELIVERED);
    /* 3 MiB at 2 MiB a second, less the first burst and the part that may overdraw it. */
    assert_true((uv_hrtime() - start) / 1000000 >= 900);
}

/* Memory does not grow with the file. */
static void test_large(void **state)
{
    const size_t size = (size_t)300 << 20;
    struct rig_file f;
    struct rusage before, after;
    struct stat st;
    (void)state;
    rig_sandbox("--discard", NULL);
    rig_open();
    rig_make(&f, "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    assert_int_equal(truncate(f.path, (off_t)size), 0);
    assert_int_equal(stat(f.path, &st), 0);
    f.delivery.size = size;
    f.delivery.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    getrusage(RUSAGE_SELF, &before);
    rig_deliver(&f);
    getrusage(RUSAGE_SELF, &after);
    assert_verdict(&f, DEST_DELIVERED);
    assert_int_equal(f.result.bytes, size);
#ifndef __SANITIZE_ADDRESS__
    assert_true(after.ru_maxrss - before.ru_maxrss < 32 * 1024);
#endif
}

/* The server's idle close is no failure, and ours neither. */
static void test_idle(void **state)
{
    struct rig_file f[2];
    (void)state;
    rig_sandbox("--assume-idle-close=1", NULL);
    rig_config.idle_close_ms = 300;
    rig_open();
    rig_make(&f[0], "a", RIG_STUDY, RIG_STUDY ".1.1", 1000, 1);
    rig_make(&f[1], "b", RIG_STUDY, RIG_STUDY ".1.2", 1000, 1);
    rig_deliver(&f[0]);
    rig_run_ms(1000);
    rig_deliver(&f[1]);
    assert_verdict(&f[1], DEST_DELIVERED);
    rig_close(1000);
    rig_config.idle_close_ms = 60000;
    rig_open();
    rig_deliver(&f[0]);
    rig_run_ms(2500);
    rig_deliver(&f[1]);
    assert_verdict(&f[1], DEST_DELIVERED);
}

/* ---- room for another client ---- */

static void test_pause(void **state)
{
    struct rig_file f[2];
    struct dest_status status;
    (void)state;
    rig_sandbox("--assume-displace=close", NULL);
    rig_open();
    rig_make(&f[0], "a", RIG_STUDY, RIG_STUDY ".1.1", 3 * 512 * 1024, 1);
    rig_make(&f[1], "b", RIG_STUDY, RIG_STUDY ".1.2", 1000, 2);
    assert_false(dest_pause(rig_dest, 0)); /* of what is not paused */
    rig_send(&f[0]);
    assert_false(dest_pause(rig_dest, 60000)); /* what is under way is finished first */
    assert_int_equal(dest_capacity(rig_dest), 0);
    rig_wait(f, 1);
    assert_verdict(&f[0], DEST_DELIVERED);
    assert_true(dest_pause(rig_dest, 60000));
    assert_int_equal(dest_capacity(rig_dest), 0);
    dest_get_status(rig_dest, &status);
    assert_true(status.paused && status.health == DEST_HEALTHY);
    dest_pause(rig_dest, 0);
    assert_true(dest_capacity(rig_dest) > 0);
    rig_deliver(&f[1]);
    assert_verdict(&f[1], DEST_DELIVERED);
    /* Who asked for it may have died. */
    assert_true(dest_pause(rig_dest, 200));
    while (dest_capacity(rig_dest) == 0)
        uv_run(&rig_loop, UV_RUN_ONCE);
    dest_get_status(rig_dest, &status);
    assert_false(status.paused);
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, rig_setup, rig_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(one_file),           T(many_parts),    T(many_files),     T(duplicates),
        T(duplicates_large),   T(source_gone),   T(source_changed), T(source_changes_while_sent),
        T(uncertain_is_asked), T(lost_answer),   T(never_asked),    T(drop_after),
        T(drop_before),        T(never_answer),  T(lose_request),   T(garbage),
        T(text_answer),        T(answer_error),  T(forget),         T(forget_close),
        T(displaced),          T(parts_lost),    T(repeat_refused), T(lost_with_progress),
        T(server_restarts),    T(server_hangs),  T(breaker),        T(keys_replaced),
        T(user_unknown),       T(same_instance), T(refused),        T(close),
        T(close_deadline),     T(close_waiting), T(close_within),   T(close_at_once),
        T(rate_limit),         T(large),         T(idle),           T(pause),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
