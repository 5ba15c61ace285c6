/* Same-host access without clocks: one extent of two words, its owner, a reader and a writer that may stop between any
 * two steps and wake whenever they like (a breadth-first search of interleavings is exactly that).
 *
 * Generation 1 is put by `writer`, read by `reader`; it ends by a revoke before its commit or by a removal after it.
 * The owner then gives the extent back and generation 2 is put and committed in the same place. What must hold: a read
 * that ends well has words of its generation only; the words of a committed generation 2 do not change. CRCs would
 * catch most of what goes wrong here: the model has none, because the protocol must not need them.
 *
 * Memory is sequentially consistent, as the code's accesses are (slots.h). */
#include <string.h>

#include "tests/model/models.h"

enum { HEADER_NONE, HEADER_OPEN, HEADER_WRITTEN, HEADER_DEAD };
enum { OBJECT_RESERVED, OBJECT_COMMITTED, OBJECT_ENDED, OBJECT_RELEASED };
enum { WRITER_START, WRITER_NAMED, WRITER_MAY, WRITER_OPENED, WRITER_ONE, WRITER_TWO, WRITER_SEALED, WRITER_GONE };
enum { READER_START, READER_LOOKED_UP, READER_NAMED, READER_MAY, READER_ONE, READER_TWO, READER_GONE };
enum { OWNER_IDLE, OWNER_REVOKED, OWNER_DEAD, OWNER_SCANNED_READER, OWNER_FREE };
enum { NEXT_NONE, NEXT_RESERVED, NEXT_OPENED, NEXT_ONE, NEXT_TWO, NEXT_COMMITTED };

typedef struct state {
    uint8_t header_gen;
    uint8_t header_state;
    uint8_t word[2];
    uint8_t reader_slot;
    uint8_t writer_slot;
    uint8_t revoked;   /* generation 1 is in the table */
    uint8_t may_write; /* the release says so: ended before its commit */
    uint8_t object;
    uint8_t writer;
    uint8_t reader;
    uint8_t seen[2];
    uint8_t read_ok;
    uint8_t owner;
    uint8_t named; /* the scan has met the generation */
    uint8_t next;
    uint8_t torn; /* a committed generation 2 was written to */
} state_t;

static void initial(void *to)
{
    memset(to, 0, sizeof(state_t));
}

static const char *violation(const void *at)
{
    const state_t *s = at;
    if (s->read_ok && (s->seen[0] != 1 || s->seen[1] != 1)) {
        return "rule 4: a read ended well with bytes that are not its generation's";
    }
    if (s->torn) {
        return "rules 2 and 6: bytes of a committed replica changed";
    }
    return NULL;
}

static void write_word(state_t *s, int i, uint8_t generation)
{
    s->word[i] = generation;
    s->torn = s->torn || (s->next == NEXT_COMMITTED && generation != 2);
}

#define EMIT(label) mcs_explorer_emit(ex, &n, label)

/* The writer of generation 1. */
static void step_writer(const mcs_model_t *m, const state_t *s, mcs_explorer_t *ex)
{
    state_t n = *s;
    switch (s->writer) {
    case WRITER_START:
        n.writer_slot = m->mutant == MCS_SLOTS_WRITER_HAS_NO_SLOT ? 0 : 1;
        n.writer = WRITER_NAMED;
        EMIT("writer: publishes its generation");
        break;
    case WRITER_NAMED:
        n.writer =
            s->revoked && m->mutant != MCS_SLOTS_WRITER_DOES_NOT_ASK_THE_REVOKED_TABLE ? WRITER_GONE : WRITER_MAY;
        n.writer_slot = n.writer == WRITER_GONE ? 0 : s->writer_slot;
        EMIT("writer: asks the revoked table");
        break;
    case WRITER_MAY:
        n.header_gen = 1;
        n.header_state = HEADER_OPEN;
        n.torn = s->next == NEXT_COMMITTED || s->torn;
        n.writer = WRITER_OPENED;
        EMIT("writer: opens the header");
        break;
    case WRITER_OPENED:
    case WRITER_ONE:
        write_word(&n, s->writer - WRITER_OPENED, 1);
        n.writer++;
        EMIT("writer: writes a word");
        break;
    case WRITER_TWO:
        if (s->header_gen == 1 && s->header_state == HEADER_OPEN) {
            n.header_state = HEADER_WRITTEN;
            n.writer = WRITER_SEALED;
        } else {
            n.writer = WRITER_GONE;
        }
        n.writer_slot = 0;
        EMIT("writer: seals and clears its slot");
        break;
    case WRITER_SEALED:
        if (s->object == OBJECT_RESERVED) {
            n.object = OBJECT_COMMITTED;
        }
        n.writer = WRITER_GONE;
        EMIT("writer: put_end");
        break;
    default: break;
    }
}

static bool reader_check(const state_t *s)
{
    return s->header_gen == 1 && s->header_state == HEADER_WRITTEN;
}

static void step_reader(const mcs_model_t *m, const state_t *s, mcs_explorer_t *ex)
{
    state_t n = *s;
    bool early = m->mutant == MCS_SLOTS_READER_CHECKS_BEFORE_IT_PUBLISHES;
    switch (s->reader) {
    case READER_START:
        if (s->object == OBJECT_COMMITTED) {
            n.reader = READER_LOOKED_UP;
            EMIT("reader: looks generation 1 up");
        }
        break;
    case READER_LOOKED_UP:
        if (early) {
            n.reader = reader_check(s) ? READER_NAMED : READER_GONE;
            EMIT("reader: checks the header");
        } else {
            n.reader_slot = m->mutant == MCS_SLOTS_READER_HAS_NO_SLOT ? 0 : 1;
            n.reader = READER_NAMED;
            EMIT("reader: publishes its generation");
        }
        break;
    case READER_NAMED:
        if (early) {
            n.reader_slot = 1;
            n.reader = READER_MAY;
            EMIT("reader: publishes its generation");
        } else {
            n.reader = reader_check(s) ? READER_MAY : READER_GONE;
            n.reader_slot = n.reader == READER_GONE ? 0 : s->reader_slot;
            EMIT("reader: checks the header");
        }
        break;
    case READER_MAY:
    case READER_ONE:
        n.seen[s->reader - READER_MAY] = s->word[s->reader - READER_MAY];
        n.reader++;
        EMIT("reader: reads a word");
        break;
    case READER_TWO:
        n.read_ok = 1;
        n.reader = READER_GONE;
        n.reader_slot = 0;
        EMIT("reader: returns the value and clears its slot");
        break;
    default: break;
    }
}

/* The master ends generation 1: a revoke before the commit, or a removal after it. */
static void step_master(const state_t *s, mcs_explorer_t *ex)
{
    state_t n = *s;
    if (s->object == OBJECT_RESERVED || s->object == OBJECT_COMMITTED) {
        n.may_write = s->object == OBJECT_RESERVED;
        n.object = OBJECT_ENDED;
        EMIT(n.may_write ? "master: revokes generation 1" : "master: removes generation 1");
    } else if (s->object == OBJECT_RELEASED && s->next == NEXT_NONE) {
        n.next = NEXT_RESERVED;
        EMIT("master: gives the extent to generation 2");
    }
}

/* The owner answers a release: revoked table, DEAD, scan of both slots; what is named is scanned again later. */
static void step_owner(const mcs_model_t *m, const state_t *s, mcs_explorer_t *ex)
{
    state_t n = *s;
    if (s->object != OBJECT_ENDED) {
        return;
    }
    if (m->mutant == MCS_SLOTS_REUSE_BY_TIME_ALONE) {
        n.object = OBJECT_RELEASED;
        EMIT("owner: the time is over");
        return;
    }
    bool late_mark = m->mutant == MCS_SLOTS_OWNER_SCANS_BEFORE_IT_MARKS;
    switch (s->owner) {
    case OWNER_IDLE:
        n.revoked = s->may_write;
        n.owner = OWNER_REVOKED;
        EMIT("owner: remembers what was revoked");
        break;
    case OWNER_REVOKED:
        if (!late_mark) {
            n.header_state = HEADER_DEAD;
        }
        n.named = 0;
        n.owner = OWNER_DEAD;
        EMIT("owner: marks the header DEAD");
        break;
    case OWNER_DEAD:
        n.named = s->reader_slot;
        n.owner = OWNER_SCANNED_READER;
        EMIT("owner: scans the reader's slot");
        break;
    case OWNER_SCANNED_READER:
        n.named = s->named || s->writer_slot;
        n.owner = n.named ? OWNER_REVOKED : OWNER_FREE;
        EMIT("owner: scans the writer's slot");
        break;
    case OWNER_FREE:
        if (late_mark) {
            n.header_state = HEADER_DEAD;
        }
        n.object = OBJECT_RELEASED;
        EMIT("owner: answers the release");
        break;
    default: break;
    }
}

/* The put of generation 2 in the same place. Its slot is left out: nobody ends it. */
static void step_next(const state_t *s, mcs_explorer_t *ex)
{
    state_t n = *s;
    switch (s->next) {
    case NEXT_RESERVED:
        n.header_gen = 2;
        n.header_state = HEADER_OPEN;
        n.next = NEXT_OPENED;
        EMIT("next writer: opens the header");
        break;
    case NEXT_OPENED:
    case NEXT_ONE:
        n.word[s->next - NEXT_OPENED] = 2;
        n.next++;
        EMIT("next writer: writes a word");
        break;
    case NEXT_TWO:
        if (s->header_gen == 2 && s->header_state == HEADER_OPEN) {
            n.torn = s->torn || s->word[0] != 2 || s->word[1] != 2;
            n.header_state = HEADER_WRITTEN;
            n.next = NEXT_COMMITTED;
            EMIT("next writer: seals and commits");
        }
        break;
    default: break;
    }
}

static void step(const mcs_model_t *m, const void *at, mcs_explorer_t *ex)
{
    const state_t *s = at;
    step_writer(m, s, ex);
    step_reader(m, s, ex);
    step_master(s, ex);
    step_owner(m, s, ex);
    step_next(s, ex);
}

mcs_model_t mcs_model_slots(mcs_slots_mutant_t mutant)
{
    return (mcs_model_t){
        .name = "slots",
        .state_size = sizeof(state_t),
        .mutant = (int)mutant,
        .initial = initial,
        .step = step,
        .violation = violation,
    };
}
