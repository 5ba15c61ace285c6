/* Groups: keys that a put named one group for (reference 3.2, 3.4). A read of one member leases all; members are
 * evicted together, and only when none is leased or pinned.
 *
 * A group is found by name in a table; member records hold a reference and a pointer, so that a lease of the group
 * costs one atomic. The members (hash and first generation: what finds a record again) are a table by generation, which
 * eviction alone looks through. The last member's end is the group's. */
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

#define MEMBERS_MAX (UINT32_C(1) << 16)
#define FIRST_CAP   4u /* many groups have one or two members */
#define CHAINS      4096u

struct svc_group {
    svc_group_t *next;
    uint64_t hash;
    uint64_t lease_until_ns; /* atomic */
    uint64_t kept_by;        /* eviction's: what could not take it last */
    uint32_t refs;           /* table lock */
    mcs_mutex_t lock;        /* rank GROUP: the table of members */
    svc_member_t *members;   /* linear probing by generation, 0 = empty; at most three quarters full */
    uint32_t cap;            /* a power of two, or 0 */
    uint32_t count;
    uint32_t len;
    char id[];
};

typedef struct svc_groups {
    mcs_mutex_t lock; /* rank GROUPS: the chains and the counts of references */
    svc_group_t *chains[CHAINS];
} svc_groups_t;

mcs_status_t svc_groups_init(mcs_service_t *service)
{
    service->groups = MCS_NEW(svc_groups_t);
    if (service->groups == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_mutex_init(&service->groups->lock, MCS_RANK_GROUPS, "groups");
    return MCS_OK;
}

void svc_groups_fini(mcs_service_t *service)
{
    mcs_mutex_fini(&service->groups->lock);
    mcs_free(service->groups);
}

static svc_group_t *create_group(uint64_t hash, const char *id, uint32_t len)
{
    svc_group_t *group = mcs_calloc(1, sizeof(*group) + len);
    if (group == NULL) {
        return NULL;
    }
    group->hash = hash;
    group->len = len;
    memcpy(group->id, id, len);
    mcs_mutex_init(&group->lock, MCS_RANK_GROUP, "group");
    return group;
}

svc_group_t *svc_group_get(mcs_service_t *service, const char *id, uint32_t len)
{
    svc_groups_t *groups = service->groups;
    uint64_t hash = svc_index_hash(&service->index, id, len);
    mcs_mutex_lock(&groups->lock);
    svc_group_t *group = groups->chains[hash % CHAINS];
    while (group != NULL && !(group->hash == hash && svc_group_is(group, id, len))) {
        group = group->next;
    }
    if (group == NULL) {
        group = create_group(hash, id, len);
        if (group != NULL) {
            group->next = groups->chains[hash % CHAINS];
            groups->chains[hash % CHAINS] = group;
        }
    }
    if (group != NULL) {
        group->refs++;
    }
    mcs_mutex_unlock(&groups->lock);
    return group;
}

svc_group_t *svc_group_again(mcs_service_t *service, svc_group_t *group)
{
    mcs_mutex_lock(&service->groups->lock);
    group->refs++;
    mcs_mutex_unlock(&service->groups->lock);
    return group;
}

void svc_group_put(mcs_service_t *service, svc_group_t *group)
{
    if (group == NULL) {
        return;
    }
    svc_groups_t *groups = service->groups;
    mcs_mutex_lock(&groups->lock);
    bool dead = --group->refs == 0;
    if (dead) {
        svc_group_t **at = &groups->chains[group->hash % CHAINS];
        while (*at != group) {
            at = &(*at)->next;
        }
        *at = group->next;
    }
    mcs_mutex_unlock(&groups->lock);
    if (dead) {
        mcs_free(group->members);
        mcs_mutex_fini(&group->lock);
        mcs_free(group);
    }
}

const char *svc_group_id(const svc_group_t *group, uint32_t *len_out)
{
    *len_out = group->len;
    return group->id;
}

bool svc_group_is(const svc_group_t *group, const char *id, uint32_t len)
{
    return group->len == len && memcmp(group->id, id, len) == 0;
}

uint64_t svc_group_lease(const svc_group_t *group)
{
    return __atomic_load_n(&group->lease_until_ns, __ATOMIC_ACQUIRE);
}

void svc_group_grant(svc_group_t *group, uint64_t now_ns, uint64_t ttl_ns)
{
    /* Refreshed only when less than half of it is left; a race between two readers costs nothing. */
    if (svc_group_lease(group) < now_ns + ttl_ns / 2) {
        __atomic_store_n(&group->lease_until_ns, now_ns + ttl_ns, __ATOMIC_RELEASE);
    }
}

bool svc_group_was_kept(const svc_group_t *group, uint64_t pass)
{
    return group->kept_by == pass;
}

void svc_group_keep(svc_group_t *group, uint64_t pass)
{
    group->kept_by = pass;
}

/* ---- the table of members ---- */

static uint32_t home_of(uint64_t generation, uint32_t cap)
{
    return (uint32_t)((generation * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (cap - 1);
}

/* Where the generation is, or the empty place that ends the search for it. */
static svc_member_t *place_of(svc_member_t *members, uint32_t cap, uint64_t generation)
{
    uint32_t at = home_of(generation, cap);
    while (members[at].generation != 0 && members[at].generation != generation) {
        at = (at + 1) & (cap - 1);
    }
    return &members[at];
}

static mcs_status_t resize_locked(svc_group_t *group, uint32_t cap)
{
    svc_member_t *members = MCS_NEW_ARRAY(svc_member_t, cap);
    if (members == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    for (uint32_t i = 0; i < group->cap; i++) {
        if (group->members[i].generation != 0) {
            *place_of(members, cap, group->members[i].generation) = group->members[i];
        }
    }
    mcs_free(group->members);
    group->members = members;
    group->cap = cap;
    return MCS_OK;
}

static mcs_status_t make_room_locked(svc_group_t *group)
{
    if (group->count == MEMBERS_MAX) {
        return MCS_ERR_LIMIT;
    }
    return group->count < group->cap / 4 * 3 ? MCS_OK : resize_locked(group, MCS_MAX(group->cap * 2, FIRST_CAP));
}

/* Takes it out, and pulls down what lies behind it and was kept from its place. Generation 0: it is no member. */
static svc_member_t remove_locked(svc_group_t *group, uint64_t generation)
{
    if (group->cap == 0) {
        return (svc_member_t){0};
    }
    uint32_t mask = group->cap - 1;
    svc_member_t *hole = place_of(group->members, group->cap, generation);
    svc_member_t removed = *hole;
    if (removed.generation == 0) {
        return removed;
    }
    for (uint32_t at = (uint32_t)(hole - group->members + 1) & mask; group->members[at].generation != 0;
         at = (at + 1) & mask) {
        uint32_t from_home = (at - home_of(group->members[at].generation, group->cap)) & mask;
        if (from_home >= ((at - (uint32_t)(hole - group->members)) & mask)) {
            *hole = group->members[at];
            hole = &group->members[at];
        }
    }
    *hole = (svc_member_t){0};
    group->count--;
    return removed;
}

mcs_status_t svc_group_join(svc_group_t *group, uint64_t hash, uint64_t generation)
{
    mcs_mutex_lock(&group->lock);
    mcs_status_t status = make_room_locked(group);
    if (status == MCS_OK) {
        *place_of(group->members, group->cap, generation) = (svc_member_t){hash, generation};
        group->count++;
    }
    mcs_mutex_unlock(&group->lock);
    return status;
}

void svc_group_leave(svc_group_t *group, uint64_t generation)
{
    mcs_mutex_lock(&group->lock);
    (void)remove_locked(group, generation);
    if (group->cap > 16 * FIRST_CAP && group->count < group->cap / 8) {
        (void)resize_locked(group, group->cap / 4); /* without memory it stays large */
    }
    mcs_mutex_unlock(&group->lock);
}

void svc_group_rename(svc_group_t *group, uint64_t from, uint64_t to)
{
    mcs_mutex_lock(&group->lock);
    svc_member_t member = remove_locked(group, from);
    if (member.generation != 0) {
        *place_of(group->members, group->cap, to) = (svc_member_t){member.hash, to};
        group->count++;
    }
    mcs_mutex_unlock(&group->lock);
}

bool svc_group_members(svc_group_t *group, mcs_buf_t *out)
{
    mcs_buf_reset(out);
    mcs_mutex_lock(&group->lock);
    for (uint32_t i = 0; i < group->cap; i++) {
        if (group->members[i].generation != 0) {
            mcs_buf_append(out, &group->members[i], sizeof(group->members[i]));
        }
    }
    mcs_mutex_unlock(&group->lock);
    return mcs_buf_status(out) == MCS_OK;
}
