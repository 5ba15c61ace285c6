/* Streams: a producer thread and the library's reader with a ring between them; see http_server.h.
 *
 * The library pulls (a callback that fills its buffer), the master's walks push (a callback for each key): so the walk
 * runs on a thread of its own and blocks when the ring is full. The reader waits a short while for an empty ring, on
 * one of the server's few threads; the walk is memory-fast, so that wait is normally over at once. Suspending the
 * connection instead would make stopping the server a race with the producer's resume. */
#include <string.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "master/http_internal.h"

#define RING_BYTES     ((size_t)256 << 10)
#define BLOCK_BYTES    ((size_t)32 << 10)
#define READER_WAIT_NS (50 * MCS_NS_PER_MS)

struct mcs_http_pipe {
    mcs_http_server_t *server;
    mcs_http_stream_t stream;
    mcs_thread_t thread;
    mcs_mutex_t lock; /* rank LEAF: what follows */
    mcs_cond_t changed;
    size_t head MCS_GUARDED_BY(&lock); /* of the bytes not read yet */
    size_t len MCS_GUARDED_BY(&lock);
    bool ended MCS_GUARDED_BY(&lock); /* the producer has returned */
    bool gone MCS_GUARDED_BY(&lock);  /* the client has left */
    uint8_t ring[RING_BYTES];
};

bool mcs_http_pipe_write(mcs_http_pipe_t *pipe, const void *bytes, size_t len)
{
    const uint8_t *from = (const uint8_t *)bytes;
    mcs_mutex_lock(&pipe->lock);
    while (len > 0) {
        while (pipe->len == RING_BYTES && !pipe->gone) {
            mcs_cond_wait(&pipe->changed, &pipe->lock);
        }
        if (pipe->gone) {
            break;
        }
        size_t tail = (pipe->head + pipe->len) % RING_BYTES;
        size_t piece = MCS_MIN(MCS_MIN(len, RING_BYTES - pipe->len), RING_BYTES - tail);
        memcpy(pipe->ring + tail, from, piece);
        if (pipe->len == 0) {
            mcs_cond_broadcast(&pipe->changed);
        }
        pipe->len += piece;
        from += piece;
        len -= piece;
    }
    bool gone = pipe->gone;
    mcs_mutex_unlock(&pipe->lock);
    return !gone;
}

static ssize_t read_pipe(void *cls, uint64_t pos, char *out, size_t max)
{
    mcs_http_pipe_t *pipe = (mcs_http_pipe_t *)cls;
    size_t done = 0;
    (void)pos;
    mcs_mutex_lock(&pipe->lock);
    uint64_t deadline = mcs_now_ns() + READER_WAIT_NS;
    while (pipe->len == 0 && !pipe->ended && mcs_cond_wait_until(&pipe->changed, &pipe->lock, deadline)) {
    }
    bool was_full = pipe->len == RING_BYTES;
    while (done < max && pipe->len > 0) {
        size_t piece = MCS_MIN(MCS_MIN(max - done, pipe->len), RING_BYTES - pipe->head);
        memcpy(out + done, pipe->ring + pipe->head, piece);
        pipe->head = (pipe->head + piece) % RING_BYTES;
        pipe->len -= piece;
        done += piece;
    }
    bool at_end = pipe->ended && pipe->len == 0;
    if (was_full) {
        mcs_cond_broadcast(&pipe->changed);
    }
    mcs_mutex_unlock(&pipe->lock);
    return done == 0 && at_end ? (ssize_t)MHD_CONTENT_READER_END_OF_STREAM : (ssize_t)done;
}

static void producer_thread(void *arg)
{
    mcs_http_pipe_t *pipe = (mcs_http_pipe_t *)arg;
    pipe->stream.produce(pipe->stream.arg, pipe);
    mcs_mutex_lock(&pipe->lock);
    pipe->ended = true;
    mcs_cond_broadcast(&pipe->changed);
    mcs_mutex_unlock(&pipe->lock);
}

/* The response is done with, or the connection is gone. */
static void close_pipe(void *cls)
{
    mcs_http_pipe_t *pipe = (mcs_http_pipe_t *)cls;
    mcs_mutex_lock(&pipe->lock);
    pipe->gone = true;
    mcs_cond_broadcast(&pipe->changed);
    mcs_mutex_unlock(&pipe->lock);
    mcs_thread_join(&pipe->thread);
    if (pipe->stream.done != NULL) {
        pipe->stream.done(pipe->stream.arg);
    }
    (void)__atomic_sub_fetch(&pipe->server->stream_count, 1, __ATOMIC_RELAXED);
    mcs_cond_fini(&pipe->changed);
    mcs_mutex_fini(&pipe->lock);
    mcs_free(pipe);
}

/* NULL: too many, or no memory; then nothing is left but the caller's stream. */
static mcs_http_pipe_t *open_pipe(mcs_http_server_t *server, const mcs_http_stream_t *stream)
{
    mcs_http_pipe_t *pipe = NULL;
    if (__atomic_add_fetch(&server->stream_count, 1, __ATOMIC_RELAXED) <= server->config.max_streams) {
        pipe = mcs_malloc(sizeof(*pipe));
    }
    if (pipe == NULL) {
        goto err_uncount;
    }
    memset(pipe, 0, offsetof(mcs_http_pipe_t, ring));
    pipe->server = server;
    pipe->stream = *stream;
    mcs_mutex_init(&pipe->lock, MCS_RANK_LEAF, "http pipe");
    mcs_cond_init(&pipe->changed);
    if (mcs_thread_start(&pipe->thread, "mcs-http-list", producer_thread, pipe) != MCS_OK) {
        goto err_free;
    }
    return pipe;

err_free:
    mcs_cond_fini(&pipe->changed);
    mcs_mutex_fini(&pipe->lock);
    mcs_free(pipe);
err_uncount:
    (void)__atomic_sub_fetch(&server->stream_count, 1, __ATOMIC_RELAXED);
    return NULL;
}

void mcs_http_reply_stream(mcs_http_request_t *request, const char *type, const mcs_http_stream_t *stream)
{
    mcs_http_pipe_t *pipe = open_pipe(request->server, stream);
    if (pipe == NULL) {
        if (stream->done != NULL) {
            stream->done(stream->arg);
        }
        mcs_i_http_reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "");
        return;
    }
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_pipe, pipe, close_pipe);
    if (response == NULL) {
        close_pipe(pipe);
    }
    mcs_i_http_reply_response(request, MHD_HTTP_OK, type, response);
}
