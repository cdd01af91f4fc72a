/* Feeds the decoder what standard input says, and reads every byte that it hands out: for the sanitizers.
 *
 * Input, integers of 32 bits in the machine's order: count of columns, of each kind and element_oid; batch_bytes; count
 * of messages, of each its size and bytes; and so on until the end. Prints the last status and fault of each stream.
 * With the argument "overread" it does what must not go unseen.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pgcopy.h"

static unsigned sum;

static void touch(const void *data, size_t size) {
    for (size_t index = 0; index < size; index++) sum += ((const unsigned char *)data)[index];
}

/* Bytes of a fixed width, by kind; 0 is a bit, -1 a variable width. */
static const int WIDTHS[PGCOPY_KINDS] = {0, 2, 4, 8, 16, 4, 8, -1, -1};

static void read_array(const struct ArrowArray *array, const struct pgcopy_column *column, int is_list) {
    size_t length = (size_t)array->length;
    if (array->null_count > array->length || (array->null_count && array->buffers[0] == NULL)) abort();
    if (array->buffers[0] != NULL) touch(array->buffers[0], (length + 7) / 8);
    int width = is_list ? -1 : WIDTHS[column->kind];
    if (width == 0) touch(array->buffers[1], (length + 7) / 8);
    if (width > 0) touch(array->buffers[1], length * (size_t)width);
    if (width >= 0) return;
    const int *offsets = array->buffers[1];
    if (offsets[0] != 0) abort();
    for (size_t index = 0; index < length; index++)
        if (offsets[index] > offsets[index + 1]) abort();
    if (!is_list) {
        touch(array->buffers[2], (size_t)offsets[length]);
    } else {
        if (array->children[0]->length != offsets[length]) abort();
        read_array(array->children[0], column, 0);
    }
}

/* Every second batch gives its children away first, as a consumer may. */
static void read_batch(struct ArrowArray *batch, const struct pgcopy_column *columns, int move) {
    for (int64_t index = 0; index < batch->n_children; index++) {
        struct ArrowArray *child = batch->children[index];
        if (child->length != batch->length) abort();
        read_array(child, &columns[index], columns[index].element_oid != 0);
        if (move) {
            struct ArrowArray moved = *child;
            child->release = NULL;
            moved.release(&moved);
        }
    }
    batch->release(batch);
    if (batch->release != NULL) abort();
}

static int read_int(void) {
    int value;
    if (fread(&value, sizeof value, 1, stdin) != 1) exit(0);
    return value;
}

int main(int arguments, char **argument) {
    if (arguments > 1 && strcmp(argument[1], "overread") == 0) {
        volatile char *one = malloc(1);
        return one[arguments - 1];
    }
    for (;;) {
        int count = read_int();
        struct pgcopy_column *columns = calloc((size_t)count + 1, sizeof *columns);
        for (int index = 0; index < count; index++) {
            columns[index].kind = read_int();
            columns[index].element_oid = (uint32_t)read_int();
        }
        struct pgcopy *copy = pgcopy_new(columns, count, read_int());
        enum pgcopy_status status = PGCOPY_MORE;
        int batches = 0;
        for (int messages = read_int(); messages > 0; messages--) {
            size_t size = (size_t)read_int();
            /* Of exactly that size: what is read beyond its end is seen. */
            uint8_t *message = malloc(size ? size : 1);
            if (fread(message, 1, size, stdin) != size) abort();
            size_t at = 0, used = 0;
            do {
                status = pgcopy_take(copy, message + at, size - at, &used);
                at += used;
                if (at > size) abort();
                struct ArrowArray batch;
                if (status == PGCOPY_BATCH && pgcopy_export(copy, &batch) == PGCOPY_BATCH)
                    read_batch(&batch, columns, ++batches % 2);
            } while (status == PGCOPY_BATCH);
            free(message);
        }
        struct ArrowArray batch;
        if (status == PGCOPY_MORE && pgcopy_export(copy, &batch) == PGCOPY_BATCH) read_batch(&batch, columns, 0);
        status = pgcopy_finish(copy);
        int32_t column;
        int fault = (int)pgcopy_fault(copy, &column);
        printf("%d %d %d\n", (int)status, fault, (int)column);
        pgcopy_free(copy);
        free(columns);
    }
}
