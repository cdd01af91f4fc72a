/* Reading from a connection, without blocking for longer than the caller wants. */
#include <errno.h>
#include <poll.h>
#include <time.h>

#include "decode.h"

static int64_t now_milliseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void drop_message(struct pgcopy *copy) {
    if (copy->message != NULL) copy->free_message(copy->message);
    copy->message = NULL;
    copy->message_size = copy->message_used = 0;
}

static enum pgcopy_status take_message(struct pgcopy *copy) {
    size_t used;
    const uint8_t *rest = (const uint8_t *)copy->message + copy->message_used;
    enum pgcopy_status status = pgcopy_take(copy, rest, copy->message_size - copy->message_used, &used);
    copy->message_used += used;
    if (copy->message_used == copy->message_size) drop_message(copy);
    return status;
}

/* The stream ended: its last rows first, then END at the next call, which libpq wouldn't understand any more. */
static enum pgcopy_status end(struct pgcopy *copy, struct ArrowArray *batch) {
    copy->ended = true;
    enum pgcopy_status status = pgcopy_export(copy, batch);
    return status == PGCOPY_MORE ? PGCOPY_END : status;
}

/* Waits for the socket: BATCH when there is something to read, MORE when the time is over. */
static enum pgcopy_status wait_for_input(const struct pgcopy_libpq *libpq, void *connection, int64_t deadline) {
    struct pollfd socket = {.fd = libpq->socket(connection), .events = POLLIN};
    int64_t left = deadline - now_milliseconds();
    if (socket.fd < 0) return PGCOPY_LOST;
    int ready = poll(&socket, 1, left > 0 ? (int)left : 0);
    if (ready < 0) return errno == EINTR ? PGCOPY_MORE : PGCOPY_LOST;
    return ready ? PGCOPY_BATCH : PGCOPY_MORE;
}

enum pgcopy_status pgcopy_read(struct pgcopy *copy, const struct pgcopy_libpq *libpq, void *connection,
                               int32_t timeout_milliseconds, struct ArrowArray *batch) {
    int64_t deadline = now_milliseconds() + timeout_milliseconds;
    copy->free_message = libpq->free_memory;
    for (;;) {
        enum pgcopy_status status = PGCOPY_MORE;
        while (copy->message != NULL && status == PGCOPY_MORE) status = take_message(copy);
        if (status == PGCOPY_BATCH) return pgcopy_export(copy, batch);
        if (status != PGCOPY_MORE) return status;
        if (copy->ended) return PGCOPY_END;

        int size = libpq->get_copy_data(connection, &copy->message, 1);
        if (size > 0) {
            copy->message_size = (size_t)size;
            continue;
        }
        if (size == -1) return end(copy, batch);
        /* What came before the connection failed was looked at: the server may have said why it closed. */
        if (size < -1 || copy->lost) return PGCOPY_LOST;
        status = wait_for_input(libpq, connection, deadline);
        if (status != PGCOPY_BATCH) return status;
        copy->lost = !libpq->consume_input(connection);
    }
}
