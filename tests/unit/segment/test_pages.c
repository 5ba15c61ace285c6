/* Pages of slots whose connection has gone (rules 3 and 8): they stay as long as a living process holds a slot in them,
 * there are not endlessly many, and who left none behind is served again when they are empty. The peers are sockets of
 * this process that do what no mapper of ours does. */
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/segment/ipc.h"
#include "core/segment/region.h"
#include "core/segment/slots.h"
#include "tests/unit/segment/world.h"

#define PAGES_MAX 1024u /* OWNER_PAGES_MAX */

static int dial(const world_t *world)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", mcs_owner_ipc_path(world->owner));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* The page that a hello is answered with, NULL when it is refused. */
static mcs_region_t *say_hello(int fd, mcs_id_t session)
{
    const mcs_ipc_request_t hello = {
        .magic = MCS_IPC_MAGIC, .version = MCS_IPC_VERSION, .op = MCS_IPC_HELLO, .client = {1, 2}, .session = session};
    assert_int_equal(send(fd, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MCS_IPC_FDS)];
        struct cmsghdr align;
    } control;
    mcs_ipc_answer_t answer;
    struct iovec iov = {&answer, sizeof(answer)};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    struct cmsghdr *head = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (head == NULL) {
        return NULL;
    }
    int fds[MCS_IPC_FDS];
    memcpy(fds, CMSG_DATA(head), sizeof(fds));
    mcs_region_t *page;
    assert_int_equal(mcs_region_map(fds[0], sizeof(mcs_slot_page_t), true, &page), MCS_OK);
    mcs_region_t *table = NULL;
    /* Nobody but the owner writes to the table of revoked generations. */
    mcs_log_set_level(MCS_LOG_OFF);
    assert_int_not_equal(mcs_region_map(fds[1], sizeof(mcs_revoked_table_t), true, &table), MCS_OK);
    mcs_log_set_level(MCS_LOG_WARN);
    close(fds[0]);
    close(fds[1]);
    return page;
}

static void a_slot_left_behind_by_a_living_process_holds_its_extent(void **state)
{
    (void)state;
    world_t *world = world_open(4 * MCS_MIB);
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_OK);
    int fd = dial(world);
    mcs_region_t *page = say_hello(fd, (mcs_id_t){3, 4});
    assert_non_null(page);
    mcs_slot_page_t *slots = page->base;
    int slot = mcs_slot_publish(slots, 5);
    assert_true(slot >= 0);
    close(fd);
    world_await(__atomic_load_n(&slots->closed, __ATOMIC_SEQ_CST) != 0);
    world_release(world, 0, 5, 1000, 0);
    assert_int_equal(world_times_released(world, 5), 0);
    assert_int_equal(world_stats(world).pending_releases, 1);
    mcs_slot_clear(slots, slot);
    world_await(world_times_released(world, 5) == 1);
    world_await(world_stats(world).mappers == 0);
    mcs_region_put(page);
    world_close(world);
}

/* Whatever a peer writes into its page, others are served. */
static void a_page_full_of_rubbish_harms_nobody(void **state)
{
    (void)state;
    world_t *world = world_open(4 * MCS_MIB);
    assert_int_equal(world_put(world->own, 0, 5, 1000), MCS_OK);
    assert_int_equal(world_put(world->own, 4096, 6, 1000), MCS_OK);
    int fd = dial(world);
    mcs_region_t *page = say_hello(fd, (mcs_id_t){3, 4});
    assert_non_null(page);
    mcs_random_bytes(page->base, sizeof(mcs_slot_page_t));
    mcs_owner_set_epoch(world->owner, 77);
    world_release(world, 0, 5, 1000, 0);
    world_await(world_times_released(world, 5) == 1);
    memset(page->base, 0xff, sizeof(mcs_slot_page_t));
    mcs_owner_session_ended(world->owner, (mcs_id_t){3, 4});
    world_release(world, 4096, 6, 1000, 0);
    world_await(world_times_released(world, 6) == 1);
    memset(page->base, 0, sizeof(mcs_slot_page_t));
    close(fd);
    world_await(world_stats(world).mappers == 0);
    mcs_region_put(page);
    world_close(world);
}

static void pages_left_behind_are_bounded(void **state)
{
    (void)state;
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < 4 * PAGES_MAX) {
        skip(); /* a descriptor each, for the process behind it */
    }
    limit.rlim_cur = 4 * PAGES_MAX;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    world_t *world = world_open(1 * MCS_MIB);
    mcs_region_t **pages = calloc(2 * PAGES_MAX, sizeof(mcs_region_t *));
    size_t count = 0;
    for (bool refused = false; !refused && count < 2 * PAGES_MAX;) {
        int fd = dial(world);
        pages[count] = say_hello(fd, (mcs_id_t){3, 4});
        refused = pages[count] == NULL;
        if (!refused) {
            assert_true(mcs_slot_publish(pages[count]->base, 5) >= 0);
            count++;
        }
        close(fd);
    }
    assert_int_equal(count, PAGES_MAX - 1); /* the owner's own mapper has one, too */
    for (size_t i = 0; i < count; i++) {
        mcs_slot_page_init(pages[i]->base);
        mcs_region_put(pages[i]);
    }
    world_await(world_stats(world).mappers == 0);
    int fd = dial(world);
    pages[0] = say_hello(fd, (mcs_id_t){3, 4});
    assert_non_null(pages[0]);
    mcs_region_put(pages[0]);
    close(fd);
    free(pages);
    world_close(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slot_left_behind_by_a_living_process_holds_its_extent),
        cmocka_unit_test(a_page_full_of_rubbish_harms_nobody),
        cmocka_unit_test(pages_left_behind_are_bounded),
    };
    return cmocka_run_group_tests_name("segment/pages", tests, NULL, NULL);
}
