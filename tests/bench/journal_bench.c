/* What the journal can do: journal_bench FOLDER [FILES]. Admits FILES (default 1,000,000) with 256
 * in flight, then claims and settles in the backlog, opens it again, and prints rates, latencies
 * and memory. The folder is made and left. */
#include "base/clock.h"
#include "journal/journal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IN_FLIGHT 256
#define ROUNDS    2000
#define CLAIM     8

static uv_loop_t loop;
static struct journal *journal;
static unsigned long files = 1000000, admitted, done;

struct slot {
    struct journal_admit admit;
    struct journal_new_delivery delivery;
    char path[128], sop[128], study[64], series[96];
};

static void die(const char *what, const struct err *e)
{
    fprintf(stderr, "%s: %s\n", what, e->text);
    exit(1);
}

static void next_admit(struct slot *s);

static void on_admitted(struct journal_op *op, int status, const struct err *e)
{
    if (status != 0)
        die("admit", e);
    done++;
    next_admit(op->ctx);
    if (done == files)
        uv_stop(&loop);
}

static void next_admit(struct slot *s)
{
    unsigned long n = admitted;

    if (n == files)
        return;
    admitted++;
    /* Studies of 300 instances in series of 100, as scanners name them. */
    snprintf(s->path, sizeof(s->path), "/srv/dicom/inbox/CT1/study%06lu/series%02lu/IM%06lu.dcm",
             n / 300, n / 100 % 3, n);
    snprintf(s->study, sizeof(s->study), "1.2.840.113619.2.55.3.2831868886.%lu.1476",
             1000000 + n / 300);
    snprintf(s->series, sizeof(s->series), "%s.%lu", s->study, n / 100 % 3);
    snprintf(s->sop, sizeof(s->sop), "%s.%lu", s->series, n % 100);
    s->delivery = (struct journal_new_delivery){"cloud", "ct", "Radiology/CT/2026-11/0012345", 0};
    s->admit = (struct journal_admit){
        .op = {.cb = on_admitted, .ctx = s},
        .watch = "/srv/dicom/inbox",
        .path = s->path,
        .size = 524288,
        .mtime_ns = 1764000000000000000 + (int64_t)n,
        .state = FILE_QUEUED,
        .sop_class_uid = "1.2.840.10008.5.1.4.1.1.2",
        .sop_instance_uid = s->sop,
        .study_instance_uid = s->study,
        .series_instance_uid = s->series,
        .transfer_syntax_uid = "1.2.840.10008.1.2.1",
        .deliveries = &s->delivery,
        .n_deliveries = 1,
    };
    journal_admit(journal, &s->admit);
}

static void on_op(struct journal_op *op, int status, const struct err *e)
{
    if (status != 0)
        die("operation", e);
    (*(unsigned *)op->ctx)--;
}

static void wait_for(const unsigned *open)
{
    while (*open > 0)
        uv_run(&loop, UV_RUN_ONCE);
}

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void print_rss(const char *when)
{
    char line[256];
    FILE *status = fopen("/proc/self/status", "re");

    if (status == NULL)
        return;
    while (fgets(line, sizeof(line), status) != NULL)
        if (strncmp(line, "VmRSS", 5) == 0 || strncmp(line, "VmHWM", 5) == 0)
            printf("%s: %s", when, line);
    fclose(status);
}

static void on_closed(int status, void *ctx)
{
    (void)ctx;
    printf("closed: %d\n", status);
}

static void open_journal(const char *folder)
{
    struct journal_options options = {.folder = folder};
    struct journal_opened opened;
    struct err e;
    uint64_t start = clock_monotonic_us();

    if (journal_open(&journal, &loop, &options, &opened, &e) != 0)
        die("open", &e);
    printf("open: %.1f ms, requeued %llu\n", (double)(clock_monotonic_us() - start) / 1e3,
           (unsigned long long)opened.requeued);
}

static void claim_and_settle(void)
{
    static uint64_t latencies[ROUNDS];
    uint64_t start = clock_monotonic_us();
    double seconds;

    for (int i = 0; i < ROUNDS; i++) {
        struct journal_settle settles[CLAIM] = {0};
        unsigned open = 1;
        struct journal_claim c = {
            .op = {.cb = on_op, .ctx = &open}, .destination = "cloud", .limit = CLAIM};
        uint64_t begin = clock_monotonic_us();

        journal_claim(journal, &c);
        wait_for(&open);
        latencies[i] = clock_monotonic_us() - begin;
        for (size_t k = 0; k < c.n; k++) {
            settles[k] =
                (struct journal_settle){.op = {.cb = on_op, .ctx = &open},
                                        .delivery_id = c.rows[k]->id,
                                        .state = DELIVERY_DELIVERED,
                                        .has_sha256 = true,
                                        .remote_id = "0c8c4a3e-8a57-4a43-a0ab-0d6f6ac0ffee",
                                        .bytes = 524288};
            open++;
            journal_settle(journal, &settles[k]);
            journal_delivery_row_free(c.rows[k]);
        }
        free(c.rows);
        wait_for(&open);
    }
    seconds = (double)(clock_monotonic_us() - start) / 1e6;
    qsort(latencies, ROUNDS, sizeof(latencies[0]), compare);
    printf("claim %d + settle %d, one after the other: %.0f deliveries/s; claim p50 %.2f ms, p99 "
           "%.2f ms\n",
           CLAIM, CLAIM, ROUNDS * CLAIM / seconds, (double)latencies[ROUNDS / 2] / 1e3,
           (double)latencies[ROUNDS * 99 / 100] / 1e3);
}

/* 256 settles in flight at a time: what a commit shared by many gives. */
static void claim_and_settle_many(void)
{
    uint64_t start = clock_monotonic_us();
    double seconds;
    size_t n = 0;

    for (int i = 0; i < 100; i++) {
        static struct journal_settle settles[256];
        unsigned open = 1;
        struct journal_claim c = {
            .op = {.cb = on_op, .ctx = &open}, .destination = "cloud", .limit = 256};

        journal_claim(journal, &c);
        wait_for(&open);
        for (size_t k = 0; k < c.n; k++) {
            settles[k] = (struct journal_settle){.op = {.cb = on_op, .ctx = &open},
                                                 .delivery_id = c.rows[k]->id,
                                                 .state = DELIVERY_DELIVERED,
                                                 .has_sha256 = true};
            open++;
            journal_settle(journal, &settles[k]);
            journal_delivery_row_free(c.rows[k]);
        }
        n += c.n;
        free(c.rows);
        wait_for(&open);
    }
    seconds = (double)(clock_monotonic_us() - start) / 1e6;
    printf("claim 256 + settle 256: %.0f deliveries/s\n", (double)n / seconds);
}

static void timed_list(void)
{
    unsigned open = 2;
    struct journal_list l = {.op = {.cb = on_op, .ctx = &open},
                             .file_state = -1,
                             .delivery_state = -1,
                             .problems = true,
                             .limit = 50};
    struct journal_counts counts = {.op = {.cb = on_op, .ctx = &open}};
    uint64_t start = clock_monotonic_us();

    journal_list(journal, &l);
    journal_counts(journal, &counts);
    wait_for(&open);
    printf("list of problems and counts: %.2f ms; queued %llu\n",
           (double)(clock_monotonic_us() - start) / 1e3,
           (unsigned long long)counts.deliveries[DELIVERY_QUEUED]);
    free(l.json);
}

int main(int argc, char **argv)
{
    static struct slot slots[IN_FLIGHT];
    uint64_t start;
    double seconds;

    if (argc < 2) {
        fprintf(stderr, "usage: %s FOLDER [FILES]\n", argv[0]);
        return 2;
    }
    if (argc > 2)
        files = strtoul(argv[2], NULL, 10);
    uv_loop_init(&loop);
    open_journal(argv[1]);
    start = clock_monotonic_us();
    for (int i = 0; i < IN_FLIGHT; i++)
        next_admit(&slots[i]);
    uv_run(&loop, UV_RUN_DEFAULT);
    seconds = (double)(clock_monotonic_us() - start) / 1e6;
    printf("admit, %d in flight: %.0f files/s\n", IN_FLIGHT, (double)files / seconds);
    print_rss("after the admits");
    claim_and_settle();
    claim_and_settle_many();
    timed_list();
    print_rss("after all");
    journal_close(journal, on_closed, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    open_journal(argv[1]);
    claim_and_settle();
    journal_close(journal, on_closed, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    print_rss("in the end");
    uv_loop_close(&loop);
    return 0;
}
