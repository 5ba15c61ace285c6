/* A process of its own: maps segments of others, pins, writes, and holds; or owns a segment. One command a line, one
 * answer a line. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "tests/unit/same_host/board.h"
#include "tests/unit/same_host/rig.h"

#define PINS 8192

static mcs_mapper_t *g_mapper;
static mcs_mapping_t *g_mapping;
static mcs_pin_t g_pins[PINS];
static rig_t g_rig; /* the "own" command */
static char g_path[108];
static mcs_mapper_peer_t g_peer;
static int g_board_fd;

static void answer(long long number)
{
    printf("%lld\n", number);
    fflush(stdout);
}

static long long map(const char *args)
{
    unsigned long long n[7];
    if (sscanf(args, "%107s %llu %llu %llu %llu %llu %llu %llu", g_path, &n[0], &n[1], &n[2], &n[3], &n[4], &n[5],
               &n[6]) != 8) {
        return -1;
    }
    if (g_mapper == NULL) {
        mcs_mapper_config_t config = {.client = mcs_id_random()};
        mcs_status_t status = mcs_mapper_create(&config, &g_mapper);
        if (status != MCS_OK) {
            return status;
        }
    }
    mcs_mapper_set_session(g_mapper, (mcs_id_t){n[5], n[6]});
    mcs_mapping_put(g_mapping);
    g_mapping = NULL;
    g_peer = (mcs_mapper_peer_t){.owner = {n[0], n[1]}, .instance = {n[2], n[3]}, .size = n[4], .ipc_path = g_path};
    return mcs_mapper_get(g_mapper, &g_peer, mcs_deadline_after_ms(5000), &g_mapping);
}

static long long pin(const char *args, bool write)
{
    unsigned long long index, offset, generation, len, seed;
    if (sscanf(args, "%llu %llu %llu %llu %llu", &index, &offset, &generation, &len, &seed) != 5 || index >= PINS) {
        return -1;
    }
    mcs_pin_t *at = &g_pins[index];
    mcs_status_t status = write ? mcs_pin_write(g_mapping, offset, generation, len, rig_key(generation), at)
                                : mcs_pin_read(g_mapping, offset, generation, len, rig_key(generation), at);
    if (status == MCS_OK && write) {
        rig_fill(at->payload, len, seed);
    } else if (status == MCS_OK && !rig_is_filled(at->payload, len, seed)) {
        return 1;
    }
    return status;
}

static long long check(const char *args)
{
    unsigned long long index, seed;
    if (sscanf(args, "%llu %llu", &index, &seed) != 2 || index >= PINS) {
        return -1;
    }
    return rig_is_filled(g_pins[index].payload, g_pins[index].payload_len, seed) ? 0 : 1;
}

static long long fill(const char *args)
{
    unsigned long long index, seed;
    if (sscanf(args, "%llu %llu", &index, &seed) != 2 || index >= PINS) {
        return -1;
    }
    rig_fill(g_pins[index].payload, g_pins[index].payload_len, seed);
    return 0;
}

/* As many pins of one object as there are slots. */
static long long pin_all(const char *args)
{
    unsigned long long offset, generation, len;
    if (sscanf(args, "%llu %llu %llu", &offset, &generation, &len) != 3) {
        return -1;
    }
    for (int i = 0; i < PINS; i++) {
        if (mcs_pin_read(g_mapping, offset, generation, len, rig_key(generation), &g_pins[i]) != MCS_OK) {
            return i;
        }
    }
    return PINS;
}

/* Owns a segment with one object at offset 0, generation 7, 1 MiB; says how to reach it. */
static void own(const char *args)
{
    char folder[64] = "";
    if (sscanf(args, "%63s", folder) == 1) {
        rig_start(&g_rig, 64 * MCS_MIB, folder);
    }
    if (rig_write(g_rig.own, 0, 7, MCS_MIB, 7) != MCS_OK) {
        answer(-1);
        return;
    }
    printf("%s %llu %llu %llu %llu %llu\n", g_rig.self.ipc_path, (unsigned long long)g_rig.client.hi,
           (unsigned long long)g_rig.client.lo, (unsigned long long)g_rig.self.instance.hi,
           (unsigned long long)g_rig.self.instance.lo, (unsigned long long)g_rig.self.size);
    fflush(stdout);
}

/* A child of ours that does nothing and lives on. */
static long long spawn(void)
{
    pid_t child = fork();
    if (child == 0) {
        for (;;) {
            pause();
        }
    }
    return child;
}

/* Reads what the board says until it says stop. The answer: how many objects, negative on a wrong byte. */
static long long race(void)
{
    board_t *board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, g_board_fd, 0);
    if (board == MAP_FAILED) {
        return -1;
    }
    return board_read_until_stopped(board, g_mapping);
}

static bool handle(char *line)
{
    char *args = strchr(line, ' ');
    args = args != NULL ? args + 1 : line + strlen(line);
    if (strncmp(line, "map ", 4) == 0) {
        answer(map(args));
    } else if (strncmp(line, "read ", 5) == 0) {
        answer(pin(args, false));
    } else if (strncmp(line, "write ", 6) == 0) {
        answer(pin(args, true));
    } else if (strncmp(line, "check ", 6) == 0) {
        answer(check(args));
    } else if (strncmp(line, "fill ", 5) == 0) {
        answer(fill(args));
    } else if (strncmp(line, "seal ", 5) == 0) {
        answer(mcs_pin_seal(&g_pins[strtoul(args, NULL, 10) % PINS]));
    } else if (strncmp(line, "unpin ", 6) == 0) {
        mcs_unpin(&g_pins[strtoul(args, NULL, 10) % PINS]);
        answer(0);
    } else if (strncmp(line, "pin_all ", 8) == 0) {
        answer(pin_all(args));
    } else if (strncmp(line, "own ", 4) == 0) {
        own(args);
    } else if (strcmp(line, "remove") == 0) {
        mcs_owner_remove_segment(g_rig.owner, g_rig.self.instance);
        answer(0);
    } else if (strcmp(line, "spawn") == 0) {
        answer(spawn());
    } else if (strcmp(line, "race") == 0) {
        answer(race());
    } else if (strcmp(line, "destroy") == 0) {
        mcs_mapping_put(g_mapping);
        g_mapping = NULL;
        mcs_mapper_destroy(g_mapper);
        g_mapper = NULL;
        answer(0);
    } else {
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    char line[512];
    g_board_fd = argc > 1 ? (int)strtol(argv[1], NULL, 10) : -1;
    while (fgets(line, sizeof(line), stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (!handle(line)) {
            return 2;
        }
    }
    if (g_rig.owner != NULL) {
        rig_stop(&g_rig);
    }
    mcs_mapping_put(g_mapping);
    for (int i = 0; i < PINS; i++) {
        mcs_unpin(&g_pins[i]);
    }
    mcs_mapper_destroy(g_mapper);
    return 0;
}
