/* What a churning owner and its readers share in a race: where the newest objects are. Header only. */
#ifndef MCS_TESTS_SAME_HOST_BOARD_H
#define MCS_TESTS_SAME_HOST_BOARD_H

#include "tests/unit/same_host/rig.h"

#define BOARD_PLACES 8u
#define BOARD_LEN    UINT64_C(8192) /* of an object */
/* Extents are as many again: while one is on its way back the next is written. */
#define BOARD_STRIDE (UINT64_C(16) * 1024)

/* offset / 64 in the high bits would cost generations their range: an entry is the generation alone, and the extent
 * follows from it. */
typedef struct board {
    uint64_t generation[BOARD_PLACES]; /* atomic, 0 = nothing yet */
    uint32_t extent[BOARD_PLACES];     /* atomic, of that generation or a newer one */
    uint32_t stop;                     /* atomic */
} board_t;

/* Pins whatever is newest, looks at every byte three times while it is pinned, and lets it go. A miss (given back
 * meanwhile) is fine. Returns how many objects were read, or minus the generation of the first one that had a byte of
 * another. */
static inline long long board_read_until_stopped(board_t *board, mcs_mapping_t *mapping)
{
    long long reads = 0;
    for (uint32_t i = 0; __atomic_load_n(&board->stop, __ATOMIC_ACQUIRE) == 0; i = (i + 1) % BOARD_PLACES) {
        uint64_t generation = __atomic_load_n(&board->generation[i], __ATOMIC_ACQUIRE);
        uint64_t offset = __atomic_load_n(&board->extent[i], __ATOMIC_ACQUIRE) * BOARD_STRIDE;
        mcs_pin_t pin;
        if (generation == 0 ||
            mcs_pin_read(mapping, offset, generation, BOARD_LEN, rig_key(generation), &pin) != MCS_OK) {
            continue;
        }
        bool right = true;
        for (int look = 0; look < 3; look++) {
            right = right && rig_is_filled(pin.payload, BOARD_LEN, generation);
        }
        mcs_unpin(&pin);
        if (!right) {
            return -(long long)generation;
        }
        reads++;
    }
    return reads;
}

#endif
