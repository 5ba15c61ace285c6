/* Where objects are: batch lookups at the master, split to what one request may carry. */
#ifndef MCS_CLIENT_LOOKUP_H
#define MCS_CLIENT_LOOKUP_H

#include "core/client/routes.h"

/* What the master said about one key. */
typedef struct mcs_found {
    mcs_status_t status; /* MCS_ERR_AGAIN: not asked yet */
    uint32_t replica_count;
    uint32_t leaving_count; /* behind the replicas: where the value lay before it was moved, not to be read */
    uint64_t size;
    uint64_t lease_end_ns;             /* on our clock, from when the request was sent (rule 4) */
    uint64_t cache_until_ns;           /* half of that: who has not begun by then asks anew (rule 2) */
    mcs_id_t session;                  /* whose right the MACs are */
    const mcs_col_replica_t *replicas; /* in the arena of the lookup */
} mcs_found_t;

static inline bool mcs_found_is_leased(const mcs_found_t *found)
{
    return mcs_now_ns() < found->lease_end_ns;
}

/* Whether two lookups of one key found the same value: generations are never reused. */
bool mcs_found_is_same_value(const mcs_found_t *a, const mcs_found_t *b);

/* A key of the caller's, when it is one: 1..MCS_KEY_MAX bytes. */
mcs_status_t mcs_key_take(mcs_bytes_t bytes, mcs_key_t *key_out) MCS_MUST_CHECK;

/* How many keys starting with key(arg, from) one request may carry; at least 1 when from < count. */
typedef const mcs_key_t *(*mcs_key_at_fn)(void *arg, size_t i);
size_t mcs_batch_fit(mcs_key_at_fn key_at, void *arg, size_t from, size_t count);

/* The two key columns of keys [from, from + n). */
typedef struct mcs_key_columns {
    mcs_buf_t lens;
    mcs_buf_t bytes;
} mcs_key_columns_t;
mcs_status_t mcs_key_columns_init(mcs_key_columns_t *columns, mcs_key_at_fn key_at, void *arg, size_t from, size_t n)
    MCS_MUST_CHECK;
void mcs_key_columns_fini(mcs_key_columns_t *columns);
static inline ProtobufCBinaryData mcs_buf_column(const mcs_buf_t *buf)
{
    return (ProtobufCBinaryData){buf->len, buf->bytes};
}
/* Results of an answer, i32 each: `value` of entry i. */
static inline int32_t mcs_column_i32(const ProtobufCBinaryData *column, size_t i)
{
    return (int32_t)mcs_load_u32(column->data + i * sizeof(int32_t));
}

/* What an answer to a question about keys [from, from + n) says about where they are. */
typedef struct mcs_located {
    const ProtobufCBinaryData *objects;
    const ProtobufCBinaryData *replicas;
    uint32_t lease_ms;
    const mcs_call_t *call;
} mcs_located_t;
/* Remembers what exist was told; an answer that does not fit is MCS_ERR_PROTOCOL. */
mcs_status_t mcs_lookup_learn(mcs_client_t *client, const mcs_located_t *located, mcs_key_at_fn key_at, void *arg,
                              size_t from, size_t n) MCS_MUST_CHECK;

/* Looks up keys [0, count); found(arg, i) is where the answer for key i goes. Replicas are copied to `arena`. A failure
 * of one request is the status of its keys, and those after it are not asked when it is interruption, close or lack of
 * memory. */
typedef mcs_found_t *(*mcs_found_at_fn)(void *arg, size_t i);
void mcs_lookup(mcs_client_t *client, mcs_key_at_fn key_at, mcs_found_at_fn found_at, void *arg, size_t count,
                mcs_arena_t *arena);

#endif
