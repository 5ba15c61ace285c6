/* A wave: moves of device memory over mappings that are pinned together and go in one copy of the space
 * (device_mapped.c, device_far.c). Lives on the stack of a call. Its copies and sums serve lists without pins, too
 * (device_direct.c). */
#ifndef MCS_CLIENT_DEVICE_WAVE_H
#define MCS_CLIENT_DEVICE_WAVE_H

#include "core/client/device.h"

#define MCS_WAVE 64

typedef struct mcs_pinned {
    mcs_move_t *move;
    mcs_pin_t pin;
    uint32_t *crcs; /* of the extent; or of its blocks from crcs_from on */
    uint64_t crcs_from;
    int device;          /* that all of its memory is on; MCS_MEM_HOST: not one alone, or the host's */
    bool by_device;      /* the device may sum its whole blocks */
    uint64_t first;      /* of the payload's blocks that the move has whole */
    uint64_t blocks;     /* how many */
    uint32_t at;         /* where they stand among the copy's */
    mcs_status_t status; /* atomic while units run */
} mcs_pinned_t;

typedef struct mcs_wave {
    mcs_client_t *client;
    mcs_direction_t direction;
    mcs_arena_t *arena;
    mcs_pinned_t pinned[MCS_WAVE];
    size_t count;
    size_t piece_room;
    size_t piece_max; /* unless a single key has more */
} mcs_wave_t;

void mcs_wave_init(mcs_wave_t *wave, mcs_client_t *client, mcs_direction_t direction, mcs_arena_t *arena,
                   size_t piece_max);
/* No room for this move: the wave is to be run first. */
bool mcs_wave_is_full(const mcs_wave_t *wave, const mcs_move_t *move);
/* Pins the move's extent and adds it; or the move has its status. */
void mcs_wave_add(mcs_wave_t *wave, mcs_move_t *move, uint64_t deadline_ns);
/* Pieces of a copy of the move, at most. */
size_t mcs_wave_pieces(const mcs_move_t *move);
/* One copy of those listed; its memory is the arena's. */
mcs_status_t mcs_pinned_plan(mcs_direction_t direction, mcs_arena_t *arena, mcs_pinned_t *list, size_t count,
                             mcs_mem_copy_t *copy) MCS_MUST_CHECK;
/* What the device summed: into the extents, or compared with what is there. */
void mcs_pinned_take_sums(mcs_direction_t direction, mcs_pinned_t *list, size_t count, const uint32_t *crcs);
/* Counts, seals, unpins: the moves have their statuses, and the wave is empty. */
void mcs_wave_finish(mcs_wave_t *wave);

#endif
