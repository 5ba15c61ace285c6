/* See regions.h. */
#include "ucx_transport/regions.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "core/base/memprobe.h"

#define AREA "ucx"

typedef struct ucxt_region {
    mcs_list_t node; /* in regions->wanted, or removed */
    uint64_t base;
    uint64_t len;
    mcs_exposure_t how;
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
    mcs_list_init(&regions->wanted);
    mcs_list_init(&regions->removed);
}

/* ---- registering ---- */

static mcs_status_t pack_key(const ucxt_context_t *context, ucxt_window_t *window)
{
    const ucxt_dl_t *dl = context->dl;
    void *rkey = NULL;
    size_t len = 0;
    ucs_status_t rc = dl->ucp_rkey_pack(context->ucp, window->memh, &rkey, &len);
    if (rc != UCS_OK) {
        mcs_debug(AREA, "remote key: %s", dl->ucs_status_string(rc));
        return MCS_ERR_LIMIT;
    }
    bool fits = len <= UCXT_KEY_MAX;
    if (fits) {
        memcpy(window->rkey, rkey, len);
        window->rkey_len = (uint16_t)len;
    } else {
        mcs_debug(AREA, "remote key of %zu bytes", len);
    }
    dl->ucp_rkey_buffer_release(rkey);
    return fits ? MCS_OK : MCS_ERR_LIMIT;
}

/* UCX's emulation is made by processors. */
static bool is_in_reach(const ucxt_context_t *context, const ucxt_window_t *window)
{
    if (context->rdma_devices[0] != '\0') {
        return true; /* the registration says it */
    }
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    const void *base = (const void *)(uintptr_t)window->base; /* NOLINT(performance-no-int-to-ptr) */
    mcs_status_t status = mcs_memprobe_check(&probe, base, window->len, true);
    mcs_memprobe_fini(&probe);
    return status == MCS_OK;
}

static mcs_status_t window_open(const ucxt_context_t *context, mcs_exposure_t how, ucxt_window_t *window)
{
    const ucxt_dl_t *dl = context->dl;
    if (how == MCS_EXPOSED_DEVICE && !is_in_reach(context, window)) {
        return MCS_ERR_NOT_SUPPORTED;
    }
    ucp_mem_map_params_t params = {
        .field_mask =
            UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE,
        .address = (void *)(uintptr_t)window->base,
        .length = window->len,
        .memory_type = UCS_MEMORY_TYPE_HOST, /* whatever it is: see regions.h */
    };
    ucs_status_t rc =
        mcs_fault_hit(MCS_FAULT_SYSCALL) ? UCS_ERR_NO_MEMORY : dl->ucp_mem_map(context->ucp, &params, &window->memh);
    if (rc != UCS_OK) {
        mcs_debug(AREA, "registration of %llu bytes: %s", (unsigned long long)window->len, dl->ucs_status_string(rc));
        return MCS_ERR_NO_MEMORY;
    }
    mcs_status_t status = how != MCS_EXPOSED_LOCALLY ? pack_key(context, window) : MCS_OK;
    if (status != MCS_OK) {
        (void)dl->ucp_mem_unmap(context->ucp, window->memh);
    }
    return status;
}

static void want_locked(ucxt_regions_t *regions, ucxt_region_t *region, uint32_t windows)
{
    if (windows > 0 && region->wanted == 0) {
        mcs_list_push_tail(&regions->wanted, &region->node);
    }
    region->wanted += windows;
    mcs_cond_broadcast(&regions->changed);
}

static uint32_t wanted_window(const ucxt_region_t *region)
{
    uint32_t i = 0;
    while (region->window[i].state != UCXT_WINDOW_WANTED) {
        i++;
    }
    return i;
}

/* Once for each kind of memory. */
static void warn_once(ucxt_regions_t *regions, bool device)
{
    bool *warned = &regions->warned[device];
    if (!*warned && device) {
        mcs_warn(AREA, "GPU memory could not be registered for RDMA: its bytes travel through pinned host memory (is "
                       "the kernel module nvidia-peermem loaded?)");
    } else if (!*warned) {
        mcs_warn(AREA, "memory could not be registered for RDMA: its bytes travel in messages (ulimit -l, and the "
                       "device's own limits)");
    }
    *warned = true;
}

/* Under the lock, which it lets go meanwhile. */
static void register_one(ucxt_regions_t *regions, ucxt_region_t *region)
{
    uint32_t i = wanted_window(region);
    ucxt_window_t made = region->window[i];
    region->busy = true;
    mcs_mutex_unlock(&regions->lock);
    mcs_status_t status = window_open(regions->context, region->how, &made);
    made.state = status == MCS_OK ? UCXT_WINDOW_READY : UCXT_WINDOW_FAILED;
    mcs_mutex_lock(&regions->lock);
    region->window[i] = made;
    region->busy = false;
    if (--region->wanted == 0) {
        mcs_list_remove(&region->node);
    }
    if (status != MCS_OK) {
        warn_once(regions, region->how == MCS_EXPOSED_DEVICE);
    }
    mcs_cond_broadcast(&regions->changed);
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

static void free_list(const ucxt_context_t *context, mcs_list_t *list)
{
    while (!mcs_list_empty(list)) {
        ucxt_region_t *region = MCS_LIST_FIRST(list, ucxt_region_t, node);
        mcs_list_remove(&region->node);
        region_free(context, region);
    }
}

/* Under the lock, which it lets go meanwhile. Goes on registering for others while it waits. */
static void end_removed(ucxt_regions_t *regions)
{
    mcs_list_t out;
    mcs_list_init(&out);
    while (!mcs_list_empty(&regions->removed)) {
        mcs_list_t *node = regions->removed.next;
        mcs_list_remove(node);
        mcs_list_push_tail(&out, node);
    }
    unsigned former = regions->half;
    regions->half = 1 - former;
    while (regions->inside[former] > 0 && !regions->stop) {
        if (mcs_list_empty(&regions->wanted)) {
            mcs_cond_wait(&regions->changed, &regions->lock);
        } else {
            register_one(regions, MCS_LIST_FIRST(&regions->wanted, ucxt_region_t, node));
        }
    }
    mcs_mutex_unlock(&regions->lock);
    free_list(regions->context, &out); /* at a stop, too: nobody is inside then */
    mcs_mutex_lock(&regions->lock);
}

static void register_main(void *arg)
{
    ucxt_regions_t *regions = arg;
    mcs_mutex_lock(&regions->lock);
    while (!regions->stop) {
        if (!mcs_list_empty(&regions->removed)) {
            end_removed(regions);
        } else if (!mcs_list_empty(&regions->wanted)) {
            register_one(regions, MCS_LIST_FIRST(&regions->wanted, ucxt_region_t, node));
        } else {
            mcs_cond_wait(&regions->changed, &regions->lock);
        }
    }
    mcs_mutex_unlock(&regions->lock);
}

mcs_status_t ucxt_regions_start(ucxt_regions_t *regions)
{
    return regions->context->rdma ? mcs_thread_start(&regions->thread, "mcs-register", register_main, regions) : MCS_OK;
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
    free_list(regions->context, &regions->removed);
    mcs_free(regions->region);
    mcs_cond_fini(&regions->changed);
    mcs_mutex_fini(&regions->lock);
}

/* ---- regions ---- */

static bool is_ahead(mcs_exposure_t how)
{
    return how == MCS_EXPOSED_AHEAD || how == MCS_EXPOSED_DEVICE;
}

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
    want_locked(regions, region, is_ahead(region->how) ? region->window_count : 0);
    return MCS_OK;
}

static ucxt_region_t *region_new(uint64_t base, uint64_t len, mcs_exposure_t how)
{
    uint32_t windows = (uint32_t)((len - 1) / UCXT_WINDOW_BYTES) + 1;
    ucxt_region_t *region = mcs_calloc(1, sizeof(*region) + windows * sizeof(region->window[0]));
    if (region == NULL) {
        return NULL;
    }
    mcs_list_init(&region->node);
    region->base = base;
    region->len = len;
    region->how = how;
    region->window_count = windows;
    for (uint32_t i = 0; i < windows; i++) {
        uint64_t at = i * UCXT_WINDOW_BYTES;
        region->window[i].base = base + at;
        region->window[i].len = MCS_MIN(len - at, UCXT_WINDOW_BYTES);
        region->window[i].state = is_ahead(how) ? UCXT_WINDOW_WANTED : UCXT_WINDOW_NONE;
    }
    return region;
}

static bool is_there(ucxt_regions_t *regions, uint64_t base, uint64_t len)
{
    mcs_mutex_lock(&regions->lock);
    size_t at = upper_bound_locked(regions, base);
    bool there = at > 0 && regions->region[at - 1]->base == base && regions->region[at - 1]->len == len;
    mcs_mutex_unlock(&regions->lock);
    return there;
}

mcs_status_t ucxt_regions_add(ucxt_regions_t *regions, void *base, uint64_t len, mcs_exposure_t how)
{
    uint64_t from = (uint64_t)(uintptr_t)base;
    if (!regions->context->rdma || is_there(regions, from, len)) {
        return MCS_OK;
    }
    if (len == 0 || from + len < from || (len - 1) / UCXT_WINDOW_BYTES >= UINT32_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    ucxt_region_t *region = region_new(from, len, how);
    if (region == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_mutex_lock(&regions->lock);
    mcs_status_t status = insert_locked(regions, region);
    mcs_mutex_unlock(&regions->lock);
    if (status != MCS_OK) {
        mcs_free(region);
    }
    return status;
}

/* The windows that the thread has not come to are nobody's any more; one that it is at is what it still wants. */
static void drop_wanted_locked(ucxt_region_t *region)
{
    uint32_t under_way = region->busy ? 1 : 0;
    if (region->wanted > 0 && under_way == 0) {
        mcs_list_remove(&region->node);
    }
    region->wanted = under_way;
    for (uint32_t i = 0; i < region->window_count; i++) {
        if (region->window[i].state == UCXT_WINDOW_WANTED) {
            region->window[i].state = UCXT_WINDOW_FAILED;
        }
    }
}

void ucxt_regions_remove(ucxt_regions_t *regions, const void *base)
{
    uint64_t from = (uint64_t)(uintptr_t)base;
    mcs_mutex_lock(&regions->lock);
    size_t at = upper_bound_locked(regions, from);
    if (at > 0 && regions->region[at - 1]->base == from) {
        ucxt_region_t *region = regions->region[at - 1];
        memmove(&regions->region[at - 1], &regions->region[at], (regions->count - at) * sizeof(ucxt_region_t *));
        regions->count--;
        drop_wanted_locked(region);
        while (region->busy) { /* milliseconds, for this window alone; the memory is still mapped */
            mcs_cond_wait(&regions->changed, &regions->lock);
        }
        mcs_list_push_tail(&regions->removed, &region->node);
        mcs_cond_broadcast(&regions->changed);
    }
    mcs_mutex_unlock(&regions->lock);
}

/* ---- use ---- */

unsigned ucxt_regions_enter(ucxt_regions_t *regions)
{
    if (!regions->context->rdma) {
        return 0; /* nothing is there that could be found */
    }
    mcs_mutex_lock(&regions->lock);
    unsigned half = regions->half;
    regions->inside[half]++;
    mcs_mutex_unlock(&regions->lock);
    return half;
}

void ucxt_regions_leave(ucxt_regions_t *regions, unsigned half)
{
    if (!regions->context->rdma) {
        return;
    }
    mcs_mutex_lock(&regions->lock);
    if (--regions->inside[half] == 0 && half != regions->half) {
        mcs_cond_broadcast(&regions->changed);
    }
    mcs_mutex_unlock(&regions->lock);
}

static const ucxt_window_t *find_locked(ucxt_regions_t *regions, const void *ptr, uint64_t len, bool for_peers)
{
    uint64_t from = (uint64_t)(uintptr_t)ptr;
    size_t at = upper_bound_locked(regions, from);
    ucxt_region_t *region = at > 0 ? regions->region[at - 1] : NULL;
    if (region == NULL || from - region->base >= region->len || (for_peers && region->how == MCS_EXPOSED_LOCALLY)) {
        return NULL;
    }
    ucxt_window_t *window = &region->window[(from - region->base) / UCXT_WINDOW_BYTES];
    if (ucxt_window_room(window, ptr) < len) {
        return NULL;
    }
    if (window->state == UCXT_WINDOW_NONE) {
        window->state = UCXT_WINDOW_WANTED;
        want_locked(regions, region, 1);
    }
    return window->state == UCXT_WINDOW_READY ? window : NULL;
}

const ucxt_window_t *ucxt_regions_find(ucxt_regions_t *regions, const void *ptr, uint64_t len, bool for_peers)
{
    if (!regions->context->rdma || len == 0) {
        return NULL;
    }
    mcs_mutex_lock(&regions->lock);
    const ucxt_window_t *window = find_locked(regions, ptr, len, for_peers);
    mcs_mutex_unlock(&regions->lock);
    return window;
}

/* The walk over a payload's memory, piece by piece. */
typedef struct cover {
    uint64_t from;  /* payload byte */
    uint64_t bytes; /* of the piece */
    uint32_t stretches;
    uint32_t window_count;
    const ucxt_window_t *window[UCXT_KEYS_MAX];
} cover_t;

static const ucxt_window_t *window_of_locked(ucxt_regions_t *regions, cover_t *cover, const uint8_t *byte)
{
    for (uint32_t i = cover->window_count; i > 0; i--) {
        if (ucxt_window_room(cover->window[i - 1], byte) > 0) {
            return cover->window[i - 1];
        }
    }
    const ucxt_window_t *window = find_locked(regions, byte, 1, true);
    if (window == NULL || cover->window_count == UCXT_KEYS_MAX) {
        return NULL;
    }
    cover->window[cover->window_count++] = window;
    return window;
}

static bool end_piece(cover_t *cover)
{
    bool fits = ucxt_stretches_fit(cover->bytes, cover->stretches);
    cover->bytes = 0;
    cover->stretches = 0;
    cover->window_count = 0;
    return fits;
}

static bool cover_locked(ucxt_regions_t *regions, cover_t *cover, const uint8_t *at, uint64_t len)
{
    while (len > 0) {
        const ucxt_window_t *window = window_of_locked(regions, cover, at);
        if (window == NULL) {
            return false;
        }
        uint64_t step = MCS_MIN(ucxt_window_room(window, at), UCXT_PIECE_MAX - cover->from % UCXT_PIECE_MAX);
        step = MCS_MIN(step, len);
        at += step;
        len -= step;
        cover->from += step;
        cover->bytes += step;
        cover->stretches++;
        if (cover->from % UCXT_PIECE_MAX == 0 && !end_piece(cover)) {
            return false;
        }
    }
    return true;
}

bool ucxt_regions_cover(ucxt_regions_t *regions, const struct iovec *iov, uint64_t from, uint64_t len)
{
    cover_t cover; /* the windows are not looked at before they are set */
    cover.from = from;
    cover.bytes = 0;
    cover.stretches = 0;
    cover.window_count = 0;
    if (!regions->context->rdma) {
        return false;
    }
    bool covered = true;
    mcs_mutex_lock(&regions->lock);
    for (uint64_t left = len; covered && left > 0; iov++) {
        uint64_t here = MCS_MIN((uint64_t)iov->iov_len, left);
        covered = cover_locked(regions, &cover, iov->iov_base, here);
        left -= here;
    }
    mcs_mutex_unlock(&regions->lock);
    return covered && end_piece(&cover);
}
