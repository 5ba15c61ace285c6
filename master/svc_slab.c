/* See svc_slab.h. */
#include "master/svc_slab.h"

#include <string.h>
#include <sys/mman.h>

#include "core/base/alloc.h"

#define PAGES_PER_CHUNK ((uint32_t)(SVC_SLAB_CHUNK / SVC_SLAB_PAGE))
#define UNITS_PER_PAGE  ((uint32_t)(SVC_SLAB_PAGE / SVC_SLAB_UNIT))
#define PAGE_HEADER     64u
#define LINEAR_CLASSES  64u /* 16 .. 1024 bytes in steps of 16 */
#define ALL_PAGES       UINT32_MAX
#define PAGE_BITS       5u /* of a page's number: its index in the chunk */
#define UNIT_MASK       ((UINT32_C(1) << SVC_SLAB_BITS) - 1)

/* The larger classes fill a page with 6 to 51 items. */
static const uint16_t g_large[] = {1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6528, 8176, 9344};

_Static_assert(PAGES_PER_CHUNK == 1u << PAGE_BITS, "a bit each in page_bits");

/* A page is named by chunk << PAGE_BITS | index, plus 1: 0 = none. */
typedef struct page {
    uint32_t next; /* in its domain's list of pages with room */
    uint32_t prev;
    uint32_t item; /* bytes */
    uint16_t capacity;
    uint16_t used;
    uint16_t carved;    /* items handed out at least once */
    uint16_t free_item; /* index + 1 of the first given-back one */
    uint16_t class_index;
    uint16_t domain;
} page_t;
_Static_assert(sizeof(page_t) <= PAGE_HEADER, "fits before the items");

static uint32_t class_of(size_t size)
{
    if (size <= (size_t)LINEAR_CLASSES * SVC_SLAB_UNIT) {
        return (uint32_t)((size + SVC_SLAB_UNIT - 1) / SVC_SLAB_UNIT) - 1;
    }
    for (uint32_t i = 0; i < MCS_ARRAY_LEN(g_large); i++) {
        if (size <= g_large[i]) {
            return LINEAR_CLASSES + i;
        }
    }
    return SVC_SLAB_CLASSES;
}

static uint32_t class_bytes(uint32_t index)
{
    return index < LINEAR_CLASSES ? (index + 1) * SVC_SLAB_UNIT : g_large[index - LINEAR_CLASSES];
}

static page_t *page_at(const svc_slab_t *slab, uint32_t number)
{
    uint8_t *chunk = __atomic_load_n(&slab->chunks[(number - 1) >> PAGE_BITS], __ATOMIC_RELAXED);
    return (page_t *)(void *)(chunk + ((number - 1) & (PAGES_PER_CHUNK - 1)) * SVC_SLAB_PAGE);
}

mcs_status_t svc_slab_init(svc_slab_t *slab)
{
    memset(slab, 0, sizeof(*slab));
    slab->chunks = MCS_NEW_ARRAY(uint8_t *, SVC_SLAB_CHUNKS);
    slab->free_chunks = MCS_NEW_ARRAY(uint32_t, SVC_SLAB_CHUNKS);
    slab->page_bits = MCS_NEW_ARRAY(uint32_t, SVC_SLAB_CHUNKS);
    if (slab->chunks == NULL || slab->free_chunks == NULL || slab->page_bits == NULL) {
        mcs_free(slab->chunks);
        mcs_free(slab->free_chunks);
        mcs_free(slab->page_bits);
        return MCS_ERR_NO_MEMORY;
    }
    mcs_mutex_init(&slab->lock, MCS_RANK_LEAF, "slab");
    for (uint32_t i = 0; i < SVC_SLAB_DOMAINS; i++) {
        mcs_mutex_init(&slab->domains[i].lock, MCS_RANK_SLAB, "slab domain");
    }
    slab->chunk_hint = 1;
    return MCS_OK;
}

void svc_slab_fini(svc_slab_t *slab)
{
    for (uint32_t i = 0; i < SVC_SLAB_CHUNKS; i++) {
        mcs_free(slab->chunks[i]);
    }
    for (uint32_t i = 0; i < SVC_SLAB_DOMAINS; i++) {
        mcs_mutex_fini(&slab->domains[i].lock);
    }
    mcs_mutex_fini(&slab->lock);
    mcs_free(slab->chunks);
    mcs_free(slab->free_chunks);
    mcs_free(slab->page_bits);
}

/* ---- pages ---- */

static bool add_chunk_locked(svc_slab_t *slab)
{
    if (slab->chunk_count + 1 >= SVC_SLAB_CHUNKS) {
        return false;
    }
    uint32_t number = slab->chunk_hint;
    while (slab->chunks[number] != NULL) { /* number 0 is never used: it makes the reference 0 */
        number = number + 1 < SVC_SLAB_CHUNKS ? number + 1 : 1;
    }
    uint8_t *chunk = mcs_aligned_alloc(SVC_SLAB_CHUNK, SVC_SLAB_CHUNK);
    if (chunk == NULL) {
        return false;
    }
    (void)madvise(chunk, SVC_SLAB_CHUNK, MADV_HUGEPAGE); /* small pages do as well, only slower */
    slab->chunk_hint = number;
    slab->chunk_count++;
    slab->page_bits[number] = ALL_PAGES;
    slab->free_pages += PAGES_PER_CHUNK;
    slab->free_chunks[slab->free_chunk_count++] = number;
    __atomic_store_n(&slab->chunks[number], chunk, __ATOMIC_RELEASE);
    return true;
}

static uint32_t take_page(svc_slab_t *slab)
{
    uint32_t number = 0;
    mcs_mutex_lock(&slab->lock);
    if (slab->free_chunk_count > 0 || add_chunk_locked(slab)) {
        uint32_t chunk = slab->free_chunks[slab->free_chunk_count - 1];
        uint32_t index = (uint32_t)__builtin_ctz(slab->page_bits[chunk]);
        slab->page_bits[chunk] &= ~(UINT32_C(1) << index);
        slab->free_pages--;
        if (slab->page_bits[chunk] == 0) {
            slab->free_chunk_count--;
        }
        number = (chunk << PAGE_BITS | index) + 1;
    }
    mcs_mutex_unlock(&slab->lock);
    return number;
}

static void give_page(svc_slab_t *slab, uint32_t number)
{
    uint32_t chunk = (number - 1) >> PAGE_BITS;
    uint8_t *dead = NULL;
    mcs_mutex_lock(&slab->lock);
    if (slab->page_bits[chunk] == 0) {
        slab->free_chunks[slab->free_chunk_count++] = chunk;
    }
    slab->page_bits[chunk] |= UINT32_C(1) << ((number - 1) & (PAGES_PER_CHUNK - 1));
    slab->free_pages++;
    /* One empty chunk is kept: a load that swings around a chunk's border must not map and unmap it each time. */
    if (slab->page_bits[chunk] == ALL_PAGES && slab->free_pages >= 2 * PAGES_PER_CHUNK) {
        for (uint32_t i = 0; i < slab->free_chunk_count; i++) {
            if (slab->free_chunks[i] == chunk) {
                slab->free_chunks[i] = slab->free_chunks[--slab->free_chunk_count];
                break;
            }
        }
        dead = slab->chunks[chunk];
        __atomic_store_n(&slab->chunks[chunk], NULL, __ATOMIC_RELEASE);
        slab->page_bits[chunk] = 0;
        slab->chunk_count--;
        slab->free_pages -= PAGES_PER_CHUNK;
    }
    mcs_mutex_unlock(&slab->lock);
    mcs_free(dead);
}

static void link_page_locked(svc_slab_t *slab, svc_slab_domain_t *domain, uint32_t number, page_t *page)
{
    page->prev = 0;
    page->next = domain->partial[page->class_index];
    if (page->next != 0) {
        page_at(slab, page->next)->prev = number;
    }
    domain->partial[page->class_index] = number;
}

static void unlink_page_locked(svc_slab_t *slab, svc_slab_domain_t *domain, page_t *page)
{
    if (page->prev != 0) {
        page_at(slab, page->prev)->next = page->next;
    } else {
        domain->partial[page->class_index] = page->next;
    }
    if (page->next != 0) {
        page_at(slab, page->next)->prev = page->prev;
    }
}

/* ---- items ---- */

static uint8_t *item_at(page_t *page, uint32_t index)
{
    return (uint8_t *)page + PAGE_HEADER + (size_t)index * page->item;
}

static svc_ref_t take_item_locked(svc_slab_t *slab, svc_slab_domain_t *domain, uint32_t number)
{
    page_t *page = page_at(slab, number);
    uint32_t index;
    if (page->free_item != 0) {
        index = page->free_item - 1u;
        memcpy(&page->free_item, item_at(page, index), sizeof(page->free_item));
    } else {
        index = page->carved++;
    }
    if (++page->used == page->capacity) {
        unlink_page_locked(slab, domain, page);
    }
    uint32_t unit =
        ((number - 1) & (PAGES_PER_CHUNK - 1)) * UNITS_PER_PAGE + (PAGE_HEADER + index * page->item) / SVC_SLAB_UNIT;
    return ((number - 1) >> PAGE_BITS) << SVC_SLAB_BITS | unit;
}

svc_ref_t svc_slab_alloc(svc_slab_t *slab, uint32_t domain_index, size_t size)
{
    uint32_t class_index = class_of(MCS_MAX(size, (size_t)1));
    if (class_index >= LINEAR_CLASSES + MCS_ARRAY_LEN(g_large)) {
        return 0;
    }
    svc_slab_domain_t *domain = &slab->domains[domain_index % SVC_SLAB_DOMAINS];
    svc_ref_t ref = 0;
    mcs_mutex_lock(&domain->lock);
    uint32_t number = domain->partial[class_index];
    if (number == 0) {
        number = take_page(slab);
        if (number != 0) {
            page_t *fresh = page_at(slab, number);
            uint32_t item = class_bytes(class_index);
            *fresh = (page_t){.item = item,
                              .capacity = (uint16_t)((SVC_SLAB_PAGE - PAGE_HEADER) / item),
                              .class_index = (uint16_t)class_index,
                              .domain = (uint16_t)(domain_index % SVC_SLAB_DOMAINS)};
            link_page_locked(slab, domain, number, fresh);
        }
    }
    if (number != 0) {
        ref = take_item_locked(slab, domain, number);
    }
    mcs_mutex_unlock(&domain->lock);
    return ref;
}

static uint32_t page_of(svc_ref_t ref)
{
    return (ref >> SVC_SLAB_BITS << PAGE_BITS | (ref & UNIT_MASK) / UNITS_PER_PAGE) + 1;
}

void svc_slab_prefetch(const svc_slab_t *slab, svc_ref_t ref)
{
    __builtin_prefetch(page_at(slab, page_of(ref)), 1);
}

void svc_slab_free(svc_slab_t *slab, svc_ref_t ref)
{
    uint32_t number = page_of(ref);
    page_t *page = page_at(slab, number);
    svc_slab_domain_t *domain = &slab->domains[page->domain];
    uint32_t offset = ((ref & UNIT_MASK) % UNITS_PER_PAGE) * SVC_SLAB_UNIT - PAGE_HEADER;
    uint32_t index = offset / page->item;
    bool empty;
    mcs_mutex_lock(&domain->lock);
    memcpy(item_at(page, index), &page->free_item, sizeof(page->free_item));
    page->free_item = (uint16_t)(index + 1);
    if (page->used == page->capacity) {
        link_page_locked(slab, domain, number, page);
    }
    empty = --page->used == 0;
    if (empty) {
        unlink_page_locked(slab, domain, page);
    }
    mcs_mutex_unlock(&domain->lock);
    if (empty) {
        give_page(slab, number);
    }
}

uint64_t svc_slab_bytes(svc_slab_t *slab)
{
    mcs_mutex_lock(&slab->lock);
    uint64_t bytes = (uint64_t)slab->chunk_count * SVC_SLAB_CHUNK;
    mcs_mutex_unlock(&slab->lock);
    return bytes;
}
