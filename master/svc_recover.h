/* What the files of the start from a journal share (svc_recover.c). Not for others. */
#ifndef MCS_MASTER_SVC_RECOVER_H
#define MCS_MASTER_SVC_RECOVER_H

#include "master/svc_internal.h"

/* While the journal is read `putter` of a record, which no session has put, says which of its replicas have no place in
 * their segments' allocators yet: a bit each. */
static inline bool rec_has_place(const svc_record_t *record, uint32_t replica)
{
    return (record->putter >> replica & 1) == 0;
}
static inline void rec_set_no_places(svc_record_t *record)
{
    record->putter = (UINT32_C(1) << record->replica_count) - 1;
}

/* An extent of a record, to be put in its place. */
typedef struct rec_extent {
    uint64_t place;
    svc_ref_t ref;
    uint16_t shard;
    uint16_t replica;
} rec_extent_t;

typedef struct rec_strike {
    svc_ref_t record;
    svc_ref_t successor; /* 0: a removal */
    uint16_t shard;
    bool over; /* a later record of the key decided it */
} rec_strike_t;

typedef struct rec_stream {
    mcs_service_t *service;
    uint32_t stream;
    mcs_status_t status;
    mcs_buf_t strikes; /* rec_strike_t */
    mcs_buf_t extents; /* rec_extent_t, by place */
    size_t next;       /* of `extents` */
    uint64_t now_ns;
    uint64_t wall_ms;
    uint64_t highest;  /* generation */
    uint64_t lost;     /* for lack of memory, or over max_objects */
    uint64_t homeless; /* on segments that are not known any more */
} rec_stream_t;

typedef struct recovery {
    mcs_service_t *service;
    rec_stream_t streams[MCS_JOURNAL_GROUPS];
    mcs_status_t status;
} recovery_t;

/* svc_recover_object.c: a stream's objects. */
/* Replays the stream, and lists the extents of what it comes to. */
void rec_stream_replay(rec_stream_t *stream);
/* Strikes that were under way go on as pending ones. */
mcs_status_t rec_stream_resume_strikes(rec_stream_t *stream) MCS_MUST_CHECK;
/* After a failed start: what the service's end cannot take apart by itself. */
void rec_stream_take_apart(rec_stream_t *stream);
/* Removes a record that is in the table; its extents are nobody's. */
void rec_remove_locked(rec_stream_t *stream, svc_shard_t *shard, svc_ref_t ref);
/* A strike's new value that nobody can read: the strike ends as a removal. */
void rec_drop_successor(rec_stream_t *stream, svc_ref_t ref);
/* Leaves the replicas that are to be kept. False: none. */
bool rec_keep_replicas(mcs_service_t *service, svc_record_t *record,
                       bool (*keep)(const mcs_service_t *service, const svc_record_t *record, uint32_t replica));

/* svc_recover_place.c: the extents of all streams fill the allocators; what lies between and above them. */
mcs_status_t rec_fill_segments(recovery_t *recovery) MCS_MUST_CHECK;
mcs_status_t rec_take_tails(mcs_service_t *service) MCS_MUST_CHECK;

#endif
