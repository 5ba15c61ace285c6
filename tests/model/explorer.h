/* A small exhaustive explorer: breadth-first search over every interleaving of a model's steps.
 *
 * A model is a plain struct of a few dozen bytes (its state, no pointers, padding zeroed), a function that emits every
 * state one step further, and a function that names the rule a state breaks. The explorer visits each distinct state
 * once, so that a run without a violation is a proof for the model's size; the first violation found is a shortest one,
 * and its steps are printed.
 *
 * A model that cannot fail proves nothing: every model here takes a `mutant`, a protocol with one rule left out, and
 * its test demands that each mutant is caught. Single-threaded. */
#ifndef MCS_TESTS_MODEL_EXPLORER_H
#define MCS_TESTS_MODEL_EXPLORER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mcs_explorer mcs_explorer_t;

typedef struct mcs_model {
    const char *name;
    size_t state_size;
    int mutant; /* 0 = the protocol as it is */
    void (*initial)(void *state);
    /* Calls mcs_explorer_emit for each successor. */
    void (*step)(const struct mcs_model *model, const void *state, mcs_explorer_t *explorer);
    /* The broken rule, or NULL. */
    const char *(*violation)(const void *state);
} mcs_model_t;

typedef struct mcs_exploration {
    uint64_t states;
    uint64_t transitions;
    uint32_t depth;
    const char *violation; /* NULL: none */
    bool complete;         /* false: the limit was hit */
} mcs_exploration_t;

/* `label`: a literal that names the step. */
void mcs_explorer_emit(mcs_explorer_t *explorer, const void *next, const char *label);
/* Explores until done, a violation, or `max_states`. Prints the steps of a violation when `verbose`. */
mcs_exploration_t mcs_explore(const mcs_model_t *model, uint64_t max_states, bool verbose);

#endif
