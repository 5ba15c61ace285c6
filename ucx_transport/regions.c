/* See regions.h. */
#include "ucx_transport/regions.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/fault.h"
#include "core/base/log.h"

#define AREA "ucx"

typedef struct ucxt_region {
    uint64_t base;
    uint64_t len;
    bool busy; /* the thread registers one of its windows */
    uint32_t wanted;
    uint32_t window_count;
    ucxt_window_t window[];
} ucxt_region_t;

void ucxt_regions_init(ucxt_regions_t *regions, const ucxt_context_t *context)
{
    memset(regions, 0, sizeof(*regions));
    regions->context = context;
    mcs_mutex_init(&regions->lock, MCS_RANK_REGIONS, "regions");
    mcs_cond_init(&regions->changed);
}

/* ---- registering ---- */

static mcs_status_t window_open(const ucxt_context_t *context, void *base, uint64_t len, ucxt_window_t *window_out)
{
    const ucxt_dl_t *dl = context->dl;
    ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
        .address = base,
        .length = len,
    };
    ucp_mem_h memh = NULL;
    ucs_status_t rc =
        mcs_fault_hit(MCS_FAULT_SYSCALL) ? UCS_ERR_NO_MEMORY : dl->ucp_mem_map(context->ucp, &params, &memh);
    if (rc != UCS_OK) {
        mcs_debug(AREA, "registration of %p + %llu: %s", base, (unsigned long long)len, dl->ucs_status_string(rc));
        return MCS_ERR_NO_MEMORY;
    }
    void *rkey = NULL;
    size_t rkey_len = 0;
    rc = dl->ucp_rkey_pack(context->ucp, memh, &rkey, &rkey_len);
    if (rc != UCS_OK || rkey_len > UCXT_RKEY_MAX) {
        mcs_debug(AREA, "remote key of %zu bytes: %s", rkey_len, dl->ucs_status_string(rc));
        if (rc == UCS_OK) {
            dl->ucp_rkey_buffer_release(rkey);
        }
        (void)dl->ucp_mem_unmap(context->ucp, memh);
        return MCS_ERR_LIMIT;
    }
    memcpy(window_out->rkey, rkey, rkey_len);
    window_out->rkey_len = (uint16_t)rkey_len;
    window_out->memh = memh;
    dl->ucp_rkey_buffer_release(rkey);
    return MCS_OK;
}

static ucxt_region_t *wanted_region_locked(const ucxt_regions_t *regions)
{
    for (size_t i = 0; i < regions->count; i++) {
        if (regions->region[i]->wanted > 0) {
            return regions->region[i];
        }
    }
    return NULL;
}

static uint32_t wanted_window(const ucxt_region_t *region)
{
    uint32_t i = 0;
    while (region->window[i].state != UCXT_WINDOW_WANTED) {
        i++;
    }
    return i;
}

/* Under the lock, which it lets go meanwhile. */
static void register_one(ucxt_regions_t *regions, ucxt_region_t *region)
{
    uint32_t i = wanted_window(region);
    uint64_t at = i * UCXT_WINDOW_BYTES;
    ucxt_window_t made = {.state = UCXT_WINDOW_FAILED};
    region->busy = true;
    mcs_mutex_unlock(&regions->lock);
    mcs_status_t status = window_open(regions->context, (uint8_t *)(uintptr_t)region->base + at,
                                      MCS_MIN(region->len - at, UCXT_WINDOW_BYTES), &made);
    made.state = status == MCS_OK ? UCXT_WINDOW_READY : UCXT_WINDOW_FAILED;
    mcs_mutex_lock(&regions->lock);
    region->window[i] = made;
    region->wanted--;
    regions->wanted--;
    region->busy = false;
    if (status != MCS_OK && !regions->warned) {
        regions->warned = true;
        mcs_warn(AREA, "memory could not be registered for RDMA: its bytes travel in messages (ulimit -l, and the "
                       "device's own limits)");
    }
    mcs_cond_broadcast(&regions->changed);
}

static void register_main(void *arg)
{
    ucxt_regions_t *regions = arg;
    mcs_mutex_lock(&regions->lock);
    while (!regions->stop) {
        ucxt_region_t *region = regions->wanted > 0 ? wanted_region_locked(regions) : NULL;
        if (region == NULL) {
            mcs_cond_wait(&regions->changed, &regions->lock);
        } else {
            register_one(regions, region);
        }
    }
    mcs_mutex_unlock(&regions->lock);
}

mcs_status_t ucxt_regions_start(ucxt_regions_t *regions)
{
    return regions->context->rdma ? mcs_thread_start(&regions->thread, "mcs-register", register_main, regions) : MCS_OK;
}

static void region_free(const ucxt_context_t *context, ucxt_region_t *region)
{
    for (uint32_t i = 0; i < region->window_count; i++) {
        if (region->window[i].state == UCXT_WINDOW_READY) {
            (void)context->dl->ucp_mem_unmap(context->ucp, region->window[i].memh);
        }
    }
    mcs_free(region);
}

void ucxt_regions_fini(ucxt_regions_t *regions)
{
    mcs_mutex_lock(&regions->lock);
    regions->stop = true;
    mcs_cond_broadcast(&regions->changed);
    mcs_mutex_unlock(&regions->lock);
    mcs_thread_join(&regions->thread);
    for (size_t i = 0; i < regions->count; i++) {
        region_free(regions->context, regions->region[i]);
    }
    mcs_free(regions->region);
    mcs_cond_fini(&regions->changed);
    mcs_mutex_fini(&regions->lock);
}

/* ---- regions ---- */

/* Index of the first region whose base is above `base`. */
static size_t upper_bound_locked(const ucxt_regions_t *regions, uint64_t base)
{
    size_t low = 0;
    size_t high = regions->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (regions->region[middle]->base <= base) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static mcs_status_t insert_locked(ucxt_regions_t *regions, ucxt_region_t *region)
{
    size_t at = upper_bound_locked(regions, region->base);
    if ((at > 0 && regions->region[at - 1]->base + regions->region[at - 1]->len > region->base) ||
        (at < regions->count && region->base + region->len > regions->region[at]->base)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (regions->count == regions->cap) {
        size_t cap = regions->cap == 0 ? 16 : regions->cap * 2;
        ucxt_region_t **grown = mcs_realloc(regions->region, cap * sizeof(ucxt_region_t *));
        if (grown == NULL) {
            return MCS_ERR_NO_MEMORY;
        }
        regions->region = grown;
        regions->cap = cap;
    }
    memmove(&regions->region[at + 1], &regions->region[at], (regions->count - at) * sizeof(ucxt_region_t *));
    regions->region[at] = region;
    regions->count++;
    regions->wanted += region->wanted;
    mcs_cond_broadcast(&regions->changed);
    return MCS_OK;
}

static bool is_there(ucxt_regions_t *regions, uint64_t base, uint64_t len)
{
    mcs_mutex_lock(&regions->lock);
    size_t at = upper_bound_locked(regions, base);
    bool there = at > 0 && regions->region[at - 1]->base == base && regions->region[at - 1]->len == len;
    mcs_mutex_unlock(&regions->lock);
    return there;
}

mcs_status_t ucxt_regions_add(ucxt_regions_t *regions, void *base, uint64_t len, bool ahead)
{
    uint64_t from = (uint64_t)(uintptr_t)base;
    if (!regions->context->rdma || is_there(regions, from, len)) {
        return MCS_OK;
    }
    if (len == 0 || from + len < from || (len - 1) / UCXT_WINDOW_BYTES >= UINT32_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    uint32_t windows = (uint32_t)((len - 1) / UCXT_WINDOW_BYTES) + 1;
    ucxt_region_t *region = mcs_calloc(1, sizeof(*region) + windows * sizeof(region->window[0]));
    if (region == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    region->base = from;
    region->len = len;
    region->window_count = windows;
    region->wanted = ahead ? windows : 0;
    for (uint32_t i = 0; i < windows; i++) {
        region->window[i].state = ahead ? UCXT_WINDOW_WANTED : UCXT_WINDOW_NONE;
    }
    mcs_mutex_lock(&regions->lock);
    mcs_status_t status = insert_locked(regions, region);
    mcs_mutex_unlock(&regions->lock);
    if (status != MCS_OK) {
        mcs_free(region);
    }
    return status;
}

/* Until nobody is inside who was when it began. */
static void let_out_locked(ucxt_regions_t *regions)
{
    while (regions->turning) {
        mcs_cond_wait(&regions->changed, &regions->lock);
    }
    regions->turning = true;
    unsigned former = regions->half;
    regions->half = 1 - former;
    while (regions->inside[former] > 0) {
        mcs_cond_wait(&regions->changed, &regions->lock);
    }
    regions->turning = false;
    mcs_cond_broadcast(&regions->changed);
}

void ucxt_regions_remove(ucxt_regions_t *regions, const void *base)
{
    uint64_t from = (uint64_t)(uintptr_t)base;
    mcs_mutex_lock(&regions->lock);
    size_t at = upper_bound_locked(regions, from);
    if (at == 0 || regions->region[at - 1]->base != from) {
        mcs_mutex_unlock(&regions->lock);
        return;
    }
    ucxt_region_t *region = regions->region[at - 1];
    memmove(&regions->region[at - 1], &regions->region[at], (regions->count - at) * sizeof(ucxt_region_t *));
    regions->count--;
    while (region->busy) {
        mcs_cond_wait(&regions->changed, &regions->lock);
    }
    regions->wanted -= region->wanted;
    let_out_locked(regions);
    mcs_mutex_unlock(&regions->lock);
    region_free(regions->context, region);
}

/* ---- use ---- */

unsigned ucxt_regions_enter(ucxt_regions_t *regions)
{
    mcs_mutex_lock(&regions->lock);
    unsigned half = regions->half;
    regions->inside[half]++;
    mcs_mutex_unlock(&regions->lock);
    return half;
}

void ucxt_regions_leave(ucxt_regions_t *regions, unsigned half)
{
    mcs_mutex_lock(&regions->lock);
    if (--regions->inside[half] == 0 && regions->turning) {
        mcs_cond_broadcast(&regions->changed);
    }
    mcs_mutex_unlock(&regions->lock);
}

static const ucxt_window_t *find_locked(ucxt_regions_t *regions, uint64_t from, uint64_t len)
{
    size_t at = upper_bound_locked(regions, from);
    ucxt_region_t *region = at > 0 ? regions->region[at - 1] : NULL;
    if (region == NULL || from - region->base >= region->len || len > region->len - (from - region->base)) {
        return NULL;
    }
    uint64_t first = (from - region->base) / UCXT_WINDOW_BYTES;
    if ((from - region->base + len - 1) / UCXT_WINDOW_BYTES != first) {
        return NULL;
    }
    ucxt_window_t *window = &region->window[first];
    if (window->state == UCXT_WINDOW_NONE) {
        window->state = UCXT_WINDOW_WANTED;
        region->wanted++;
        regions->wanted++;
        mcs_cond_broadcast(&regions->changed);
    }
    return window->state == UCXT_WINDOW_READY ? window : NULL;
}

const ucxt_window_t *ucxt_regions_find(ucxt_regions_t *regions, const void *ptr, uint64_t len)
{
    if (!regions->context->rdma || len == 0) {
        return NULL;
    }
    mcs_mutex_lock(&regions->lock);
    const ucxt_window_t *window = find_locked(regions, (uint64_t)(uintptr_t)ptr, len);
    mcs_mutex_unlock(&regions->lock);
    return window;
}
