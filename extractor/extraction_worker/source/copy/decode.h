/* What decode.c, export.c and read.c share. */
#ifndef PGCOPY_DECODE_H
#define PGCOPY_DECODE_H

#include <stdbool.h>

#include "pgcopy.h"

struct buffer {
    uint8_t *data;
    size_t used, capacity;
    size_t expected; /* the first capacity */
    size_t step;     /* the most that it grows by at a time, beyond what is needed */
};

struct column {
    enum pgcopy_kind kind;
    uint32_t element_oid;
    int64_t bits; /* of each value, without what a variable width adds */
    int64_t length, nulls;
    struct buffer validity; /* empty before the first null */
    struct buffer offsets;
    struct buffer values;
    struct column *element; /* of an array type */
};

struct pgcopy {
    struct column *columns;
    int32_t count;
    int64_t batch_bytes, row_bits;
    bool header_seen, trailer_seen;
    int64_t rows;
    /* The open batch: its rows, its bits, and the bytes of the stream that it took. */
    int64_t length, bits;
    size_t taken;
    enum pgcopy_fault fault;
    int32_t fault_column;
    /* The message that is being taken, and libpq's function that frees it. */
    char *message;
    size_t message_size, message_used;
    void (*free_message)(void *);
    bool ended, lost;
};

static inline bool has_offsets(const struct column *column) {
    return column->element != NULL || column->kind == PGCOPY_BYTES || column->kind == PGCOPY_JSONB;
}

/* Forgets the open batch, whose buffers belong to others now. */
void pgcopy_restart(struct pgcopy *copy);

#endif
