/* UCX reads some options once, from the environment, in the constructors that run while it is loaded: nothing else
 * reaches them, and their defaults are not for a guest in somebody's program (it overwrites the first bytes of libc's
 * mmap and munmap, sets signal handlers, writes to standard error). These calls show UCX another environment for that
 * moment.
 *
 * setenv would be a race with every getenv of the program; so the environment itself is not changed: `environ` points
 * to a copy with the options added, and then back. A copy is never freed, for somebody may be reading it. An option
 * that the operator has set stays as it is. One thread at a time (the loader's lock). */
#ifndef UCXT_UCX_ENV_H
#define UCXT_UCX_ENV_H

#include "core/base/macros.h"

void ucxt_env_enter(void);
void ucxt_env_leave(void);

#endif
