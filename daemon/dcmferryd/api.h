/* What the control socket offers, as JSON:
 *   GET  /status                                        destinations, drop folders, counts, trouble
 *   GET  /files?study=&instance=&path=&destination=&problems=1&acknowledged=1&limit=&offset=
 *   GET  /where?path=     {"files": […as above], "state": …, "why": …}; the last two unless one
 * stands POST /retry|/hold|/release?delivery=&file=&destination=&study=&anyway=1   {"changed": N}
 *     "and_later": true: the destination is held for what comes later, too; "still_held": true: a
 *     destination in question is
 *   POST /acknowledge?delivery=&file=&destination=&study=                     {"changed": N}
 *   POST /reload                                        {"ok": bool, "text": …}
 *   POST /pause?destination=&for=MS                     {"quiet": bool, "in_flight": N}; 0: go on
 *   POST /backup                                        {"ok": true}
 * Failures: {"error": …} with a 4xx or 5xx status. */
#ifndef DCMFERRYD_API_H
#define DCMFERRYD_API_H

#include "app.h"
#include "control.h"

void api_request(struct app *a, struct control_request *r);

#endif
