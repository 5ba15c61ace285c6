/* See explorer.h. States lie one after another in an array; an open-addressed table of indices finds duplicates; each
 * state knows its parent and the label of the step that led to it. */
#include "tests/model/explorer.h"

#include <stdio.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/hash.h"

typedef struct origin {
    uint32_t parent;
    uint32_t depth;
    const char *label;
} origin_t;

struct mcs_explorer {
    const mcs_model_t *model;
    uint8_t *states;
    origin_t *origins;
    uint32_t *table; /* index + 1; 0 = empty */
    uint64_t table_mask;
    uint64_t count;
    uint64_t capacity;
    uint64_t max;
    uint64_t current;
    uint64_t transitions;
    bool full;
};

static uint8_t *state_at(const mcs_explorer_t *ex, uint64_t index)
{
    return ex->states + index * ex->model->state_size;
}

static uint64_t hash_of(const mcs_explorer_t *ex, const void *state)
{
    return mcs_hash64(0, state, ex->model->state_size);
}

static void insert_index(mcs_explorer_t *ex, uint64_t index)
{
    uint64_t at = hash_of(ex, state_at(ex, index)) & ex->table_mask;
    while (ex->table[at] != 0) {
        at = (at + 1) & ex->table_mask;
    }
    ex->table[at] = (uint32_t)index + 1;
}

static void grow(mcs_explorer_t *ex)
{
    ex->capacity *= 2;
    ex->states = mcs_realloc(ex->states, ex->capacity * ex->model->state_size);
    ex->origins = mcs_realloc(ex->origins, ex->capacity * sizeof(*ex->origins));
    mcs_free(ex->table);
    ex->table_mask = ex->capacity * 2 - 1;
    ex->table = MCS_NEW_ARRAY(uint32_t, ex->capacity * 2);
    MCS_ENSURE(ex->states != NULL && ex->origins != NULL && ex->table != NULL);
    for (uint64_t i = 0; i < ex->count; i++) {
        insert_index(ex, i);
    }
}

void mcs_explorer_emit(mcs_explorer_t *ex, const void *next, const char *label)
{
    ex->transitions++;
    uint64_t at = hash_of(ex, next) & ex->table_mask;
    while (ex->table[at] != 0) {
        if (memcmp(state_at(ex, ex->table[at] - 1), next, ex->model->state_size) == 0) {
            return;
        }
        at = (at + 1) & ex->table_mask;
    }
    if (ex->count == ex->max) {
        ex->full = true;
        return;
    }
    if (ex->count == ex->capacity) {
        grow(ex);
    }
    uint64_t index = ex->count++;
    memcpy(state_at(ex, index), next, ex->model->state_size);
    ex->origins[index] =
        (origin_t){.parent = (uint32_t)ex->current, .depth = ex->origins[ex->current].depth + 1, .label = label};
    insert_index(ex, index);
}

static void print_path(const mcs_explorer_t *ex, uint64_t index, const char *violation)
{
    uint32_t depth = ex->origins[index].depth;
    printf("%s, mutant %d: %s after %u steps:\n", ex->model->name, ex->model->mutant, violation, depth);
    const char **labels = MCS_NEW_ARRAY(const char *, depth + 1);
    MCS_ENSURE(labels != NULL);
    for (uint32_t i = depth; i > 0; i--) {
        labels[i - 1] = ex->origins[index].label;
        index = ex->origins[index].parent;
    }
    for (uint32_t i = 0; i < depth; i++) {
        printf("  %2u %s\n", i + 1, labels[i]);
    }
    mcs_free(labels);
}

mcs_exploration_t mcs_explore(const mcs_model_t *model, uint64_t max_states, bool verbose)
{
    mcs_explorer_t ex = {.model = model, .capacity = 2048, .max = max_states};
    mcs_exploration_t result = {.complete = true};
    grow(&ex);
    model->initial(state_at(&ex, 0));
    ex.origins[0] = (origin_t){.label = "start"};
    ex.count = 1;
    insert_index(&ex, 0);
    uint8_t *state = mcs_malloc(model->state_size); /* the array may move while successors are emitted */
    MCS_ENSURE(state != NULL);
    for (ex.current = 0; ex.current < ex.count && result.violation == NULL; ex.current++) {
        memcpy(state, state_at(&ex, ex.current), model->state_size);
        result.depth = ex.origins[ex.current].depth;
        result.violation = model->violation(state);
        if (result.violation == NULL) {
            model->step(model, state, &ex);
        } else if (verbose) {
            print_path(&ex, ex.current, result.violation);
        }
    }
    result.states = ex.count;
    result.transitions = ex.transitions;
    result.complete = !ex.full && result.violation == NULL;
    mcs_free(state);
    mcs_free(ex.states);
    mcs_free(ex.origins);
    mcs_free(ex.table);
    return result;
}
