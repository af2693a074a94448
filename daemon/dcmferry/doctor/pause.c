#include "pause.h"

#include "../client.h"
#include "base/buf.h"
#include "base/clock.h"
#include "net/net.h"

#include <stdlib.h>
#include <string.h>

#define PAUSE_MS 30000U
#define AGAIN_MS 8000U
#define QUIET_MS 600000U /* how long deliveries under way are waited for */
#define IDLE_MS  5000U

static int tell(const struct pause *p, uint64_t for_ms, cJSON **ret, struct err *e)
{
    struct buf path = {0};
    char *name = net_url_encode(p->destination);
    int status = ERR_NOMEM;
    *ret = NULL;
    buf_printf(&path, "/pause?destination=%s&for=%llu", name ? name : "",
               (unsigned long long)for_ms);
    if (name && !buf_failed(&path))
        status = client_call(p->socket_path, "POST", buf_cstr(&path), IDLE_MS, ret, NULL, e);
    else
        err_set(e, status, "out of memory");
    free(name);
    buf_free(&path);
    return status;
}

/* Blocks, with a loop of its own, for as long as the daemon takes to say yes. */
static void keep_up(uv_timer_t *timer)
{
    struct pause *p = timer->data;
    struct err e;
    cJSON *json;
    if (tell(p, PAUSE_MS, &json, &e) == 0)
        cJSON_Delete(json);
}

/* ERR_CONNECT: no daemon. */
static int wait_quiet(struct pause *p, struct report *r, struct err *e)
{
    uint64_t end = clock_monotonic_ms() + QUIET_MS;
    bool told = false;
    for (;;) {
        cJSON *json;
        int status = tell(p, PAUSE_MS, &json, e);
        if (status)
            return status;
        bool quiet = cJSON_IsTrue(cJSON_GetObjectItem(json, "quiet"));
        cJSON_Delete(json);
        if (quiet)
            return 0;
        if (!told)
            transcript_text(r->transcript, "waiting for the daemon to finish what is under way…");
        told = true;
        if (clock_monotonic_ms() >= end)
            return err_set(e, ERR_TIMEOUT, "its deliveries do not come to an end");
        peer_wait(p->peer, NULL, 200);
        if (p->peer->interrupted)
            return err_set(e, ERR_CANCELED, "interrupted");
    }
}

static void resume(const struct pause *p)
{
    struct err e;
    cJSON *json;
    if (tell(p, 0, &json, &e) == 0)
        cJSON_Delete(json);
}

int pause_begin(struct pause *ret, struct report *r, struct peer *p, const char *socket_path,
                const char *destination)
{
    struct err e = {0};
    *ret = (struct pause){.socket_path = socket_path, .destination = destination, .peer = p};
    int status = wait_quiet(ret, r, &e);
    if (status == ERR_CONNECT || status == ERR_NOT_FOUND) {
        report_step(r, REPORT_OK, "daemon", NULL, "%s",
                    status == ERR_CONNECT ? "none is running that could be in the way"
                                          : "the one that runs has no destination of that name");
        return 0;
    }
    if (status) {
        if (status == ERR_TIMEOUT || status == ERR_CANCELED)
            resume(ret);
        report_step(r, REPORT_FAILED, "daemon",
                    "the one that runs uploads with the same keys and must pause for the trials; "
                    "or stop it: systemctl stop dcmferryd",
                    "%s", e.text);
        return status;
    }
    ret->held = true;
    uv_timer_init(&p->loop, &ret->again);
    ret->again.data = ret;
    uv_timer_start(&ret->again, keep_up, AGAIN_MS, AGAIN_MS);
    report_step(r, REPORT_OK, "daemon", NULL,
                "this destination pauses there as long as this takes");
    return 0;
}

void pause_end(struct pause *p)
{
    if (!p->held)
        return;
    uv_close((uv_handle_t *)&p->again, NULL);
    resume(p);
    p->held = false;
}
