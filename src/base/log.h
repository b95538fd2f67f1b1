/* log: where a module's sentences go, if anybody listens. The callback is
 * called on the thread that logs and must not call back into the library. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

typedef enum { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG } log_level;

typedef struct {
    void (*line)(void *ctx, int level, const char *line);   /* NULL: silence */
    void *ctx;
} log_sink;

void log_line(const log_sink *sink, log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
