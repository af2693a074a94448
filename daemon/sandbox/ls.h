/* `dcmferry-sandbox ls`: what a state folder holds, beside a running sandbox or without one. */
#ifndef SANDBOX_LS_H
#define SANDBOX_LS_H

/* Returns the exit status. */
int ls_main(int argc, char **argv);

#endif
