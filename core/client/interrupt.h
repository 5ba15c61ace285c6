/* The interrupt hook of the calling thread (mcs_thread_set_interrupt): asked while a call waits, so that Ctrl-C in an
 * interpreter ends it. */
#ifndef MCS_CLIENT_INTERRUPT_H
#define MCS_CLIENT_INTERRUPT_H

#include "core/base/macros.h"

/* True when this thread has a hook and it wants the call to end, and from then on until mcs_interrupt_begin. May run
 * the embedding program's code: call it without locks. */
bool mcs_interrupt_pending(void);
/* The same between two pieces of work that never wait: asks the hook only when 100 ms have passed since it was last
 * asked or the call began. */
bool mcs_interrupt_due(void);
/* A new call of the API begins on this thread: forgets what the hook said before. */
void mcs_interrupt_begin(void);
/* Has the hook ended the present call? Does not ask it again. */
bool mcs_interrupt_seen(void);

#endif
