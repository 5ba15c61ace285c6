/* See format.h. */
#include "master/journal/format.h"

#include <string.h>

#include "core/base/hash.h"
#include "core/wire/extent.h"

#define MASTERS_HANDLES (UINT32_C(1) << 24)

static uint32_t header_crc(const mcs_journal_header_t *header)
{
    return mcs_crc32c(0, header, offsetof(mcs_journal_header_t, crc));
}

void mcs_journal_header_seal(mcs_journal_header_t *header)
{
    header->crc = header_crc(header);
}

mcs_status_t mcs_journal_header_check(const mcs_journal_header_t *header, const char **text_out)
{
    if (memcmp(header->magic, MCS_JOURNAL_MAGIC, sizeof(header->magic)) != 0) {
        *text_out = "not a journal file";
        return MCS_ERR_PROTOCOL;
    }
    if (header->version < MCS_JOURNAL_VERSION_FIRST || header->version > MCS_JOURNAL_VERSION) {
        *text_out = "another version of the format";
        return MCS_ERR_INVALID_VERSION;
    }
    if (header->crc != header_crc(header)) {
        *text_out = "the header's checksum is wrong";
        return MCS_ERR_PROTOCOL;
    }
    bool sane = header->page == MCS_JOURNAL_PAGE && header->streams == MCS_JOURNAL_STREAMS &&
                header->stream < MCS_JOURNAL_STREAMS && header->number > 0 &&
                memchr(header->boot_id, '\0', sizeof(header->boot_id)) != NULL;
    if (!sane) {
        *text_out = "the header contradicts itself";
        return MCS_ERR_PROTOCOL;
    }
    return MCS_OK;
}

uint64_t mcs_journal_word(uint64_t number, uint64_t at, const void *body, uint32_t len)
{
    uint32_t seed = (uint32_t)(number * UINT64_C(0x9e3779b97f4a7c15) >> 32) ^ (uint32_t)(at >> 3);
    return (uint64_t)mcs_crc32c(seed, body, len) << 32 | len;
}

mcs_journal_step_t mcs_journal_next(const uint8_t *window, uint64_t len, uint64_t number, uint64_t base, uint64_t at,
                                    const uint8_t **body_out, uint32_t *len_out)
{
    if (at == len && len == MCS_JOURNAL_WINDOW) {
        return MCS_JOURNAL_WINDOW_END;
    }
    if (at + sizeof(uint64_t) > len) {
        return MCS_JOURNAL_BAD; /* windows are whole */
    }
    uint64_t word = mcs_load_u64(window + at);
    uint32_t body = (uint32_t)word;
    if (word == 0) {
        return MCS_JOURNAL_END;
    }
    if (word == MCS_JOURNAL_SKIP) {
        return MCS_JOURNAL_WINDOW_END;
    }
    if (body == 0 || body > MCS_JOURNAL_BODY_MAX || at + mcs_journal_frame_len(body) > len ||
        mcs_journal_word(number, base + at, window + at + sizeof(word), body) != word) {
        return MCS_JOURNAL_BAD;
    }
    *body_out = window + at + sizeof(word);
    *len_out = body;
    return MCS_JOURNAL_FRAME;
}

static bool has_value(uint8_t kind)
{
    return kind == MCS_REC_PUT || kind == MCS_REC_STRIKE_PUT;
}

mcs_status_t mcs_obj_decode(const uint8_t *body, uint32_t len, mcs_obj_t *obj_out)
{
    mcs_obj_t obj;
    if (len < sizeof(obj.head)) {
        return MCS_ERR_PROTOCOL;
    }
    memcpy(&obj.head, body, sizeof(obj.head));
    const mcs_obj_head_t *head = &obj.head;
    bool value = has_value(head->kind);
    if ((!value && head->kind != MCS_REC_DEL && head->kind != MCS_REC_STRIKE_DEL) || mcs_obj_len(head) != len ||
        head->key_len == 0 || head->key_len > MCS_KEY_MAX || head->group_len > MCS_KEY_MAX ||
        head->replica_count > MCS_OBJ_REPLICAS_MAX || (head->replica_count > 0) != value ||
        (value && (head->payload_len == 0 || head->payload_len > MCS_OBJECT_MAX))) {
        return MCS_ERR_PROTOCOL;
    }
    obj.replicas = body + sizeof(*head);
    obj.group = (const char *)obj.replicas + head->replica_count * sizeof(mcs_obj_replica_t);
    obj.key = obj.group + head->group_len;
    *obj_out = obj;
    return MCS_OK;
}

mcs_status_t mcs_seg_decode(const uint8_t *body, uint32_t len, mcs_seg_t *seg_out)
{
    mcs_seg_t seg;
    if (len < sizeof(seg.head)) {
        return MCS_ERR_PROTOCOL;
    }
    memcpy(&seg.head, body, sizeof(seg.head));
    const mcs_seg_head_t *head = &seg.head;
    if ((head->kind != MCS_REC_SEGMENT && head->kind != MCS_REC_UNMOUNT) || head->handle == 0 ||
        head->handle >= MASTERS_HANDLES) {
        return MCS_ERR_PROTOCOL;
    }
    const char *text = (const char *)body + sizeof(*head);
    uint32_t used = sizeof(*head);
    for (size_t i = 0; i < MCS_ARRAY_LEN(seg.texts); i++) {
        if (head->lens[i] > MCS_SEG_TEXT_MAX || head->lens[i] > len - used ||
            memchr(text, '\0', head->lens[i]) != NULL) {
            return MCS_ERR_PROTOCOL;
        }
        seg.texts[i] = text;
        text += head->lens[i];
        used += head->lens[i];
    }
    bool sane = head->kind == MCS_REC_UNMOUNT ||
                (head->size > 0 && head->size <= UINT64_C(1) << 46 && !mcs_id_is_none(head->instance) &&
                 !mcs_id_is_none(head->client) && !mcs_id_is_none(head->session) && head->lens[MCS_SEG_NAME] > 0 &&
                 (head->device == 0 || head->size % MCS_EXTENT_FAR_ALIGN == 0) && head->lens[MCS_SEG_BOOT] < 40 &&
                 head->lens[MCS_SEG_PROTOCOL] < 16);
    if (used != len || !sane) {
        return MCS_ERR_PROTOCOL;
    }
    *seg_out = seg;
    return MCS_OK;
}

mcs_status_t mcs_task_decode(const uint8_t *body, uint32_t len, mcs_task_t *task_out)
{
    mcs_task_t task;
    if (len < sizeof(task.head)) {
        return MCS_ERR_PROTOCOL;
    }
    memcpy(&task.head, body, sizeof(task.head));
    const mcs_task_head_t *head = &task.head;
    if (head->kind != MCS_REC_TASK || head->type > 1 || head->state > 3 || head->target_count == 0 ||
        head->target_count > MCS_OBJ_REPLICAS_MAX || head->key_len == 0 || head->key_len > MCS_KEY_MAX ||
        mcs_id_is_none(head->id) ||
        sizeof(*head) + head->target_count * sizeof(uint64_t) + head->key_len != (size_t)len) {
        return MCS_ERR_PROTOCOL;
    }
    task.targets = body + sizeof(*head);
    task.key = (const char *)task.targets + head->target_count * sizeof(uint64_t);
    *task_out = task;
    return MCS_OK;
}

/* `count` texts that end, none of them empty or too long. */
static bool are_names(const char *names, uint32_t len, uint32_t count)
{
    uint32_t found = 0;
    while (len > 0) {
        const char *end = memchr(names, '\0', len);
        if (end == NULL || end == names || (uint32_t)(end - names) > MCS_SEG_TEXT_MAX) {
            return false;
        }
        uint32_t used = (uint32_t)(end - names) + 1;
        names += used;
        len -= used;
        found++;
    }
    return found == count;
}

mcs_status_t mcs_job_decode(const uint8_t *body, uint32_t len, mcs_job_t *job_out)
{
    mcs_job_t job;
    if (len < sizeof(job.head)) {
        return MCS_ERR_PROTOCOL;
    }
    memcpy(&job.head, body, sizeof(job.head));
    const mcs_job_head_t *head = &job.head;
    if (head->kind != MCS_REC_JOB || head->status > 5 || head->source_count == 0 ||
        head->source_count > MCS_JOB_SEGMENTS_MAX || head->target_count > MCS_JOB_TARGETS_MAX ||
        head->message_len > MCS_JOB_MESSAGE_MAX || head->names_len > MCS_JOURNAL_BODY_MAX ||
        head->max_concurrency == 0 || mcs_id_is_none(head->id) ||
        sizeof(*head) + head->target_count * sizeof(uint64_t) + head->names_len + head->message_len != (size_t)len) {
        return MCS_ERR_PROTOCOL;
    }
    job.targets = body + sizeof(*head);
    job.names = (const char *)job.targets + head->target_count * sizeof(uint64_t);
    job.message = job.names + head->names_len;
    if (!are_names(job.names, head->names_len, head->source_count) ||
        memchr(job.message, '\0', head->message_len) != NULL) {
        return MCS_ERR_PROTOCOL;
    }
    *job_out = job;
    return MCS_OK;
}

bool mcs_meta_is_record(const uint8_t *body, uint32_t len)
{
    mcs_seg_t seg;
    mcs_task_t task;
    mcs_job_t job;
    switch (body[0]) {
    case MCS_REC_TASK: return mcs_task_decode(body, len, &task) == MCS_OK;
    case MCS_REC_JOB: return mcs_job_decode(body, len, &job) == MCS_OK;
    default: return mcs_seg_decode(body, len, &seg) == MCS_OK;
    }
}
