/* SPDX-License-Identifier: Apache-2.0
 *
 * What the generated wrappers of all languages share (bindings/polyad.i): structs that own what their fields point to, and the
 * queue through which log messages reach the host. C99 and the platform's own locks; compiled into each wrapper library.
 */
#ifndef POLYAD_BINDINGS_SUPPORT_H
#define POLYAD_BINDINGS_SUPPORT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <windows.h>
#else
#include <pthread.h>
#endif

/* ====== Structs that own their strings and arrays ======================================================================== */

typedef struct polyad_kept {
    struct polyad_kept *next;
} polyad_kept; /* the copied bytes follow */

typedef union polyad_kept_head {
    polyad_kept *first;
    double align_double;
    int64_t align_int;
} polyad_kept_head; /* the struct follows */

static void *polyad_binding_allocate(size_t size) {
    polyad_kept_head *head = (polyad_kept_head *)calloc(1, sizeof(polyad_kept_head) + size);
    return head ? head + 1 : NULL;
}

/* A copy of `size` bytes that is freed with `owner`; NULL for NULL, for nothing, and when there is no memory. */
static void *polyad_binding_keep(void *owner, const void *data, size_t size) {
    polyad_kept *kept;
    polyad_kept_head *head;
    if (!owner || !data || !size || size > SIZE_MAX - sizeof(polyad_kept)) return NULL;
    head = (polyad_kept_head *)owner - 1;
    kept = (polyad_kept *)malloc(sizeof(polyad_kept) + size);
    if (!kept) return NULL;
    kept->next = head->first;
    head->first = kept;
    return memcpy(kept + 1, data, size);
}

static void polyad_binding_free(void *owner) {
    polyad_kept_head *head;
    polyad_kept *kept, *next;
    if (!owner) return;
    head = (polyad_kept_head *)owner - 1;
    for (kept = head->first; kept; kept = next) {
        next = kept->next;
        free(kept);
    }
    free(head);
}

/* Appends a copy of `text` to a list of strings that `owner` holds. 0 when there is no memory. */
static int32_t polyad_binding_add_string(void *owner, const char *const **list, size_t *count, const char *text) {
    const char **grown = (const char **)malloc((*count + 1) * sizeof *grown);
    const char *copy = (const char *)polyad_binding_keep(owner, text, text ? strlen(text) + 1 : 0);
    const char *const *kept = NULL;
    if (grown && copy) {
        if (*count) memcpy(grown, *list, *count * sizeof *grown);
        grown[*count] = copy;
        kept = (const char *const *)polyad_binding_keep(owner, grown, (*count + 1) * sizeof *grown);
    }
    free(grown);
    if (!kept) return 0;
    *list = kept;
    ++*count;
    return 1;
}

/* ====== Log queue ======================================================================================================== */

typedef char *polyad_text_copy; /* from malloc; whoever takes it frees it */

enum { polyad_log_capacity = 1024 }; /* a host that reads too slowly loses the newest messages, not its memory */

typedef struct polyad_log_message {
    int32_t level;
    char *text;
} polyad_log_message;

static struct {
    polyad_log_message ring[polyad_log_capacity];
    size_t first, count;
    int32_t enabled;
#if defined(_WIN32)
    SRWLOCK lock;
    CONDITION_VARIABLE filled;
} polyad_log_queue = {.lock = SRWLOCK_INIT, .filled = CONDITION_VARIABLE_INIT};
#define POLYAD_LOG_LOCK() AcquireSRWLockExclusive(&polyad_log_queue.lock)
#define POLYAD_LOG_UNLOCK() ReleaseSRWLockExclusive(&polyad_log_queue.lock)
#define POLYAD_LOG_WAIT() SleepConditionVariableSRW(&polyad_log_queue.filled, &polyad_log_queue.lock, INFINITE, 0)
#define POLYAD_LOG_WAKE() WakeAllConditionVariable(&polyad_log_queue.filled)
#else
    pthread_mutex_t lock;
    pthread_cond_t filled;
} polyad_log_queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER};
#define POLYAD_LOG_LOCK() pthread_mutex_lock(&polyad_log_queue.lock)
#define POLYAD_LOG_UNLOCK() pthread_mutex_unlock(&polyad_log_queue.lock)
#define POLYAD_LOG_WAIT() pthread_cond_wait(&polyad_log_queue.filled, &polyad_log_queue.lock)
#define POLYAD_LOG_WAKE() pthread_cond_broadcast(&polyad_log_queue.filled)
#endif

/* The sink given to the library: copies the message, never waits for the host. */
static void polyad_log_queue_put(int32_t level, const char *message, void *user) {
    size_t size = strlen(message) + 1;
    char *text = (char *)malloc(size);
    (void)user;
    if (!text) return;
    memcpy(text, message, size);
    POLYAD_LOG_LOCK();
    if (polyad_log_queue.enabled && polyad_log_queue.count < polyad_log_capacity) {
        polyad_log_message *slot =
            &polyad_log_queue.ring[(polyad_log_queue.first + polyad_log_queue.count++) % polyad_log_capacity];
        slot->level = level;
        slot->text = text;
        text = NULL;
        POLYAD_LOG_WAKE();
    }
    POLYAD_LOG_UNLOCK();
    free(text);
}

static void polyad_log_queue_enable(int32_t on) {
    POLYAD_LOG_LOCK();
    polyad_log_queue.enabled = on;
    POLYAD_LOG_WAKE();
    POLYAD_LOG_UNLOCK();
    polyad_log_set_sink(on ? polyad_log_queue_put : NULL, NULL);
}

static int32_t polyad_log_queue_next(char **message) {
    int32_t level = -1;
    *message = NULL;
    POLYAD_LOG_LOCK();
    while (polyad_log_queue.enabled && !polyad_log_queue.count) POLYAD_LOG_WAIT();
    if (polyad_log_queue.count) {
        polyad_log_message *slot = &polyad_log_queue.ring[polyad_log_queue.first];
        level = slot->level;
        *message = slot->text;
        polyad_log_queue.first = (polyad_log_queue.first + 1) % polyad_log_capacity;
        --polyad_log_queue.count;
    }
    POLYAD_LOG_UNLOCK();
    return level;
}

#endif
