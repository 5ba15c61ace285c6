/* Rule 1 over connections that break: a client makes three calls of one session, put_start, put_end and another one,
 * each with the next sequence and each begun when the one before was answered. An answer may be lost with its
 * connection, then the call is sent again; what was sent before may still arrive, also after the repeat was answered
 * and after the calls that follow it.
 *
 * The master keeps the outcome of a sequence until it is acknowledged, and remembers which are. What it remembers of a
 * generation that is over is bounded, so it may forget that at any time. Meanwhile it may revoke the reservation at its
 * deadline.
 *
 * What must hold: one put_start is one reservation; a value is committed at most once (one that others removed
 * meanwhile does not come back); the client is told that it was stored exactly when it was. */
#include <string.h>

#include "tests/model/models.h"

#define CALLS       3
#define GENERATIONS 2
#define COPIES      2

enum { START = 1, END = 2, AFTERWARDS = 3 };
enum { FREE, OPEN, COMMITTED, REVOKED };
/* What is kept of a call and answered: 0 none, a generation for put_start, one of these for the others. */
enum { SAID_DONE = 10, SAID_REVOKED, SAID_UNKNOWN };

typedef struct state {
    /* client */
    uint8_t call; /* the one under way; CALLS + 1 = all are over */
    uint8_t put;  /* what put_start said */
    uint8_t told; /* what put_end said */
    /* network */
    uint8_t sent[CALLS + 1];   /* copies that may still arrive */
    uint8_t answer[CALLS + 1]; /* on its way back */
    /* master */
    uint8_t kept[CALLS + 1];
    uint8_t acknowledged; /* sequences below it */
    uint8_t generation[GENERATIONS + 1];
    uint8_t remembered[GENERATIONS + 1];
    uint8_t commits[GENERATIONS + 1];
} state_t;

#define EMIT(label) mcs_explorer_emit(ex, &n, label)

static void initial(void *to)
{
    memset(to, 0, sizeof(state_t));
    ((state_t *)to)->call = START;
    ((state_t *)to)->acknowledged = START;
}

static const char *violation(const void *at)
{
    const state_t *s = at;
    uint8_t all = 0;
    for (int g = 1; g <= GENERATIONS; g++) {
        all = (uint8_t)(all + s->commits[g]);
    }
    if (s->generation[2] != FREE) {
        return "rule 1: one put_start made two reservations";
    }
    if (all > 1) {
        return "rule 1: a value was committed twice";
    }
    if (s->told == SAID_DONE && all == 0) {
        return "rule 1: the client was told of a commit that never was";
    }
    return s->told != 0 && s->told != SAID_DONE && all > 0 ? "rule 1: the client was not told of its commit" : NULL;
}

/* ---- client ---- */

static void step_client(const state_t *s, mcs_explorer_t *ex)
{
    if (s->call > CALLS) {
        return;
    }
    state_t n = *s;
    if (s->sent[s->call] < COPIES) {
        n.sent[s->call]++;
        EMIT(s->sent[s->call] == 0 ? "client: sends its call" : "client: sends its call again");
    }
    if (s->answer[s->call] != 0) {
        n = *s;
        n.put = s->call == START ? s->answer[START] : s->put;
        n.told = s->call == END ? s->answer[END] : s->told;
        n.answer[s->call] = 0;
        n.call++;
        EMIT("client: has its answer");
        n = *s;
        n.answer[s->call] = 0;
        EMIT("the answer is lost with its connection");
    }
}

/* ---- master ---- */

static uint8_t execute_start(state_t *n)
{
    for (uint8_t g = 1; g <= GENERATIONS; g++) {
        if (n->generation[g] == FREE) {
            n->generation[g] = OPEN;
            return g;
        }
    }
    return 0;
}

static uint8_t execute_end(state_t *n)
{
    uint8_t g = n->put;
    if (n->generation[g] == OPEN) {
        n->generation[g] = COMMITTED;
        n->remembered[g] = 1;
        n->commits[g]++;
        return SAID_DONE;
    }
    if (!n->remembered[g]) {
        return SAID_UNKNOWN;
    }
    return n->generation[g] == COMMITTED ? SAID_DONE : SAID_REVOKED;
}

static void receive(const mcs_model_t *m, const state_t *s, uint8_t call, mcs_explorer_t *ex)
{
    state_t n = *s;
    n.sent[call]--;
    if (call < s->acknowledged && m->mutant != MCS_OUTCOMES_ACKNOWLEDGED_IS_FORGOTTEN) {
        EMIT("master: drops a call that was acknowledged");
        return;
    }
    /* A call says that all before it were answered. */
    for (uint8_t earlier = START; earlier < call; earlier++) {
        n.kept[earlier] = 0;
    }
    n.acknowledged = call > n.acknowledged ? call : n.acknowledged;
    if (n.kept[call] == 0) {
        uint8_t said = call == START ? execute_start(&n) : call == END ? execute_end(&n) : SAID_DONE;
        n.kept[call] = said;
    }
    n.answer[call] = n.kept[call];
    bool forgets = m->mutant == MCS_OUTCOMES_NOTHING_IS_KEPT ||
                   (m->mutant == MCS_OUTCOMES_STARTS_ARE_NOT_KEPT && call == START) ||
                   (m->mutant == MCS_OUTCOMES_ENDS_ARE_NOT_KEPT && call == END);
    n.kept[call] = forgets ? 0 : n.kept[call];
    EMIT(call == START ? "master: put_start" : call == END ? "master: put_end" : "master: another call");
}

static void step_master(const mcs_model_t *m, const state_t *s, mcs_explorer_t *ex)
{
    for (uint8_t call = START; call <= CALLS; call++) {
        if (s->sent[call] > 0) {
            receive(m, s, call, ex);
        }
    }
    for (int g = 1; g <= GENERATIONS; g++) {
        state_t n = *s;
        if (s->generation[g] == OPEN) {
            n.generation[g] = REVOKED;
            n.remembered[g] = 1;
            EMIT("master: revokes the reservation at its deadline");
        } else if (s->remembered[g]) {
            n.remembered[g] = 0;
            EMIT("master: has no room to remember what became of a generation");
        }
    }
}

static void step(const mcs_model_t *m, const void *at, mcs_explorer_t *ex)
{
    step_client(at, ex);
    step_master(m, at, ex);
}

mcs_model_t mcs_model_outcomes(mcs_outcomes_mutant_t mutant)
{
    return (mcs_model_t){
        .name = "outcomes",
        .state_size = sizeof(state_t),
        .mutant = (int)mutant,
        .initial = initial,
        .step = step,
        .violation = violation,
    };
}
