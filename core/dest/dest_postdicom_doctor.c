#include "dest/dest_postdicom_doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define SEARCH_FOLDER 3 /* management type */

struct postdicom_doctor {
    struct pd_session *session;
    void (*line)(const char *text, void *ctx);
    void *line_ctx;
    void (*done)(int status, void *ctx);
    void *done_ctx;
    struct pd_waiter waiter;
    struct pd_call call;
    char *json;
};

__attribute__((format(printf, 2, 3))) static void say(struct postdicom_doctor *d,
                                                      const char *format, ...)
{
    char text[700];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    d->line(text, d->line_ctx);
}

static void end(struct postdicom_doctor *d, int status)
{
    void (*done)(int status, void *ctx) = d->done;
    void *ctx = d->done_ctx;
    free(d->json);
    free(d);
    done(status, ctx);
}

static void on_folders(struct pd_call *c, int status, const struct pd_answer *a,
                       const struct err *e)
{
    struct postdicom_doctor *d = c->ctx;
    if (status) {
        say(d, "failed: folder list: %s", e->text);
    } else if (!a->ok) {
        status = ERR_REFUSED;
        say(d, "failed: folder list: the server refused: %s",
            a->text[0] ? a->text : "(it gives no reason)");
    } else {
        const cJSON *folder = cJSON_GetObjectItemCaseSensitive(a->result, "Folder");
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(folder, "SubFolderList");
        if (cJSON_IsArray(list))
            say(d, "ok: folder list: %d folders at the top", cJSON_GetArraySize(list));
        else
            say(d, "warning: folder list: answered, but not in the form that is expected "
                   "(Folder.SubFolderList); uploads into folders may fail");
        say(d, "not tried: what can be found out only by writing (parts in flight, existence "
               "checks, how "
               "orders merge, creating folders): see docs/postdicom-assumptions.md");
    }
    end(d, status);
}

static void on_ready(struct pd_waiter *w, int status, const struct err *e)
{
    struct postdicom_doctor *d = w->ctx;
    if (status) {
        say(d, "failed: %s", e->text);
        end(d, status);
        return;
    }
    const struct pd_account *account = pd_session_account(d->session);
    say(d, "ok: user found, 1 of %zu of the account", account->n_users);
    say(d, "ok: institution found, 1 of %zu of the user", account->n_institutions);
    d->json =
        pd_params_folder_list(pd_session_keys(d->session), account->user_uuid, NULL, "", false);
    if (!d->json) {
        end(d, ERR_NOMEM);
        return;
    }
    d->call = (struct pd_call){
        .request = {.type = FRAME_GENERAL, .management = SEARCH_FOLDER, .json = d->json},
        .cb = on_folders,
        .ctx = d};
    pd_session_send(d->session, &d->call);
}

void postdicom_doctor_step(struct postdicom_doctor *d, enum pd_login_step step)
{
    if (step != PD_LOGIN_DONE)
        say(d, "ok: %s", pd_login_step_name(step));
}

void postdicom_doctor_keys(struct postdicom_doctor *d, const struct err *e)
{
    if (e) {
        say(d, "failed: %s", e->text);
        end(d, e->code);
        return;
    }
    say(d, "ok: keys can be read");
    if (pd_session_is_open(d->session))
        say(d, "ok: the session is open already (router, region, WebSocket, session)");
    d->waiter = (struct pd_waiter){.cb = on_ready, .ctx = d};
    pd_session_ready(d->session, &d->waiter);
}

struct postdicom_doctor *postdicom_doctor_new(struct pd_session *session,
                                              void (*line)(const char *text, void *ctx),
                                              void *line_ctx, void (*done)(int status, void *ctx),
                                              void *done_ctx)
{
    struct postdicom_doctor *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->session = session;
    d->line = line;
    d->line_ctx = line_ctx;
    d->done = done;
    d->done_ctx = done_ctx;
    return d;
}
