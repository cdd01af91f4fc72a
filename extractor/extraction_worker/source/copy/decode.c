#include "decode.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#define DAYS_1970_TO_2000 10957
#define MICROSECONDS_1970_TO_2000 946684800000000
#define SIGNATURE "PGCOPY\n\377\r\n"
#define SIGNATURE_SIZE 11
#define ARRAY_HEADER 12
#define ARRAY_DIMENSION 8
#define SMALLEST_STEP 4096

/* Bytes of a fixed width; 0 for a bit or a variable width. */
static const uint8_t WIDTHS[PGCOPY_KINDS] = {
    [PGCOPY_WIDTH2] = 2, [PGCOPY_WIDTH4] = 4, [PGCOPY_WIDTH8] = 8, [PGCOPY_UUID] = 16,
    [PGCOPY_DATE] = 4, [PGCOPY_TIMESTAMP] = 8,
};

static uint16_t read16(const uint8_t *from) {
    uint16_t value;
    memcpy(&value, from, sizeof value);
    return be16toh(value);
}

static uint32_t read32(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return be32toh(value);
}

static uint64_t read64(const uint8_t *from) {
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return be64toh(value);
}

/* Buffers ---------------------------------------------------------------------------------------------------------*/

static bool grow(struct buffer *buffer, size_t more) {
    size_t need = buffer->used + more;
    size_t capacity = buffer->capacity + (buffer->capacity < buffer->step ? buffer->capacity : buffer->step);
    if (buffer->data == NULL && capacity < buffer->expected) capacity = buffer->expected;
    if (capacity < need) capacity = need;
    if (capacity < 64) capacity = 64;
    uint8_t *data = realloc(buffer->data, capacity);
    if (data == NULL) return false;
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

static inline bool reserve(struct buffer *buffer, size_t more) {
    return buffer->capacity - buffer->used >= more || grow(buffer, more);
}

static inline bool append(struct buffer *buffer, const void *data, size_t size) {
    if (!reserve(buffer, size)) return false;
    if (size) memcpy(buffer->data + buffer->used, data, size);
    buffer->used += size;
    return true;
}

static inline bool append_bit(struct buffer *buffer, int64_t index, bool bit) {
    if (index % 8 == 0) {
        if (!reserve(buffer, 1)) return false;
        buffer->data[buffer->used++] = bit;
    } else {
        buffer->data[index / 8] |= (uint8_t)(bit << (index % 8));
    }
    return true;
}

/* Columns ---------------------------------------------------------------------------------------------------------*/

/* The bits of one value, without what a variable width adds. */
static int64_t value_bits(const struct column *column) {
    if (has_offsets(column)) return 32;
    return column->kind == PGCOPY_BOOL ? 1 : 8 * WIDTHS[column->kind];
}

static inline bool append_offset(struct column *column, size_t end) {
    int32_t offset = (int32_t)end;
    if (column->offsets.used == 0) {
        int32_t first = 0;
        if (!append(&column->offsets, &first, sizeof first)) return false;
    }
    return append(&column->offsets, &offset, sizeof offset);
}

static inline size_t end_of_values(const struct column *column) {
    return column->element != NULL ? (size_t)column->element->length : column->values.used;
}

static inline bool count_valid(struct column *column) {
    if (column->nulls && !append_bit(&column->validity, column->length, true)) return false;
    column->length++;
    return true;
}

static bool append_null(struct column *column) {
    if (column->nulls == 0) {
        /* The first: all before it were valid, and the bits of the last byte that aren't used yet stay 0. */
        size_t whole = (size_t)column->length / 8;
        int rest = (int)(column->length % 8);
        if (!reserve(&column->validity, whole + 1)) return false;
        memset(column->validity.data, 0xFF, whole);
        column->validity.used = whole;
        if (rest) column->validity.data[column->validity.used++] = (uint8_t)((1 << rest) - 1);
    }
    if (!append_bit(&column->validity, column->length, false)) return false;
    if (has_offsets(column)) {
        if (!append_offset(column, end_of_values(column))) return false;
    } else if (column->kind == PGCOPY_BOOL) {
        if (!append_bit(&column->values, column->length, false)) return false;
    } else {
        static const uint8_t zeros[16];
        if (!append(&column->values, zeros, WIDTHS[column->kind])) return false;
    }
    column->nulls++;
    column->length++;
    return true;
}

/* Taking rows -----------------------------------------------------------------------------------------------------*/

#define OK 0
#define OUT_OF_MEMORY (-1)

/* Returns OK, OUT_OF_MEMORY or a pgcopy_fault. */
static inline int take_scalar(struct column *column, const uint8_t *field, size_t size, int64_t *bits) {
    struct buffer *values = &column->values;
    uint8_t width = WIDTHS[column->kind];
    if (width) {
        if (size != width) return PGCOPY_BAD_WIDTH;
        if (!reserve(values, width)) return OUT_OF_MEMORY;
        uint8_t *to = values->data + values->used;
        uint16_t two;
        uint32_t four;
        uint64_t eight;
        switch (column->kind) {
        case PGCOPY_WIDTH2:
            two = read16(field);
            memcpy(to, &two, sizeof two);
            break;
        case PGCOPY_WIDTH4:
        case PGCOPY_DATE:
            four = read32(field) + (column->kind == PGCOPY_DATE ? DAYS_1970_TO_2000 : 0);
            memcpy(to, &four, sizeof four);
            break;
        case PGCOPY_WIDTH8:
        case PGCOPY_TIMESTAMP:
            eight = read64(field) + (column->kind == PGCOPY_TIMESTAMP ? (uint64_t)MICROSECONDS_1970_TO_2000 : 0);
            memcpy(to, &eight, sizeof eight);
            break;
        default:
            memcpy(to, field, width);
        }
        values->used += width;
    } else if (column->kind == PGCOPY_BOOL) {
        if (size != 1) return PGCOPY_BAD_WIDTH;
        if (*field > 1) return PGCOPY_BAD_VALUE;
        if (!append_bit(values, column->length, *field == 1)) return OUT_OF_MEMORY;
    } else {
        if (column->kind == PGCOPY_JSONB) {
            if (size < 1 || *field != 1) return PGCOPY_BAD_VALUE;
            field++, size--;
        }
        if (!append(values, field, size) || !append_offset(column, values->used)) return OUT_OF_MEMORY;
        *bits += 8 * (int64_t)size;
    }
    return count_valid(column) ? OK : OUT_OF_MEMORY;
}

static int take_array(struct column *column, const uint8_t *field, size_t size, int64_t *bits) {
    const uint8_t *end = field + size;
    if (size < ARRAY_HEADER) return PGCOPY_BAD_ARRAY;
    uint32_t dimensions = read32(field), has_nulls = read32(field + 4);
    if (read32(field + 8) != column->element_oid) return PGCOPY_BAD_ELEMENT;
    if (has_nulls > 1) return PGCOPY_BAD_ARRAY;
    field += ARRAY_HEADER;
    uint32_t count = 0;
    if (dimensions > 1) return PGCOPY_BAD_SHAPE;
    if (dimensions == 1) {
        if (size < ARRAY_HEADER + ARRAY_DIMENSION) return PGCOPY_BAD_ARRAY;
        count = read32(field);
        if (read32(field + 4) != 1) return PGCOPY_BAD_SHAPE;
        field += ARRAY_DIMENSION;
    }
    struct column *element = column->element;
    /* Each element takes four bytes at least: a count that is too large ends here, not in memory. */
    for (uint32_t index = 0; index < count; index++) {
        if (end - field < 4) return PGCOPY_BAD_ARRAY;
        int32_t length = (int32_t)read32(field);
        field += 4;
        *bits += element->bits;
        if (length == -1) {
            if (!has_nulls) return PGCOPY_BAD_ARRAY;
            if (!append_null(element)) return OUT_OF_MEMORY;
            continue;
        }
        if (length < 0 || length > end - field) return PGCOPY_BAD_ARRAY;
        int fault = take_scalar(element, field, (size_t)length, bits);
        if (fault != OK) return fault;
        field += length;
    }
    if (field != end) return PGCOPY_BAD_ARRAY;
    if (!append_offset(column, (size_t)element->length)) return OUT_OF_MEMORY;
    return count_valid(column) ? OK : OUT_OF_MEMORY;
}

static enum pgcopy_status malformed(struct pgcopy *copy, enum pgcopy_fault fault, int32_t column) {
    copy->fault = fault;
    copy->fault_column = column;
    return PGCOPY_MALFORMED;
}

static enum pgcopy_status take_header(struct pgcopy *copy, const uint8_t **at, const uint8_t *end) {
    if (end - *at < SIGNATURE_SIZE + 8 || memcmp(*at, SIGNATURE, SIGNATURE_SIZE) != 0)
        return malformed(copy, PGCOPY_BAD_HEADER, -1);
    uint32_t flags = read32(*at + SIGNATURE_SIZE), extension = read32(*at + SIGNATURE_SIZE + 4);
    *at += SIGNATURE_SIZE + 8;
    /* Bit 16 announces OIDs, which no server that we read has; the others above are "critical", those below unknown. */
    if (flags != 0) return malformed(copy, PGCOPY_BAD_FLAGS, -1);
    if (extension > (size_t)(end - *at)) return malformed(copy, PGCOPY_BAD_HEADER, -1);
    *at += extension;
    copy->header_seen = true;
    return PGCOPY_MORE;
}

static enum pgcopy_status take_row(struct pgcopy *copy, const uint8_t **from, const uint8_t *end) {
    const uint8_t *at = *from;
    for (int32_t index = 0; index < copy->count; index++) {
        struct column *column = &copy->columns[index];
        if (end - at < 4) return malformed(copy, PGCOPY_CUT_SHORT, index);
        int32_t size = (int32_t)read32(at);
        at += 4;
        int fault;
        if (size == -1) {
            fault = append_null(column) ? OK : OUT_OF_MEMORY;
        } else {
            if (size < 0 || size > end - at) return malformed(copy, PGCOPY_CUT_SHORT, index);
            fault = column->element ? take_array(column, at, (size_t)size, &copy->bits)
                                    : take_scalar(column, at, (size_t)size, &copy->bits);
            at += size;
        }
        if (fault == OUT_OF_MEMORY) return PGCOPY_NO_MEMORY;
        if (fault != OK) return malformed(copy, (enum pgcopy_fault)fault, index);
    }
    *from = at;
    return PGCOPY_MORE;
}

enum pgcopy_status pgcopy_take(struct pgcopy *copy, const uint8_t *data, size_t size, size_t *used) {
    const uint8_t *at = data, *end = data + size;
    *used = 0;
    if (copy->fault) return PGCOPY_MALFORMED;
    if (!copy->header_seen) {
        enum pgcopy_status status = take_header(copy, &at, end);
        if (status != PGCOPY_MORE) return status;
        *used = (size_t)(at - data);
    }
    while (at < end) {
        if (copy->trailer_seen) return malformed(copy, PGCOPY_AFTER_END, -1);
        if (end - at < 2) return malformed(copy, PGCOPY_CUT_SHORT, -1);
        int fields = (int16_t)read16(at);
        if (fields == -1) {
            copy->trailer_seen = true;
            at += 2;
            *used = (size_t)(at - data);
            continue;
        }
        if (fields != copy->count) return malformed(copy, PGCOPY_BAD_FIELD_COUNT, -1);
        /* Neither offsets nor counts of elements can grow faster than the bytes taken: offsets have 31 bits. */
        if ((size_t)(end - at) > (size_t)INT32_MAX - copy->taken && copy->length) return PGCOPY_BATCH;
        const uint8_t *row = at + 2;
        enum pgcopy_status status = take_row(copy, &row, end);
        if (status != PGCOPY_MORE) return status;
        copy->taken += (size_t)(row - at);
        copy->bits += copy->row_bits;
        copy->length++;
        copy->rows++;
        at = row;
        *used = (size_t)(at - data);
        if (copy->bits / 8 >= copy->batch_bytes) return PGCOPY_BATCH;
    }
    return PGCOPY_MORE;
}

enum pgcopy_status pgcopy_finish(struct pgcopy *copy) {
    if (copy->fault) return PGCOPY_MALFORMED;
    return copy->trailer_seen ? PGCOPY_END : malformed(copy, PGCOPY_NO_TRAILER, -1);
}

/* Life ------------------------------------------------------------------------------------------------------------*/

static void start(struct pgcopy *copy, struct column *column) {
    struct buffer *buffers[] = {&column->validity, &column->offsets, &column->values};
    for (size_t index = 0; index < 3; index++) {
        struct buffer *buffer = buffers[index];
        /* About as much as the last batch took; a batch of a single wide row says nothing about the next one. */
        size_t expected = buffer->used + buffer->used / 8;
        *buffer = (struct buffer){
            .expected = expected <= (size_t)copy->batch_bytes ? expected : 0,
            .step = copy->batch_bytes > SMALLEST_STEP ? (size_t)copy->batch_bytes : SMALLEST_STEP,
        };
    }
    column->length = column->nulls = 0;
    if (column->element != NULL) start(copy, column->element);
}

void pgcopy_restart(struct pgcopy *copy) {
    for (int32_t index = 0; index < copy->count; index++) start(copy, &copy->columns[index]);
    copy->length = copy->bits = 0;
    copy->taken = 0;
}

struct pgcopy *pgcopy_new(const struct pgcopy_column *columns, int32_t count, int64_t batch_bytes) {
    for (int32_t index = 0; index < count; index++)
        if (columns[index].kind < 0 || columns[index].kind >= PGCOPY_KINDS) return NULL;
    if (count < 0) return NULL;
    struct pgcopy *copy = calloc(1, sizeof *copy);
    if (copy == NULL) return NULL;
    copy->count = count;
    copy->batch_bytes = batch_bytes;
    copy->fault_column = -1;
    copy->columns = calloc((size_t)count + 1, sizeof *copy->columns);
    for (int32_t index = 0; copy->columns != NULL && index < count; index++) {
        struct column *column = &copy->columns[index];
        column->kind = (enum pgcopy_kind)columns[index].kind;
        column->element_oid = columns[index].element_oid;
        if (column->element_oid) {
            column->element = calloc(1, sizeof *column->element);
            if (column->element == NULL) break;
            column->element->kind = column->kind;
            column->element->bits = value_bits(column->element);
        }
        column->bits = value_bits(column);
        copy->row_bits += column->bits;
    }
    if (copy->columns == NULL || (count && copy->columns[count - 1].bits == 0)) {
        pgcopy_free(copy);
        return NULL;
    }
    pgcopy_restart(copy);
    return copy;
}

static void free_column(struct column *column) {
    free(column->validity.data);
    free(column->offsets.data);
    free(column->values.data);
    if (column->element != NULL) free_column(column->element);
    free(column->element);
}

void pgcopy_free(struct pgcopy *copy) {
    if (copy == NULL) return;
    if (copy->message != NULL) copy->free_message(copy->message);
    for (int32_t index = 0; copy->columns != NULL && index < copy->count; index++) free_column(&copy->columns[index]);
    free(copy->columns);
    free(copy);
}

int32_t pgcopy_interface(void) { return PGCOPY_INTERFACE; }

enum pgcopy_fault pgcopy_fault(const struct pgcopy *copy, int32_t *column) {
    *column = copy->fault_column;
    return copy->fault;
}

int64_t pgcopy_rows(const struct pgcopy *copy) { return copy->rows; }
