/* What mapper.c and mapper_conn.c share. Not for others. */
#ifndef MCS_SEGMENT_MAPPER_INTERNAL_H
#define MCS_SEGMENT_MAPPER_INTERNAL_H

#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/segment/mapper.h"
#include "core/segment/region.h"
#include "core/segment/slots.h"

#define MAPPER_AREA "mapper"

/* Numbers that outlive the mapper: pins may. */
typedef struct mcs_mapper_counts {
    uint32_t refs;     /* atomic: the mapper, and one per mapping */
    uint64_t mappings; /* atomics */
    uint64_t mapped_bytes;
    uint64_t pins;
} mcs_mapper_counts_t;

/* Connections of one mapper: owners of this host. Beyond, the transport is taken. */
#define MAPPER_CONNS_MAX 256u

/* A connection to one owner, in one session of ours; or, fd -1, this process's own slots. */
typedef struct mapper_conn {
    uint32_t refs; /* one in the list, one per mapping, one while the thread watches it */
    mcs_list_t node;
    bool listed; /* among the mapper's, whose lock guards it: whoever takes it out has its reference and its node */
    mcs_id_t owner;
    mcs_id_t session;
    int fd;
    uint32_t lost;    /* atomic */
    mcs_mutex_t lock; /* rank MAPPER, never with the mapper's own: one request at a time */
    mcs_region_t *slots;
    mcs_region_t *revoked;
} mapper_conn_t;

/* Memory is populated in pieces of this size; a bit each says that it has been. */
#define MAPPER_PIECE (2 * MCS_MIB)

typedef enum mapping_use { MAPPING_PLAIN, MAPPING_EXPOSED, MAPPING_GIVEN_UP } mapping_use_t;

struct mcs_mapping {
    uint32_t refs; /* one in the list, one per caller and pin */
    uint32_t use;  /* atomic, mapping_use_t: goes up only */
    mcs_list_t node;
    mcs_mapper_counts_t *counts; /* referenced */
    mapper_conn_t *conn;         /* referenced */
    mcs_id_t instance;
    uint8_t *base; /* of host memory: all of the segment, or (far) its headers */
    uint64_t size; /* of the segment */
    unsigned shift;
    mcs_far_t far; /* its payloads; memory NULL: with the headers */
    mcs_segment_ctl_t *ctl;
    mcs_segment_t *own;    /* referenced; NULL for a peer's */
    mcs_region_t *memory;  /* of a peer's */
    mcs_region_t *control; /* of a peer's */
    uint64_t *populated;   /* atomic bits, of a peer's */
    uint64_t token;        /* of the process that may touch it */
};

void mcs_i_mapper_conn_put(mapper_conn_t *conn);
/* Connects and says hello. MCS_ERR_TRANSFER_FAIL … */
mcs_status_t mcs_i_mapper_connect(mcs_id_t client, mcs_id_t session, const mcs_mapper_peer_t *peer,
                                  uint64_t deadline_ns, mapper_conn_t **conn_out) MCS_MUST_CHECK;
/* What a peer's segment is made of. */
typedef struct mapper_got {
    mcs_region_t *memory;
    mcs_region_t *control;
    uint64_t size;
    unsigned shift; /* 0, or it is a far one */
} mapper_got_t;
/* Asks for a segment of at least `size` bytes. MCS_ERR_SEGMENT_NOT_FOUND: the owner says that it has none like this. */
mcs_status_t mcs_i_mapper_map(mapper_conn_t *conn, mcs_id_t instance, uint64_t size, uint64_t deadline_ns,
                              mapper_got_t *got_out) MCS_MUST_CHECK;
/* Asks how a far segment's payloads are to be had. *fd_out: a descriptor for it, the caller's; -1: none. */
mcs_status_t mcs_i_mapper_ask_far(mapper_conn_t *conn, mcs_id_t instance, uint64_t deadline_ns,
                                  mcs_mem_share_t *share_out, int *fd_out) MCS_MUST_CHECK;
/* Of no use to new pins: the owner has gone, or has closed our page (the session has ended, or it parts with us) and
 * will hang up. */
static inline bool mapper_conn_lost(const mapper_conn_t *conn)
{
    if (__atomic_load_n(&conn->lost, __ATOMIC_ACQUIRE) != 0) {
        return true;
    }
    const mcs_slot_page_t *slots = conn->slots->base;
    return __atomic_load_n(&slots->closed, __ATOMIC_ACQUIRE) != 0;
}

#endif
