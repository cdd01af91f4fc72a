/* Handing a batch out: each array owns its buffers and its children, and frees them when it is released. */
#include <stdlib.h>

#include "decode.h"

static void release(struct ArrowArray *array) {
    for (int64_t index = 0; index < array->n_buffers; index++) free((void *)array->buffers[index]);
    for (int64_t index = 0; index < array->n_children; index++) {
        /* A child that was moved to another owner has no release of its own any more. */
        if (array->children[index]->release != NULL) array->children[index]->release(array->children[index]);
        free(array->children[index]);
    }
    free(array->buffers);
    free(array->children);
    array->release = NULL;
}

/* Makes an array without rows that can be released. */
static bool make(struct ArrowArray *array, int64_t buffers, int64_t children) {
    *array = (struct ArrowArray){.release = release};
    array->buffers = calloc((size_t)buffers, sizeof *array->buffers);
    array->children = calloc((size_t)children + 1, sizeof *array->children);
    if (array->buffers == NULL || array->children == NULL) return false;
    array->n_buffers = buffers;
    for (; array->n_children < children; array->n_children++) {
        struct ArrowArray *child = calloc(1, sizeof *child);
        if (child == NULL) return false;
        array->children[array->n_children] = child;
    }
    return true;
}

static bool make_column(struct column *column, struct ArrowArray *array) {
    if (has_offsets(column) && column->offsets.data == NULL) {
        /* Elements of empty arrays only: even no value has a first offset. */
        column->offsets.data = calloc(1, sizeof(int32_t));
        if (column->offsets.data == NULL) return false;
        column->offsets.used = column->offsets.capacity = sizeof(int32_t);
    }
    if (column->element != NULL)
        return make(array, 2, 1) && make_column(column->element, array->children[0]);
    return make(array, has_offsets(column) ? 3 : 2, 0);
}

static void *move(struct buffer *buffer) {
    uint8_t *data = buffer->data;
    if (buffer->used < buffer->capacity && buffer->used) {
        /* In place, and no harm is done where it fails. */
        uint8_t *less = realloc(data, buffer->used);
        if (less != NULL) data = less;
    }
    buffer->data = NULL;
    return data;
}

static void move_column(struct column *column, struct ArrowArray *array) {
    array->length = column->length;
    array->null_count = column->nulls;
    int64_t index = 0;
    array->buffers[index++] = move(&column->validity);
    if (has_offsets(column)) array->buffers[index++] = move(&column->offsets);
    if (column->element != NULL)
        move_column(column->element, array->children[0]);
    else
        array->buffers[index] = move(&column->values);
}

enum pgcopy_status pgcopy_export(struct pgcopy *copy, struct ArrowArray *batch) {
    if (copy->length == 0) return PGCOPY_MORE;
    bool made = make(batch, 1, copy->count);
    for (int32_t index = 0; made && index < copy->count; index++)
        made = make_column(&copy->columns[index], batch->children[index]);
    if (!made) {
        release(batch);
        return PGCOPY_NO_MEMORY;
    }
    batch->length = copy->length;
    for (int32_t index = 0; index < copy->count; index++) move_column(&copy->columns[index], batch->children[index]);
    pgcopy_restart(copy);
    return PGCOPY_BATCH;
}
