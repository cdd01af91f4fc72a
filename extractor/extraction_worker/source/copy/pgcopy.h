/* From PostgreSQL's binary COPY format to Arrow's C data interface.
 *
 * decode.c turns the bytes of a stream into columns, export.c hands them out in batches: they allocate, and do no I/O.
 * read.c fetches the stream from a libpq connection. Formats: "Binary Format" in PostgreSQL's documentation of COPY,
 * the *_send functions of each type, https://arrow.apache.org/docs/format/CDataInterface.html.
 */
#ifndef PGCOPY_H
#define PGCOPY_H

#include <stddef.h>
#include <stdint.h>

/* Raised with every change of what Python calls: library.py refuses a library of another interface. */
#define PGCOPY_INTERFACE 1

/* How a field becomes a value. On an array type, of its elements. */
enum pgcopy_kind {
    PGCOPY_BOOL,      /* one byte, 0 or 1 -> one bit */
    PGCOPY_WIDTH2,    /* big endian -> the machine's order; integers and floats alike */
    PGCOPY_WIDTH4,
    PGCOPY_WIDTH8,
    PGCOPY_UUID,      /* 16 bytes as they are */
    PGCOPY_DATE,      /* days since 2000 -> since 1970, wrapping */
    PGCOPY_TIMESTAMP, /* microseconds since 2000 -> since 1970, wrapping */
    PGCOPY_BYTES,     /* as they are */
    PGCOPY_JSONB,     /* a version, 1, then text */
    PGCOPY_KINDS
};

struct pgcopy_column {
    int32_t kind;
    uint32_t element_oid; /* of an array's elements; 0 is no array */
};

enum pgcopy_status {
    PGCOPY_MORE,      /* all was taken; or nothing came in time */
    PGCOPY_BATCH,     /* a batch is full, or handed out */
    PGCOPY_END,       /* the server ended the stream; whether well, its result says */
    PGCOPY_LOST,      /* the connection failed; libpq has the message */
    PGCOPY_MALFORMED, /* pgcopy_fault() says what */
    PGCOPY_NO_MEMORY
};

enum pgcopy_fault {
    PGCOPY_BAD_HEADER = 1,
    PGCOPY_BAD_FLAGS,
    PGCOPY_BAD_FIELD_COUNT,
    PGCOPY_CUT_SHORT,  /* a message ends within a row */
    PGCOPY_BAD_WIDTH,
    PGCOPY_BAD_VALUE,
    PGCOPY_BAD_ARRAY,
    PGCOPY_BAD_SHAPE,  /* several dimensions, or a lower bound other than 1 */
    PGCOPY_BAD_ELEMENT,
    PGCOPY_AFTER_END,
    PGCOPY_NO_TRAILER
};

/* Arrow's ABI, as its specification prints it. */
struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

/* The functions of the libpq that made the connection. */
struct pgcopy_libpq {
    int (*get_copy_data)(void *connection, char **message, int async);
    int (*consume_input)(void *connection);
    int (*socket)(const void *connection);
    void (*free_memory)(void *message);
};

struct pgcopy;

/* All else stays inside of the library. */
#pragma GCC visibility push(default)

int32_t pgcopy_interface(void);

/* Returns NULL without memory or with a column that isn't one. batch_bytes: after how many a batch is full. */
struct pgcopy *pgcopy_new(const struct pgcopy_column *columns, int32_t count, int64_t batch_bytes);
void pgcopy_free(struct pgcopy *copy);

/* Takes rows of the stream; *used are the bytes taken. BATCH: call pgcopy_export(), then go on with the rest. */
enum pgcopy_status pgcopy_take(struct pgcopy *copy, const uint8_t *data, size_t size, size_t *used);

/* Moves the rows taken so far, as a struct array, to *batch: BATCH; or MORE where there are none. */
enum pgcopy_status pgcopy_export(struct pgcopy *copy, struct ArrowArray *batch);

/* Says that no more will come: MALFORMED without the trailer. */
enum pgcopy_status pgcopy_finish(struct pgcopy *copy);

/* Reads from a connection in COPY OUT state until a batch is full (BATCH), the stream ended (END) or nothing came for
 * as long as the time-out (MORE). A last batch comes before END. */
enum pgcopy_status pgcopy_read(struct pgcopy *copy, const struct pgcopy_libpq *libpq, void *connection,
                               int32_t timeout_milliseconds, struct ArrowArray *batch);

/* What was malformed; *column is its index, or -1. */
enum pgcopy_fault pgcopy_fault(const struct pgcopy *copy, int32_t *column);

/* Rows taken since the beginning. */
int64_t pgcopy_rows(const struct pgcopy *copy);

#pragma GCC visibility pop

#endif
