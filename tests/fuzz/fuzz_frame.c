/* A frame and its message as a master gets them: what decodes encodes to the same bytes; the message unpacks within the
 * arena or not at all. */
#include <stdlib.h>
#include <string.h>

#include "core/base/arena.h"
#include "core/wire/frame.h"
#include "core/wire/mcs.pb-c.h"

static void *arena_alloc(void *arg, size_t size)
{
    return mcs_arena_alloc(arg, size);
}

static void arena_free(void *arg, void *ptr)
{
    (void)arg;
    (void)ptr;
}

static const ProtobufCMessageDescriptor *type_of(unsigned verb)
{
    static const ProtobufCMessageDescriptor *const types[] = {
        &mcs__wire__hello__descriptor,          &mcs__wire__hello_reply__descriptor,
        &mcs__wire__mount_segment__descriptor,  &mcs__wire__put_start__descriptor,
        &mcs__wire__put_end__descriptor,        &mcs__wire__remove__descriptor,
        &mcs__wire__segment_list__descriptor,   &mcs__wire__lookup_reply__descriptor,
        &mcs__wire__notice_release__descriptor, &mcs__wire__segment_info__descriptor,
        &mcs__wire__put_wait__descriptor,       &mcs__wire__error_detail__descriptor};
    return types[verb % MCS_ARRAY_LEN(types)];
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    mcs_frame_header_t header;
    uint8_t again[MCS_FRAME_HEADER];
    if (len < MCS_FRAME_HEADER || mcs_frame_decode(bytes, MCS_FRAME_MAX, &header) != MCS_OK) {
        return 0;
    }
    mcs_frame_encode(&header, again);
    if (memcmp(again, bytes, MCS_FRAME_HEADER) != 0) {
        abort();
    }
    mcs_verb_name(header.verb);
    mcs_arena_t arena;
    mcs_arena_init(&arena, 4096, (size_t)1 << 20);
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &arena};
    ProtobufCMessage *message =
        protobuf_c_message_unpack(type_of(header.verb), &allocator, len - MCS_FRAME_HEADER, bytes + MCS_FRAME_HEADER);
    if (message != NULL) {
        size_t size = protobuf_c_message_get_packed_size(message);
        uint8_t *packed = malloc(size + 1);
        if (packed == NULL || protobuf_c_message_pack(message, packed) != size) {
            abort();
        }
        free(packed);
    }
    mcs_arena_fini(&arena);
    return 0;
}
