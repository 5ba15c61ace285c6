/* Deletes the transfer metadata of clients that died from a metadata server that is another process's: the master with
 * enable_metadata_cleanup_on_timeout and without a metadata server of its own. (Its own is cleaned in place:
 * http_metadata.h.)
 *
 * A thread of its own does the requests: whoever reports a death never waits for the network. A server that does not
 * answer is asked again, a few times and ever later; then the records of that client stay, which is logged.
 *
 * Thread-safe. Lock: MCS_RANK_HTTP, held for list work only. */
#ifndef MCS_MASTER_METADATA_CLEANUP_H
#define MCS_MASTER_METADATA_CLEANUP_H

#include "core/base/status.h"

typedef struct mcs_metadata_cleanup mcs_metadata_cleanup_t;

typedef struct mcs_metadata_cleanup_config {
    const char *url;         /* http://host:port/metadata; "": that of config_path */
    const char *config_path; /* the engines' JSON file: its metadata_server. "": none */
    const char *cluster_id;  /* records are deleted with it in their key and without it */
    /* Asked on the thread, with no lock held, right before records are deleted: has a client of this name come back
     * meanwhile? Then the records are its own. */
    bool (*is_alive)(void *arg, const char *segment_name);
    void *arg;
} mcs_metadata_cleanup_config_t;

/* *cleanup_out is NULL, with MCS_OK, when there is no server to ask: none is named, it is not HTTP, or the file cannot
 * be read. A warning says which. */
mcs_status_t mcs_metadata_cleanup_start(const mcs_metadata_cleanup_config_t *config,
                                        mcs_metadata_cleanup_t **cleanup_out) MCS_MUST_CHECK;
/* Never blocks. Beyond 4096 names that wait, and without memory, the records stay; logged. */
void mcs_metadata_cleanup_forget(mcs_metadata_cleanup_t *cleanup, const char *segment_name);
/* Gives up a request that is under way and what waits; joins the thread; frees. NULL is fine. */
void mcs_metadata_cleanup_stop(mcs_metadata_cleanup_t *cleanup);

#endif
