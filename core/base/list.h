/* Intrusive circular doubly linked list. Not thread-safe. A node not in a list points to itself. */
#ifndef MCS_BASE_LIST_H
#define MCS_BASE_LIST_H

#include "core/base/macros.h"

typedef struct mcs_list {
    struct mcs_list *prev;
    struct mcs_list *next;
} mcs_list_t;

static inline void mcs_list_init(mcs_list_t *l)
{
    l->prev = l;
    l->next = l;
}
static inline bool mcs_list_empty(const mcs_list_t *l)
{
    return l->next == l;
}
static inline void mcs_list_insert_after(mcs_list_t *at, mcs_list_t *node)
{
    node->prev = at;
    node->next = at->next;
    at->next->prev = node;
    at->next = node;
}
static inline void mcs_list_push_head(mcs_list_t *l, mcs_list_t *node)
{
    mcs_list_insert_after(l, node);
}
static inline void mcs_list_push_tail(mcs_list_t *l, mcs_list_t *node)
{
    mcs_list_insert_after(l->prev, node);
}
static inline void mcs_list_remove(mcs_list_t *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    mcs_list_init(node);
}
#define MCS_LIST_FIRST(l, type, member) MCS_CONTAINER_OF((l)->next, type, member)
#define MCS_LIST_FOR_EACH(node, l)      for (mcs_list_t *node = (l)->next; node != (l); node = node->next)
#define MCS_LIST_FOR_EACH_SAFE(node, tmp, l)                                                                           \
    for (mcs_list_t *node = (l)->next, *tmp = node->next; node != (l); node = tmp, tmp = node->next)

#endif
