/* The messages between master, owner, writers and readers: one key, two extents of two words, up to three generations
 * (the first put by session A, the others by session B), a reader served by the owner, and a one-sided reader that
 * touches the memory itself under its lease.
 *
 * Every message may be late: a store sent by a writer lies in the network until the owner takes it, however long the
 * writer has been stopped or its session been over. The owner's check here knows nothing of headers of other
 * generations at the same place, because the next extent there may begin somewhere else: the table of revoked
 * generations and the list of ended sessions must carry rule 5 alone.
 *
 * Time is order only: the reader's clock ends a lease before the master's does (the guard), nothing else is known of
 * it. */
#include <string.h>

#include "tests/model/models.h"

#define GENERATIONS 3
#define EXTENTS     2

enum { FREE, RESERVED, COMMITTED, ENDED, RELEASED };
enum { WRITER_NONE, WRITER_MAY, WRITER_SENT, WRITER_REFUSED, WRITER_WRITTEN, WRITER_DONE };
enum { HEADER_NONE, HEADER_OPEN, HEADER_WRITTEN, HEADER_DEAD };
enum { SERVE_IDLE, SERVE_BEGUN, SERVE_ONE, SERVE_TWO };
enum { READ_IDLE, READ_LOOKED_UP, READ_MAY, READ_ONE, READ_TWO };

typedef struct generation {
    uint8_t state;
    uint8_t extent;
    uint8_t writer;
    uint8_t in_flight; /* its store is in the network */
    uint8_t may_write; /* ended before its commit */
    uint8_t acked;     /* its writer will not send it any more */
    uint8_t revoked;   /* in the owner's table */
} generation_t;

typedef struct extent {
    uint8_t header_gen;
    uint8_t header_state;
    uint8_t word[2];
} extent_t;

typedef struct state {
    generation_t gen[GENERATIONS + 1]; /* by number, 0 unused */
    extent_t extent[EXTENTS];
    uint8_t ended[2];       /* session A, B: at the master */
    uint8_t ended_known[2]; /* at the owner */
    uint8_t current;        /* what a lookup answers */
    uint8_t committing;     /* upsert: waits until the owner has marked `current` DEAD; GENERATIONS + 1 = a removal */
    uint8_t serve_gen;
    uint8_t serve;
    uint8_t newest; /* highest generation that any read has returned */
    /* served reader */
    uint8_t read;
    uint8_t read_gen;
    uint8_t read_floor;
    uint8_t read_seen[2];
    /* one-sided reader */
    uint8_t side;
    uint8_t side_gen;
    uint8_t side_floor;
    uint8_t side_seen[2];
    uint8_t lease_reader;
    uint8_t lease_master;
    uint8_t bad_bytes;
    uint8_t went_back;
} state_t;

#define REMOVAL     (GENERATIONS + 1)
#define EMIT(label) mcs_explorer_emit(ex, &n, label)

static uint8_t session_of(int g)
{
    return g == 1 ? 0 : 1;
}

static bool holds_extent(const generation_t *gen)
{
    return gen->state == RESERVED || gen->state == COMMITTED || gen->state == ENDED;
}

static void initial(void *to)
{
    memset(to, 0, sizeof(state_t));
}

static const char *violation(const void *at)
{
    const state_t *s = at;
    for (int g = 1; g <= GENERATIONS; g++) {
        const generation_t *gen = &s->gen[g];
        const extent_t *extent = &s->extent[gen->extent];
        if (gen->state == COMMITTED && (extent->word[0] != g || extent->word[1] != g)) {
            return "rules 1, 2, 6: the bytes of a committed replica are not its own";
        }
    }
    if (s->bad_bytes) {
        return "rule 4: a read returned bytes of another generation";
    }
    return s->went_back ? "rule 2: a read returned the old value after the new one had been read" : NULL;
}

/* ---- master ---- */

static void end_generation(state_t *n, int g)
{
    n->gen[g].may_write = n->gen[g].state == RESERVED;
    n->gen[g].state = ENDED;
}

static void put_start(const state_t *s, mcs_explorer_t *ex)
{
    int g = 1;
    while (g <= GENERATIONS && s->gen[g].state != FREE) {
        if (s->gen[g].state == RESERVED) {
            return; /* it would wait for that outcome */
        }
        g++;
    }
    if (g > GENERATIONS || s->ended[session_of(g)] || s->committing) {
        return;
    }
    for (uint8_t e = 0; e < EXTENTS; e++) {
        bool taken = false;
        for (int other = 1; other <= GENERATIONS; other++) {
            taken = taken || (holds_extent(&s->gen[other]) && s->gen[other].extent == e);
        }
        if (!taken) {
            state_t n = *s;
            n.gen[g].state = RESERVED;
            n.gen[g].extent = e;
            n.gen[g].writer = WRITER_MAY;
            EMIT(g == 1   ? "put_start of generation 1 by A"
                 : g == 2 ? "put_start of generation 2 by B"
                          : "put_start of generation 3 by B");
            return; /* which of two free ones makes no difference */
        }
    }
}

static void commit(state_t *n, int g)
{
    if (n->current != 0) {
        end_generation(n, n->current);
    }
    n->gen[g].state = COMMITTED;
    n->current = (uint8_t)g;
}

static void put_end(const mcs_model_t *m, const state_t *s, int g, mcs_explorer_t *ex)
{
    const generation_t *gen = &s->gen[g];
    bool written =
        gen->writer == WRITER_WRITTEN || (m->mutant == MCS_SERVED_VISIBLE_BEFORE_WRITTEN && gen->writer == WRITER_SENT);
    if (!written || gen->state != RESERVED || s->committing != 0 || s->ended[session_of(g)]) {
        return;
    }
    state_t n = *s;
    n.gen[g].writer = WRITER_DONE;
    if (s->current == 0 || m->mutant == MCS_SERVED_SWAP_BEFORE_DEAD) {
        commit(&n, g);
        EMIT("put_end: committed");
    } else {
        n.committing = (uint8_t)g;
        EMIT("put_end: the old value's owner is asked to mark it DEAD");
    }
}

static void step_master(const mcs_model_t *m, const state_t *s, mcs_explorer_t *ex)
{
    put_start(s, ex);
    for (int g = 1; g <= GENERATIONS; g++) {
        put_end(m, s, g, ex);
        if (s->gen[g].state == RESERVED && s->committing != g) {
            state_t n = *s;
            end_generation(&n, g);
            EMIT("the master revokes a reservation past its deadline");
        }
        if (s->gen[g].acked && s->gen[g].revoked) {
            state_t n = *s;
            n.gen[g].revoked = 0;
            EMIT("the owner forgets an acknowledged generation");
        }
    }
    if (s->current != 0 && s->committing == 0) {
        state_t n = *s;
        n.committing = REMOVAL;
        EMIT("forced remove: the owner is asked to mark the value DEAD");
    }
    for (int a = 0; a < 2; a++) {
        if (!s->ended[a] && (s->committing == 0 || s->committing == REMOVAL || session_of(s->committing) != a)) {
            state_t n = *s;
            n.ended[a] = 1;
            for (int g = 1; g <= GENERATIONS; g++) {
                if (session_of(g) == a && n.gen[g].state == RESERVED) {
                    end_generation(&n, g);
                }
            }
            EMIT(a == 0 ? "session A is lost" : "session B is lost");
        }
    }
    if (s->lease_master && !s->lease_reader) {
        state_t n = *s;
        n.lease_master = 0;
        EMIT("the lease is over for the master too");
    }
}

/* ---- writers ---- */

static void step_writer(const mcs_model_t *m, const state_t *s, int g, mcs_explorer_t *ex)
{
    const generation_t *gen = &s->gen[g];
    if (gen->writer == WRITER_MAY) {
        state_t n = *s;
        n.gen[g].writer = WRITER_SENT;
        n.gen[g].in_flight = 1;
        EMIT("a writer sends its store");
    }
    /* Revoked: acknowledged when no store of it is under way. A session that is over acknowledges nothing. */
    bool quiet = gen->writer == WRITER_MAY || gen->writer == WRITER_REFUSED || gen->writer == WRITER_WRITTEN;
    if (m->mutant == MCS_SERVED_ACK_WITH_A_STORE_UNANSWERED) {
        quiet = quiet || gen->writer == WRITER_SENT;
    }
    if ((gen->state == ENDED || gen->state == RELEASED) && gen->may_write && !gen->acked && quiet &&
        !s->ended[session_of(g)]) {
        state_t n = *s;
        n.gen[g].acked = 1;
        n.gen[g].writer = WRITER_DONE;
        EMIT("a writer acknowledges a revoke");
    }
}

/* ---- owner ---- */

static bool owner_allows(const mcs_model_t *m, const state_t *s, int g)
{
    if (m->mutant == MCS_SERVED_OWNER_DOES_NOT_CHECK) {
        return true;
    }
    bool ended = s->ended_known[session_of(g)] && m->mutant != MCS_SERVED_ENDED_SESSION_MAY_WRITE;
    return !s->gen[g].revoked && !ended;
}

static void serve_store(const mcs_model_t *m, const state_t *s, mcs_explorer_t *ex)
{
    for (int g = 1; g <= GENERATIONS && s->serve == SERVE_IDLE; g++) {
        if (!s->gen[g].in_flight) {
            continue;
        }
        state_t n = *s;
        n.gen[g].in_flight = 0;
        if (owner_allows(m, s, g)) {
            n.serve = SERVE_BEGUN;
            n.serve_gen = (uint8_t)g;
            n.extent[s->gen[g].extent].header_gen = (uint8_t)g;
            n.extent[s->gen[g].extent].header_state = HEADER_OPEN;
            EMIT("the owner opens an extent for a store");
        } else {
            n.gen[g].writer = s->gen[g].writer == WRITER_SENT ? WRITER_REFUSED : s->gen[g].writer;
            EMIT("the owner refuses a store");
        }
    }
    if (s->serve == SERVE_IDLE) {
        return;
    }
    state_t n = *s;
    int g = s->serve_gen;
    extent_t *extent = &n.extent[s->gen[g].extent];
    if (s->serve == SERVE_TWO) {
        bool whole = extent->header_gen == g && extent->header_state == HEADER_OPEN;
        if (whole) {
            extent->header_state = HEADER_WRITTEN;
        }
        if (s->gen[g].writer == WRITER_SENT) {
            n.gen[g].writer = whole ? WRITER_WRITTEN : WRITER_REFUSED;
        }
        n.serve = SERVE_IDLE;
        n.serve_gen = 0;
        EMIT("the owner answers a store");
    } else {
        extent->word[s->serve - SERVE_BEGUN] = (uint8_t)g;
        n.serve++;
        EMIT("the owner receives a word of a store");
    }
}

static bool leased(const mcs_model_t *m, const state_t *s, int g)
{
    return s->lease_master && s->side_gen == g && m->mutant != MCS_SERVED_RELEASE_INSIDE_THE_LEASE;
}

static void release(const mcs_model_t *m, const state_t *s, int g, mcs_explorer_t *ex)
{
    const generation_t *gen = &s->gen[g];
    if (gen->state != ENDED || leased(m, s, g)) {
        return;
    }
    state_t n = *s;
    n.gen[g].revoked =
        gen->may_write && !s->ended_known[session_of(g)] && m->mutant != MCS_SERVED_REVOKED_NOT_REMEMBERED
            ? 1
            : gen->revoked;
    n.extent[gen->extent].header_state = HEADER_DEAD;
    bool held = (s->serve != SERVE_IDLE && s->serve_gen == g) || (s->read >= READ_MAY && s->read_gen == g);
    if (!held) {
        n.gen[g].state = RELEASED;
    }
    EMIT(held ? "the owner marks DEAD what is still held" : "the owner gives an extent back");
}

static void step_owner(const mcs_model_t *m, const state_t *s, mcs_explorer_t *ex)
{
    serve_store(m, s, ex);
    for (int g = 1; g <= GENERATIONS; g++) {
        release(m, s, g, ex);
    }
    for (int a = 0; a < 2; a++) {
        if (s->ended[a] && !s->ended_known[a]) {
            state_t n = *s;
            n.ended_known[a] = 1;
            for (int g = 1; g <= GENERATIONS; g++) {
                n.gen[g].revoked = session_of(g) == a ? 0 : n.gen[g].revoked;
            }
            EMIT("the owner learns that a session is over");
        }
    }
    if (s->committing != 0) {
        state_t n = *s;
        n.extent[s->gen[s->current].extent].header_state = HEADER_DEAD;
        n.committing = 0;
        if (s->committing == REMOVAL) {
            end_generation(&n, s->current);
            n.current = 0;
            EMIT("the owner marks the old value DEAD; the key is removed");
        } else {
            commit(&n, s->committing);
            EMIT("the owner marks the old value DEAD; the key is swapped");
        }
    }
}

/* ---- readers ---- */

static void finish_read(state_t *n, uint8_t g, uint8_t floor, const uint8_t seen[2])
{
    n->bad_bytes = n->bad_bytes || seen[0] != g || seen[1] != g;
    n->went_back = n->went_back || g < floor;
    n->newest = g > n->newest ? g : n->newest;
}

static bool readable(const state_t *s, uint8_t g)
{
    const extent_t *extent = &s->extent[s->gen[g].extent];
    return extent->header_gen == g && extent->header_state == HEADER_WRITTEN;
}

static void step_served_reader(const state_t *s, mcs_explorer_t *ex)
{
    state_t n = *s;
    switch (s->read) {
    case READ_IDLE:
        if (s->current != 0) {
            n.read_gen = s->current;
            n.read = READ_LOOKED_UP;
            EMIT("reader: looks the key up");
        }
        break;
    case READ_LOOKED_UP: /* its descriptor may be old by now */
        n.read_floor = s->newest;
        n.read = readable(s, s->read_gen) ? READ_MAY : READ_IDLE;
        EMIT("reader: asks the owner");
        break;
    case READ_MAY:
    case READ_ONE:
        n.read_seen[s->read - READ_MAY] = s->extent[s->gen[s->read_gen].extent].word[s->read - READ_MAY];
        n.read++;
        EMIT("reader: is sent a word");
        break;
    default:
        finish_read(&n, s->read_gen, s->read_floor, s->read_seen);
        n.read = READ_IDLE;
        n.read_gen = n.read_floor = n.read_seen[0] = n.read_seen[1] = 0;
        EMIT("reader: has the value");
        break;
    }
}

static void step_one_sided_reader(const mcs_model_t *m, const state_t *s, mcs_explorer_t *ex)
{
    state_t n = *s;
    if (s->lease_reader) {
        n.lease_reader = 0;
        EMIT("one-sided: its lease runs out");
        n = *s;
    }
    switch (s->side) {
    case READ_IDLE:
        if (s->current != 0 && !s->lease_master) {
            n.side_gen = s->current;
            n.lease_reader = n.lease_master = 1;
            n.side = READ_LOOKED_UP;
            EMIT("one-sided: looks the key up under a lease");
        }
        break;
    case READ_LOOKED_UP:
        n.side_floor = s->newest;
        n.side = readable(s, s->side_gen) ? READ_MAY : READ_IDLE;
        EMIT("one-sided: reads the header");
        break;
    case READ_MAY:
    case READ_ONE:
        n.side_seen[s->side - READ_MAY] = s->extent[s->gen[s->side_gen].extent].word[s->side - READ_MAY];
        n.side++;
        EMIT("one-sided: reads a word");
        break;
    default:
        if (s->lease_reader || m->mutant == MCS_SERVED_READER_TRUSTS_ITS_LEASE) {
            finish_read(&n, s->side_gen, s->side_floor, s->side_seen);
        }
        n.side = READ_IDLE;
        n.side_floor = n.side_seen[0] = n.side_seen[1] = 0;
        EMIT("one-sided: looks at its clock and is done");
        break;
    }
}

static void step(const mcs_model_t *m, const void *at, mcs_explorer_t *ex)
{
    const state_t *s = at;
    step_master(m, s, ex);
    for (int g = 1; g <= GENERATIONS; g++) {
        step_writer(m, s, g, ex);
    }
    step_owner(m, s, ex);
    step_served_reader(s, ex);
    step_one_sided_reader(m, s, ex);
}

mcs_model_t mcs_model_served(mcs_served_mutant_t mutant)
{
    return (mcs_model_t){
        .name = "served",
        .state_size = sizeof(state_t),
        .mutant = (int)mutant,
        .initial = initial,
        .step = step,
        .violation = violation,
    };
}
