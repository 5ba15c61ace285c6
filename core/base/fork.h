/* Descriptors that must end with this process (rule 11): a forked child closes them at once, or the parent's peers
 * would not notice its death. Lock-free, any thread. Bounded; beyond the bound a descriptor is merely not closed early.
 */
#ifndef MCS_BASE_FORK_H
#define MCS_BASE_FORK_H

#include "core/base/macros.h"

/* -1 is ignored by both. Remove a descriptor before it is closed, or the child may close a stranger's. */
void mcs_fork_guard_add(int fd);
void mcs_fork_guard_remove(int fd);

#endif
