/* Blocks with one ending that the last evictions left, for the next one. Eviction comes in bursts, and each of its
 * objects needs a block until its owner has answered: from the heap that would be memory which the kernel gives and
 * takes back for each burst, at a price above that of the eviction itself.
 *
 * Kept are SVC_BLOCKS_MAX at most, and none when there has been no eviction for a while. */
#include "core/base/alloc.h"
#include "master/svc_internal.h"

#ifdef __SANITIZE_ADDRESS__
#define KEEP false /* what is used after its end would not be noticed */
#else
#define KEEP true
#endif

static void fetch(const svc_pending_t *block)
{
    const char *end = (const char *)block + sizeof(*block) + sizeof(svc_ending_t);
    for (const char *line = (const char *)block; line < end; line += 64) {
        __builtin_prefetch(line, 1);
    }
}

uint32_t svc_blocks_take(mcs_service_t *service, svc_pending_t **blocks_out, uint32_t max)
{
    svc_blocks_t *blocks = &service->blocks;
    uint32_t count = 0;
    mcs_mutex_lock(&blocks->lock);
    while (count < max && blocks->count > 0) {
        blocks_out[count++] = blocks->kept[--blocks->count];
    }
    mcs_mutex_unlock(&blocks->lock);
    for (uint32_t i = 0; i < count; i++) {
        fetch(blocks_out[i]);
    }
    while (count < max) {
        blocks_out[count] = mcs_malloc(sizeof(svc_pending_t) + sizeof(svc_ending_t));
        if (blocks_out[count] == NULL) {
            break;
        }
        count++;
    }
    return count;
}

void svc_blocks_give(mcs_service_t *service, svc_pending_t *block)
{
    svc_blocks_t *blocks = &service->blocks;
    bool keep = false;
    mcs_mutex_lock(&blocks->lock);
    if (KEEP && blocks->count < SVC_BLOCKS_MAX) {
        blocks->kept[blocks->count++] = block;
        keep = true;
    }
    mcs_mutex_unlock(&blocks->lock);
    if (!keep) {
        mcs_free(block);
    }
}

void svc_blocks_trim(mcs_service_t *service)
{
    svc_pending_t *blocks[SVC_EVICT_BLOCKS];
    for (;;) {
        uint32_t count = 0;
        mcs_mutex_lock(&service->blocks.lock);
        while (count < SVC_EVICT_BLOCKS && service->blocks.count > 0) {
            blocks[count++] = service->blocks.kept[--service->blocks.count];
        }
        mcs_mutex_unlock(&service->blocks.lock);
        if (count == 0) {
            return;
        }
        for (uint32_t i = 0; i < count; i++) {
            mcs_free(blocks[i]);
        }
    }
}
