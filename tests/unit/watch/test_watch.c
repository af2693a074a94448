/* Real folders, real events. */
#include "harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    if (r == NULL)
        return -1;
    rig_init(r);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    rig_end(r);
    free(r);
    return 0;
}

static void open_quiet(struct rig *r)
{
    rig_open(r);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_SCAN_DONE] == 1 && rig_quiet(r));
}

static void offers_what_stands_there_at_start(void **state)
{
    struct rig *r = *state;
    make(r, "a");
    make(r, "a/b");
    put(r, "one", "1");
    put(r, "a/two", "22");
    put(r, "a/b/three", "333");
    rig_open(r);
    assert_int_equal(r->n, 0); /* callbacks come from the loop only */
    RUN_UNTIL(r, r->n == 3 && rig_quiet(r));
    assert_int_equal(rig_last(r, "a/b/three")->size, 3);
    assert_int_equal(rig_count(r, "one"), 1);
    assert_int_equal(rig_count(r, "a/two"), 1);
    assert_int_equal(r->notices[WATCH_NOTICE_SCAN_DONE], 1);
    assert_string_equal(watch_path(r->w), r->root);
}

static void set_aside_file_is_put_back_after_a_crash(void **state)
{
    struct rig *r = *state;
    make(r, "a");
    put(r, ".dcmferry-leaving.one", "1");
    put(r, "a/.dcmferry-leaving.two", "22");
    put(r, "a/two", "new");
    usleep(20000); /* the file system's clock is a coarse one */
    rig_open(r);
    RUN_UNTIL(r, r->n == 3 && rig_quiet(r));
    assert_int_equal(rig_last(r, "one")->size, 1);
    assert_int_equal(rig_last(r, "a/two")->size, 3);
    assert_int_equal(rig_last(r, "a/two~1")->size, 2);
    /* One that is set aside now is being seen to. */
    put(r, ".dcmferry-leaving.three", "333");
    watch_rescan(r->w);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_SCAN_DONE] == 2 && rig_quiet(r));
    assert_int_equal(rig_count(r, "three"), 0);
}

static void closed_file_is_offered_at_once(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 60000;
    open_quiet(r);
    put(r, "x", "data");
    RUN_UNTIL(r, r->n == 1);
    assert_int_equal(rig_last(r, "x")->size, 4);
    put(r, "x", "other data");
    RUN_UNTIL(r, r->n == 2);
    assert_int_equal(rig_last(r, "x")->size, 10);
}

static void renamed_into_place_is_offered_at_once(void **state)
{
    struct rig *r = *state;
    const char *exclude[] = {"*.tmp"};
    r->o.exclude = exclude;
    r->o.n_exclude = 1;
    r->o.settle_ms = 60000;
    open_quiet(r);
    put(r, "x.TMP", "data");
    put(r, ".hidden", "data");
    shift(r, "x.TMP", "x");
    shift(r, ".hidden", "y");
    RUN_UNTIL(r, r->n == 2);
    assert_int_equal(rig_count(r, "x"), 1);
    assert_int_equal(rig_count(r, "y"), 1);
}

static void empty_file_waits_for_settle(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 1000;
    open_quiet(r);
    uint64_t start = uv_hrtime() / 1000000;
    put(r, "x", "");
    RUN_UNTIL(r, watch_settling(r->w) == 1);
    put(r, "y", "");
    put(r, "y", "filled");
    RUN_UNTIL(r, r->n == 2);
    assert_int_equal(rig_last(r, "y")->size, 6);
    assert_int_equal(rig_count(r, "y"), 1);
    assert_true(rig_last(r, "x")->at_ms - start >= 990);
}

static void linked_file_is_offered(void **state)
{
    struct rig *r = *state;
    put(r, ".temporary", "data");
    open_quiet(r);
    rig_run_ms(
        r, 50); /* link(2) in the same clock tick as the last write cannot be told from a write */
    char from[128], to[128];
    full(r, ".temporary", from, sizeof from);
    full(r, "x", to, sizeof to);
    assert_int_equal(link(from, to), 0);
    assert_int_equal(unlink(from), 0);
    RUN_UNTIL(r, r->n == 1);
    assert_int_equal(rig_count(r, "x"), 1);
}

static void file_being_written_is_left_alone(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 50;
    open_quiet(r);
    char path[128];
    full(r, "x", path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    rig_run_ms(r, 300);
    assert_int_equal(write(fd, "12345", 5), 5);
    rig_run_ms(r, 300);
    assert_int_equal(r->n, 0);
    close(fd);
    RUN_UNTIL(r, r->n == 1);
    assert_int_equal(rig_last(r, "x")->size, 5);
}

static void moved_in_tree_is_walked(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 0;
    char outside[80];
    snprintf(outside, sizeof outside, "%s.outside", r->root);
    assert_int_equal(mkdir(outside, 0755), 0);
    open_quiet(r);
    char path[256];
    snprintf(path, sizeof path, "%s/sub", outside);
    assert_int_equal(mkdir(path, 0755), 0);
    for (int i = 0; i < 300; i++) {
        snprintf(path, sizeof path, "%s/sub/%d", outside, i);
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        assert_int_equal(write(fd, "x", 1), 1);
        close(fd);
    }
    full(r, "in", path, sizeof path);
    assert_int_equal(rename(outside, path), 0);
    RUN_UNTIL(r, rig_distinct(r) == 300);
    rig_forget(r);
    put(r, "in/sub/later", "x"); /* and watched from now on */
    RUN_UNTIL(r, r->n == 1);
    assert_int_equal(rig_count(r, "in/sub/later"), 1);
}

static void renamed_folder_keeps_right_paths(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 60000;
    make(r, "a");
    make(r, "a/b");
    make(r, "a/b/c");
    open_quiet(r);
    shift(r, "a", "z");
    put(r, "z/b/c/soon", "x");
    RUN_UNTIL(r, rig_removed(r, "a") && rig_quiet(r) + watch_settling(r->w) + r->n > 0);
    assert_int_equal(r->notice_n[WATCH_NOTICE_REMOVED], 1);
    RUN_UNTIL(r, watch_idle(r->w));
    put(r, "z/b/c/later", "x");
    RUN_UNTIL(r, rig_count(r, "z/b/c/later") == 1);
    shift(r, "z/b/c", "c2");
    RUN_UNTIL(r, rig_removed(r, "z/b/c") && watch_idle(r->w));
    put(r, "c2/last", "x");
    RUN_UNTIL(r, rig_count(r, "c2/last") == 1);
    for (size_t i = 0; i < r->n; i++)
        assert_int_not_equal(r->offers[i].path[0], 'a');
}

static void moved_out_folder_is_forgotten(void **state)
{
    struct rig *r = *state;
    make(r, "a");
    make(r, "a/b");
    open_quiet(r);
    char from[128], to[128], file[160];
    full(r, "a", from, sizeof from);
    snprintf(to, sizeof to, "%s.out", r->root);
    assert_int_equal(rename(from, to), 0);
    RUN_UNTIL(r, rig_removed(r, "a") && rig_quiet(r));
    snprintf(file, sizeof file, "%s/b/x", to);
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    close(fd);
    put(r, "y", "y");
    RUN_UNTIL(r, r->n == 1 && rig_quiet(r));
    assert_int_equal(rig_count(r, "y"), 1);
    remove_tree(to);
}

static void removal_is_told(void **state)
{
    struct rig *r = *state;
    make(r, "a");
    put_old(r, "a/x", "x");
    put_old(r, "a/y", "y");
    open_quiet(r);
    drop(r, "a/x");
    char from[128], to[128];
    full(r, "a/y", from, sizeof from);
    snprintf(to, sizeof to, "%s.y", r->root);
    assert_int_equal(rename(from, to), 0);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_REMOVED] == 2);
    assert_true(rig_removed(r, "a/x"));
    assert_true(rig_removed(r, "a/y"));
    assert_int_equal(r->notice_n[WATCH_NOTICE_REMOVED], 0);
    unlink(to);
}

struct builder {
    const struct rig *r;
    int folders, files;
};

/* Makes nested folders with files in them, as fast as it can. */
static void *build_tree(void *arg)
{
    const struct builder *b = arg;
    for (int i = 0; i < b->folders; i++) {
        char rel[1024];
        int n = snprintf(rel, sizeof rel, "d%d", i);
        for (int depth = 0; depth < 1 + i % 6; depth++) {
            make(b->r, rel);
            for (int k = 0; k < b->files; k++) {
                char file[1100];
                snprintf(file, sizeof file, "%s/f%d", rel, k);
                put(b->r, file, "x");
            }
            n += snprintf(rel + n, sizeof rel - (size_t)n, "/s%d", depth);
        }
    }
    return NULL;
}

static size_t tree_size(const struct builder *b)
{
    size_t n = 0;
    for (int i = 0; i < b->folders; i++)
        n += (size_t)(1 + i % 6) * (size_t)b->files;
    return n;
}

static void tree_made_while_watching_is_complete(void **state)
{
    struct rig *r = *state;
    for (int round = 0; round < 5; round++) {
        open_quiet(r);
        struct builder b = {.r = r, .folders = 60, .files = 4};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, build_tree, &b), 0);
        RUN_UNTIL(r, rig_distinct(r) == tree_size(&b));
        pthread_join(thread, NULL);
        RUN_UNTIL(r, rig_quiet(r));
        assert_int_equal(rig_distinct(r), tree_size(&b));
        rig_close(r);
        RUN_UNTIL(r, r->closed);
        r->closed = false;
        rig_forget(r);
        remove_tree(r->root);
        assert_int_equal(mkdir(r->root, 0755), 0);
    }
    rig_open(r);
}

static void tree_made_during_first_walk_is_complete(void **state)
{
    struct rig *r = *state;
    struct builder before = {.r = r, .folders = 30, .files = 3};
    build_tree(&before);
    make(r, "n");
    struct rig below = {0};
    assert_true((size_t)snprintf(below.root, sizeof below.root, "%s/n", r->root) <
                sizeof below.root);
    struct builder during = {.r = &below, .folders = 60, .files = 3};
    rig_open(r);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, build_tree, &during), 0);
    size_t all = tree_size(&before) + tree_size(&during);
    RUN_UNTIL(r, rig_distinct(r) == all);
    pthread_join(thread, NULL);
    RUN_UNTIL(r, rig_quiet(r));
    assert_int_equal(rig_distinct(r), all);
}

static void many_files_come_in_bounded_batches(void **state)
{
    struct rig *r = *state;
    char rel[64];
    for (int a = 0; a < 50; a++) {
        snprintf(rel, sizeof rel, "a%d", a);
        make(r, rel);
        snprintf(rel, sizeof rel, "a%d/b", a);
        make(r, rel);
        for (int i = 0; i < 100; i++) {
            snprintf(rel, sizeof rel, "a%d/b/%d", a, i);
            put(r, rel, "x");
        }
    }
    r->o.settle_ms = 0;
    r->hold = true;
    rig_open(r);
    RUN_UNTIL(r, r->n_held == 1);
    assert_false(watch_idle(r->w));
    rig_run_ms(r, 100);
    assert_int_equal(r->n, WATCH_BATCH); /* the next waits for this one */
    put(r, "event", "x");                /* while events are not held up by a scan */
    RUN_UNTIL(r, rig_count(r, "event") == 1);
    r->hold = false;
    rig_release(r);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_SCAN_DONE] == 1 && rig_quiet(r));
    assert_int_equal(r->max_batch, WATCH_BATCH);
    assert_in_range(r->notice_n[WATCH_NOTICE_SCAN_DONE], 5000, 5001);
    assert_int_equal(rig_distinct(r), 5001);
    assert_in_range(r->n, 5001, 5002);
}

static void very_deep_tree_is_walked(void **state)
{
    struct rig *r = *state;
    char rel[2048] = "";
    for (int i = 0; i < 150; i++) {
        strcat(rel, i == 0 ? "deep" : "/deep");
        make(r, rel);
    }
    size_t length = strlen(rel);
    strcpy(rel + length, "/x");
    put_old(r, rel, "x");
    open_quiet(r);
    RUN_UNTIL(r, rig_count(r, rel) == 1 && rig_quiet(r));
    strcpy(rel + length, "/y");
    put(r, rel, "y");
    RUN_UNTIL(r, rig_count(r, rel) == 1);
}

static void young_files_settle(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 1000;
    uint64_t start = uv_hrtime() / 1000000;
    put(r, "young", "x");
    put_old(r, "copied", "x"); /* old by its modification time, yet made just now */
    char path[128];
    put(r, "future", "x");
    full(r, "future", path, sizeof path);
    const struct timespec times[2] = {{.tv_sec = 4000000000}, {.tv_sec = 4000000000}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    rig_open(r);
    RUN_UNTIL(r, watch_settling(r->w) == 3);
    RUN_UNTIL(r, r->n == 3 && rig_quiet(r));
    for (size_t i = 0; i < 3; i++)
        assert_true(r->offers[i].at_ms - start >= 990);
    rig_run_ms(r, 100);
    assert_int_equal(r->n, 3);
}

static void settling_file_that_goes_on_changing_waits(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 800;
    char path[128];
    full(r, "x", path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(write(fd, "1", 1), 1);
    rig_open(r);
    uint64_t last = 0;
    for (int i = 0; i < 15; i++) {
        rig_run_ms(r, 100);
        if (r->n > 0 && uv_hrtime() / 1000000 - last >= 800)
            break; /* this machine was too busy to write in time */
        assert_int_equal(r->n, 0);
        last = uv_hrtime() / 1000000;
        assert_int_equal(write(fd, "1", 1), 1);
    }
    RUN_UNTIL(r, r->n >= 1);
    assert_true(rig_last(r, "x")->at_ms - last >= 780);
    assert_int_equal(rig_last(r, "x")->size, 16);
    close(fd);
    RUN_UNTIL(r, rig_quiet(r));
}

static void settling_file_that_vanishes_is_dropped(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 700;
    put(r, "x", "x");
    rig_open(r);
    RUN_UNTIL(r, watch_settling(r->w) == 1);
    drop(r, "x");
    RUN_UNTIL(r, rig_removed(r, "x") && rig_quiet(r));
    rig_run_ms(r, 800);
    assert_int_equal(r->n, 0);
}

static void names_are_filtered(void **state)
{
    struct rig *r = *state;
    const char *exclude[] = {"*.tmp", "DICOMDIR", "viewer", "skip/**"};
    const char *include[] = {"*.dcm", "ct/*"};
    r->o.exclude = exclude;
    r->o.n_exclude = 4;
    r->o.include = include;
    r->o.n_include = 2;
    r->o.settle_ms = 0;
    for (int round = 0; round < 2; round++) { /* by the walk, then by events */
        if (round == 1) {
            RUN_UNTIL(r, r->n == 4 && rig_quiet(r));
            rig_forget(r);
        } else {
            make(r, "ct");
            make(r, "Viewer");
            make(r, "skip");
            make(r, ".git");
        }
        put(r, "a.dcm", "x");
        put(r, "B.DCM", "x");
        put(r, "c.txt", "x");
        put(r, "ct/image", "x");
        put(r, "ct/dicomdir", "x");
        put(r, "ct/half.tmp", "x");
        put(r, "ct/.dot.dcm", "x");
        put(r, "Viewer/v.dcm", "x");
        put(r, "skip/s.dcm", "x");
        put(r, ".git/g.dcm", "x");
        put(r, "z.dcm", "x");
        if (round == 0)
            rig_open(r);
    }
    RUN_UNTIL(r, rig_count(r, "z.dcm") == 1 && rig_quiet(r));
    assert_int_equal(rig_distinct(r), 4);
    assert_int_equal(rig_count(r, "a.dcm"), 1);
    assert_int_equal(rig_count(r, "B.DCM"), 1);
    assert_int_equal(rig_count(r, "ct/image"), 1);
}

static void only_the_top_folder_if_not_recursive(void **state)
{
    struct rig *r = *state;
    r->o.recursive = false;
    r->o.settle_ms = 0;
    make(r, "a");
    put(r, "a/x", "x");
    put(r, "y", "y");
    open_quiet(r);
    put(r, "a/x2", "x");
    make(r, "b");
    put(r, "b/x", "x");
    put(r, "y2", "y");
    RUN_UNTIL(r, rig_count(r, "y2") == 1 && rig_quiet(r));
    assert_int_equal(r->n, 2);
}

static void names_are_bytes(void **state)
{
    struct rig *r = *state;
    make(r, "\xff\xfe");
    put_old(r, "\xff\xfe/\xc3\x28 \n", "x");
    open_quiet(r);
    RUN_UNTIL(r, rig_count(r, "\xff\xfe/\xc3\x28 \n") == 1);
    put(r, "\xff\xfe/\x80", "x");
    RUN_UNTIL(r, rig_count(r, "\xff\xfe/\x80") == 1);
}

static void special_files_are_left_alone(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 0;
    char path[128];
    for (int round = 0; round < 2; round++) {
        full(r, round == 0 ? "fifo" : "fifo2", path, sizeof path);
        assert_int_equal(mkfifo(path, 0666), 0);
        int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        full(r, round == 0 ? "socket" : "socket2", address.sun_path, sizeof address.sun_path);
        assert_int_equal(bind(s, (struct sockaddr *)&address, sizeof address), 0);
        close(s);
        if (round == 0)
            open_quiet(r);
    }
    shift(r, "fifo", "fifo3");
    put(r, "x", "x");
    RUN_UNTIL(r, r->n == 1 && rig_quiet(r));
    assert_int_equal(rig_count(r, "x"), 1);
}

static void point(const struct rig *r, const char *rel, const char *target)
{
    char path[128];
    full(r, rel, path, sizeof path);
    assert_int_equal(symlink(target, path), 0);
}

static void make_links(struct rig *r, char outside[80])
{
    snprintf(outside, 80, "%s.outside", r->root);
    assert_int_equal(mkdir(outside, 0755), 0);
    char path[256];
    snprintf(path, sizeof path, "%s/secret", outside);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    make(r, "a");
    put(r, "a/x", "x");
    make(r, ".store");
    make(r, ".store/deep");
    put(r, ".store/deep/y", "y");
    put(r, ".store/z", "z");
    point(r, "out-folder", outside);
    point(r, "out-file", path);
    point(r, "broken", "nowhere");
    point(r, "loop", ".");
    point(r, "a/up", "..");
    point(r, "again", "a/x");
    point(r, ".store/deep/back", "../deep");
}

static void links_are_not_followed(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 0;
    char outside[80];
    make_links(r, outside);
    point(r, "store", ".store/deep");
    point(r, "z", ".store/z");
    open_quiet(r);
    point(r, "late", ".store/z");
    put(r, "q", "q");
    RUN_UNTIL(r, rig_count(r, "q") == 1 && rig_quiet(r));
    assert_int_equal(r->n, 2);
    assert_int_equal(rig_count(r, "a/x"), 1);
    remove_tree(outside);
}

static void links_into_the_tree_are_followed_if_asked(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 0;
    r->o.follow_symlinks = true;
    char outside[80];
    make_links(r, outside);
    point(r, "store", ".store/deep");
    point(r, "store2", ".store/deep");
    open_quiet(r);
    /* under the target's own name, once */
    assert_int_equal(rig_count(r, ".store/deep/y"), 1);
    assert_int_equal(rig_count(r, "a/x"), 1);
    assert_int_equal(r->n, 2);
    point(r, "z", ".store/z");
    RUN_UNTIL(r, rig_count(r, ".store/z") == 1);
    put(r, ".store/deep/new", "x"); /* and watched */
    RUN_UNTIL(r, rig_count(r, ".store/deep/new") == 1);
    remove_tree(outside);
}

static void unreadable_is_told_once(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 0;
    r->o.rescan_ms = 50;
    make(r, "closed");
    put(r, "closed/inner", "x");
    put(r, "locked", "x");
    char folder[128], file[128];
    full(r, "closed", folder, sizeof folder);
    full(r, "locked", file, sizeof file);
    bool root = geteuid() == 0;
    if (root) { /* root may read everything: be nobody for a while */
        assert_int_equal(chown(r->root, 65534, 65534), 0);
        assert_int_equal(chown(folder, 65534, 65534), 0);
        assert_int_equal(chown(file, 65534, 65534), 0);
        assert_int_equal(seteuid(65534), 0);
    }
    assert_int_equal(chmod(folder, 0), 0);
    assert_int_equal(chmod(file, 0), 0);
    rig_open(r);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_SCAN_DONE] >= 4);
    assert_int_equal(r->notices[WATCH_NOTICE_UNREADABLE], 2);
    assert_int_equal(r->n, 0);
    assert_int_equal(chmod(folder, 0755), 0);
    assert_int_equal(chmod(file, 0644), 0);
    RUN_UNTIL(r, rig_distinct(r) == 2);
    if (root)
        assert_int_equal(seteuid(0), 0);
}

static void made_readable_is_offered(void **state)
{
    struct rig *r = *state;
    open_quiet(r);
    put(r, "x", "x");
    RUN_UNTIL(r, r->n == 1);
    char path[128];
    full(r, "x", path, sizeof path);
    assert_int_equal(chmod(path, 0600), 0);
    RUN_UNTIL(r, r->n == 2);
}

static void root_goes_and_comes_back(void **state)
{
    struct rig *r = *state;
    make(r, "a");
    open_quiet(r);
    remove_tree(r->root);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_GONE] == 1);
    assert_string_equal(r->last_path[WATCH_NOTICE_GONE], r->root);
    assert_int_equal(mkdir(r->root, 0755), 0);
    make(r, "b");
    put(r, "b/x", "x");
    RUN_UNTIL(r, rig_count(r, "b/x") == 1);
    assert_int_equal(r->notices[WATCH_NOTICE_BACK], 1);
    put(r, "b/y", "x");
    RUN_UNTIL(r, rig_count(r, "b/y") == 1);
    assert_int_equal(r->notices[WATCH_NOTICE_GONE], 1);
}

static void root_is_replaced(void **state)
{
    struct rig *r = *state;
    open_quiet(r);
    char old[128];
    snprintf(old, sizeof old, "%s.old", r->root);
    assert_int_equal(rename(r->root, old), 0);
    assert_int_equal(mkdir(r->root, 0755), 0);
    put(r, "x", "x");
    RUN_UNTIL(r, rig_count(r, "x") == 1);
    char stray[160];
    snprintf(stray, sizeof stray, "%s/stray", old);
    int fd = open(stray, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    close(fd);
    put(r, "y", "x");
    RUN_UNTIL(r, rig_count(r, "y") == 1 && rig_quiet(r));
    assert_int_equal(rig_distinct(r), 2);
    remove_tree(old);
}

static void bad_root_is_refused(void **state)
{
    struct rig *r = *state;
    struct err e = {0};
    const struct watch_handler handler = {0};
    struct watch *w;
    char path[128];
    full(r, "missing", path, sizeof path);
    r->o.path = path;
    assert_int_equal(watch_open(&w, &r->loop, &r->o, &handler, &e), ERR_VANISHED);
    assert_null(w);
    assert_int_not_equal(e.text[0], '\0');
    put(r, "missing", "a file");
    assert_int_equal(watch_open(&w, &r->loop, &r->o, &handler, &e), ERR_INVALID);
    r->o.path = r->root;
    rig_open(r);
}

static void rescans(void **state)
{
    struct rig *r = *state;
    put_old(r, "x", "x");
    open_quiet(r);
    RUN_UNTIL(r, r->n == 1);
    watch_rescan(r->w);
    assert_false(watch_idle(r->w));
    RUN_UNTIL(r, r->n == 2 && r->notices[WATCH_NOTICE_SCAN_DONE] == 2);
}

static void rescans_by_itself(void **state)
{
    struct rig *r = *state;
    r->o.rescan_ms = 50;
    put(r, "x", "x");
    rig_open(r);
    RUN_UNTIL(r, rig_count(r, "x") >= 3 && r->notices[WATCH_NOTICE_SCAN_DONE] >= 3);
}

/* How often the watch's thread went to sleep so far. */
static unsigned long sleeps(void)
{
    unsigned long total = 0;
    DIR *tasks = opendir("/proc/self/task");
    assert_non_null(tasks);
    for (const struct dirent *de; (de = readdir(tasks)) != NULL;) {
        char path[300], line[128];
        bool ours = false;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", de->d_name);
        FILE *f = fopen(path, "re");
        while (f != NULL && fgets(line, sizeof line, f) != NULL) {
            ours = ours || strcmp(line, "Name:\twatch\n") == 0;
            if (ours && strncmp(line, "voluntary_ctxt_switches:", 24) == 0)
                total += strtoul(line + 24, NULL, 10);
        }
        if (f != NULL)
            fclose(f);
    }
    closedir(tasks);
    return total;
}

static void asleep_when_idle(void **state)
{
    struct rig *r = *state;
    r->o.rescan_ms = 3600000;
    put_old(r, "x", "x");
    open_quiet(r);
    put(r, "y", "y");
    RUN_UNTIL(r, r->n == 2 && rig_quiet(r));
    rig_run_ms(r, 4500); /* the watchdog stops by itself */
    assert_int_equal(uv_backend_timeout(&r->loop), -1);
    unsigned long before = sleeps();
    assert_int_not_equal(before, 0);
    rig_run_ms(r, 1500);
    assert_int_equal(sleeps(), before);
}

static void closes_with_a_batch_out(void **state)
{
    struct rig *r = *state;
    char rel[32];
    for (int i = 0; i < 2000; i++) {
        snprintf(rel, sizeof rel, "%d", i);
        put(r, rel, "x");
    }
    r->o.settle_ms = 0;
    r->hold = true;
    rig_open(r);
    RUN_UNTIL(r, r->n_held == 1);
    rig_close(r);
    rig_release(r); /* too late, and harmless */
    RUN_UNTIL(r, r->closed);
    assert_int_equal(r->n, WATCH_BATCH);
}

static void closes_from_a_callback(void **state)
{
    struct rig *r = *state;
    put(r, "x", "x");
    r->o.settle_ms = 0;
    r->close_in_batch = true;
    rig_open(r);
    RUN_UNTIL(r, r->closed);
    assert_int_equal(r->n, 1);
}

static void closes_at_once(void **state)
{
    struct rig *r = *state;
    put(r, "x", "x");
    rig_open(r);
    rig_close(r);
    RUN_UNTIL(r, r->closed);
    assert_int_equal(r->n, 0);
}

static void pending_events_become_a_rescan(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 60000;
    open_quiet(r);
    r->hold = true;
    put(r, "first", "x");
    RUN_UNTIL(r, r->n_held == 1);
    char rel[32];
    const int many = WATCH_MAX_PENDING + 600;
    for (int i = 0; i < many; i++) {
        snprintf(rel, sizeof rel, "%d", i);
        put(r, rel, "x");
        if (i % 256 == 0)
            uv_run(&r->loop, UV_RUN_NOWAIT);
    }
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_OVERFLOW] >= 1);
    r->hold = false;
    rig_release(r);
    RUN_UNTIL(r, r->notices[WATCH_NOTICE_SCAN_DONE] >= 2 && watch_idle(r->w));
    /* What events did not bring settles now: nothing is lost. */
    assert_true(rig_distinct(r) + watch_settling(r->w) >= (size_t)many + 1);
}

struct storm {
    const struct rig *r;
    unsigned seed;
    int steps;
};

static unsigned dice(unsigned *seed, unsigned sides)
{
    *seed = *seed * 1103515245u + 12345u;
    return (*seed >> 16) % sides;
}

/* A folder path of one to three parts out of four names. */
static void any_folder(unsigned *seed, const struct rig *r, char out[256])
{
    size_t n = (size_t)snprintf(out, 256, "%s", r->root);
    for (unsigned depth = 1 + dice(seed, 3); depth > 0; depth--)
        n += (size_t)snprintf(out + n, 256 - n, "/%c", 'a' + (char)dice(seed, 4));
}

/* Makes, renames and removes folders; most of it fails, as it should. */
static void *storm(void *arg)
{
    struct storm *t = arg;
    char from[256], to[256];
    for (int i = 0; i < t->steps; i++) {
        any_folder(&t->seed, t->r, from);
        any_folder(&t->seed, t->r, to);
        switch (dice(&t->seed, 8)) {
        case 0:
            rmdir(from);
            break;
        case 1:
        case 2:
        case 3:
            (void)rename(from, to);
            break;
        default:
            mkdir(from, 0755);
        }
    }
    return NULL;
}

static char found[256][256];
static size_t n_found;

static int find_folder(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    if (type == FTW_D && n_found < 256)
        snprintf(found[n_found++], sizeof found[0], "%s", path);
    return 0;
}

static void folders_in_a_storm_are_all_watched(void **state)
{
    struct rig *r = *state;
    r->o.settle_ms = 600000; /* only events bring files */
    open_quiet(r);
    for (unsigned round = 0; round < 4; round++) {
        struct storm t = {.r = r, .seed = round * 7919 + 1, .steps = 700};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, storm, &t), 0);
        rig_run_ms(r, 10);
        pthread_join(thread, NULL);
        RUN_UNTIL(r, watch_idle(r->w));
        rig_forget(r);
        n_found = 0;
        nftw(r->root, find_folder, 16, FTW_PHYS);
        for (size_t i = 0; i < n_found; i++) {
            char rel[300];
            snprintf(rel, sizeof rel, "%s/%u", found[i], round);
            put(r, rel + strlen(r->root) + 1, "x");
        }
        RUN_UNTIL(r, rig_distinct(r) == n_found);
        for (size_t i = 0; i < n_found; i++) {
            char rel[300];
            snprintf(rel, sizeof rel, "%s/%u", found[i], round);
            assert_int_equal(rig_count(r, rel + strlen(r->root) + 1), 1);
            assert_int_equal(unlink(rel), 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(offers_what_stands_there_at_start),
        T(set_aside_file_is_put_back_after_a_crash),
        T(closed_file_is_offered_at_once),
        T(renamed_into_place_is_offered_at_once),
        T(empty_file_waits_for_settle),
        T(linked_file_is_offered),
        T(file_being_written_is_left_alone),
        T(moved_in_tree_is_walked),
        T(renamed_folder_keeps_right_paths),
        T(moved_out_folder_is_forgotten),
        T(removal_is_told),
        T(tree_made_while_watching_is_complete),
        T(tree_made_during_first_walk_is_complete),
        T(many_files_come_in_bounded_batches),
        T(very_deep_tree_is_walked),
        T(young_files_settle),
        T(settling_file_that_goes_on_changing_waits),
        T(settling_file_that_vanishes_is_dropped),
        T(names_are_filtered),
        T(only_the_top_folder_if_not_recursive),
        T(names_are_bytes),
        T(special_files_are_left_alone),
        T(links_are_not_followed),
        T(links_into_the_tree_are_followed_if_asked),
        T(unreadable_is_told_once),
        T(made_readable_is_offered),
        T(root_goes_and_comes_back),
        T(root_is_replaced),
        T(bad_root_is_refused),
        T(rescans),
        T(rescans_by_itself),
        T(asleep_when_idle),
        T(closes_with_a_batch_out),
        T(closes_from_a_callback),
        T(closes_at_once),
        T(pending_events_become_a_rescan),
        T(folders_in_a_storm_are_all_watched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
