/* Direct access to segments in this process and in other processes of this host: mapping cache and pins.
 *
 * A mapping is one segment instance in this process's address space: an own segment (no connection, a private slot page
 * registered with the owner) or a peer's, got over the owner's UNIX socket: hello {versions, client, session}, peer
 * credentials must be of our uid, answer carries the segment's memfd, its control page, the slot page of this
 * connection and the owner's revoked table. One connection per owner process; it maps all instances asked for. Only
 * ranges the owner has faulted are populated here (MADV_POPULATE_READ/WRITE in pieces, ahead of use by the thread that
 * needs them).
 *
 * A connection ends when its owner dies, when it parts with us (a segment of its was unmounted, our session ended) or
 * when another session of ours begins: its mappings are lost. New pins fail with MCS_ERR_TRANSFER_FAIL, existing pins
 * and views keep their memory (the memfd lives as long as it is mapped), and what nobody pins is unmapped by the
 * mapper's thread ("mcs-mapper"), so that the memory of a dead owner does not stay. A forked child's calls of
 * mcs_unpin, mcs_mapping_put and mcs_mapper_destroy do nothing (rule 11).
 *
 * A far segment is mapped when this process can open its memory (config.open_far): then its payloads are where the
 * device sees them, for the device's copies alone.
 *
 * A pin is the right to touch one extent: a slot that names its generation, held until mcs_unpin. Thread-safe. Locks:
 * MCS_RANK_MAPPER. */
#ifndef MCS_SEGMENT_MAPPER_H
#define MCS_SEGMENT_MAPPER_H

#include "core/segment/owner.h"
#include "core/wire/extent.h"

typedef struct mcs_mapper mcs_mapper_t;
typedef struct mcs_mapping mcs_mapping_t;

typedef struct mcs_mapper_config {
    mcs_id_t client;
    mcs_owner_t *owner; /* this process's own side, NULL if it has none */
    /* A mapping that was exposed is given up: who holds it for something else than a pin puts it. On any thread,
     * without locks; may block for a while. NULL when nothing is exposed. */
    void (*retired)(void *arg, void *base);
    void *retired_arg;
    /* Opens a peer's far memory. NULL, or any error: the segment is not mapped. */
    mcs_status_t (*open_far)(void *arg, const mcs_mem_share_t *share, int fd, mcs_far_t *far_out);
    void *open_far_arg;
} mcs_mapper_config_t;

typedef struct mcs_mapper_peer {
    mcs_id_t owner; /* client id of the owner */
    mcs_id_t instance;
    uint64_t size;
    const char *ipc_path; /* from the master; "" = not offered */
} mcs_mapper_peer_t;

typedef struct mcs_pin {
    mcs_mapping_t *mapping;
    mcs_extent_header_t *header;
    void *payload; /* of a far mapping: a device's address */
    uint64_t payload_len;
    uint64_t generation;
    int slot;
} mcs_pin_t;

mcs_status_t mcs_mapper_create(const mcs_mapper_config_t *config, mcs_mapper_t **mapper_out) MCS_MUST_CHECK;
/* Connections end; mappings with pins live until the last unpin. */
void mcs_mapper_destroy(mcs_mapper_t *mapper);
/* The session that hellos carry; a new session closes the connections of the old one once their pins are gone. */
void mcs_mapper_set_session(mcs_mapper_t *mapper, mcs_id_t session);

/* Own segments are known without a connection. */
mcs_status_t mcs_mapper_add_own(mcs_mapper_t *mapper, mcs_segment_t *segment) MCS_MUST_CHECK;
void mcs_mapper_remove_own(mcs_mapper_t *mapper, mcs_id_t instance);

/* The mapping of an instance: cached, or made now (connect and hello within `deadline_ns`, normally < 1 ms).
 * MCS_ERR_TRANSFER_FAIL when the same-host path cannot be had (no socket, refused, another uid, lost): remembered for a
 * second (30, when far memory could not be opened), the caller takes the transport. Put with mcs_mapping_put. */
mcs_status_t mcs_mapper_get(mcs_mapper_t *mapper, const mcs_mapper_peer_t *peer, uint64_t deadline_ns,
                            mcs_mapping_t **mapping_out) MCS_MUST_CHECK;
mcs_mapping_t *mcs_mapping_ref(mcs_mapping_t *mapping);
void mcs_mapping_put(mcs_mapping_t *mapping);
bool mcs_mapping_is_own(const mcs_mapping_t *mapping);
/* The device's memory that payloads lie in; NULL: they are in host memory. */
const mcs_mem_far_t *mcs_mapping_far(const mcs_mapping_t *mapping);

/* The memory of a mapping, for what keeps it beyond a pin (pinned pages for a device). Who does takes a reference of
 * its own first, then exposes the mapping; false: it has been given up already (and nobody will be told), or is exposed
 * already. */
typedef struct mcs_mapping_memory {
    void *base;
    uint64_t size;
    const uint64_t *faulted; /* of the control page, which other processes write */
} mcs_mapping_memory_t;
void mcs_mapping_memory(const mcs_mapping_t *mapping, mcs_mapping_memory_t *memory_out);
bool mcs_mapping_expose(mcs_mapping_t *mapping) MCS_MUST_CHECK;
/* Neither exposed nor given up. */
bool mcs_mapping_is_plain(const mcs_mapping_t *mapping);

/* Reads: the extent must be WRITTEN with this generation, length and key. MCS_ERR_REPLICA_IS_GONE otherwise;
 * MCS_ERR_LIMIT when no slot is free; MCS_ERR_TRANSFER_FAIL when the owner is lost; MCS_ERR_INVALID_READ out of bounds.
 * The pin holds a reference of the mapping. */
mcs_status_t mcs_pin_read(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t payload_len,
                          mcs_hash128_t key_hash, mcs_pin_t *pin_out) MCS_MUST_CHECK;
/* Writes: opens the extent (header OPEN) and makes it safe to write. MCS_ERR_REPLICA_IS_GONE when the reservation was
 * revoked. */
mcs_status_t mcs_pin_write(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t payload_len,
                           mcs_hash128_t key_hash, mcs_pin_t *pin_out) MCS_MUST_CHECK;
/* Block CRCs of the extent: read after pin_read; filled by the writer before the seal. */
uint32_t *mcs_pin_crcs(const mcs_pin_t *pin);
/* Bytes and CRCs are in place: OPEN -> WRITTEN. MCS_ERR_REPLICA_IS_GONE when it died meanwhile. Keeps the pin. */
mcs_status_t mcs_pin_seal(mcs_pin_t *pin) MCS_MUST_CHECK;
/* Any thread, never blocks (a Python destructor or a CUDA event may call it). */
void mcs_unpin(mcs_pin_t *pin);

typedef struct mcs_mapper_stats {
    uint64_t mappings;
    uint64_t mapped_bytes;
    uint64_t pins;
} mcs_mapper_stats_t;
void mcs_mapper_stats(mcs_mapper_t *mapper, mcs_mapper_stats_t *stats_out);

#endif
