#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "base/utf8.h"
#include "runner.h"

TEST(a_failure_carries_its_status_and_sentence)
{
    ds4_error err;
    EXPECT_INT(ds4_fail(&err, DS4_EFORMAT, "%s: row of %d", "blk.7", 4097), DS4_EFORMAT);
    EXPECT_INT(err.status, DS4_EFORMAT);
    EXPECT_TEXT(err.message, "blk.7: row of 4097");
    EXPECT_INT(ds4_fail(NULL, DS4_EIO, "nobody listens"), DS4_EIO);
}

TEST(a_sentence_may_be_made_from_the_one_before)
{
    ds4_error err;
    ds4_fail(&err, DS4_EIO, "disk on fire");
    ds4_fail(&err, DS4_EFORMAT, "model.gguf: %s", err.message);
    EXPECT_TEXT(err.message, "model.gguf: disk on fire");
}

TEST(what_could_drive_a_terminal_is_replaced)
{
    ds4_error err;
    ds4_fail(&err, DS4_EARG, "a\x1b[31mb\nc\td\x7f" "e\xC2\x9B" "f");
    EXPECT_TEXT(err.message, "a?[31mb?c?d?e?f");
    ds4_fail(&err, DS4_EARG, "x\xFFy\xE2\x82z\xED\xA0\x80");
    EXPECT_TEXT(err.message, "x?y?z???");
    ds4_fail(&err, DS4_EARG, "%s", "name\xE2\x80\xAEgpj.exe\xE2\x81\xA6\xE2\x80\x8F");
    EXPECT_TEXT(err.message, "name?gpj.exe??");
    ds4_fail(&err, DS4_EARG, "%s", "gr\xC3\xBC\xC3\x9F dich \xE2\x82\xAC \xF0\x9F\x98\x80");
    EXPECT_TEXT(err.message, "gr\xC3\xBC\xC3\x9F dich \xE2\x82\xAC \xF0\x9F\x98\x80");
}

TEST(long_sentences_are_cut_between_code_points)
{
    char text[2048];
    for (int lead = 0; lead < 8; lead++) {
        memset(text, 'x', (size_t)lead);
        int n = lead;
        while (n < 1600) n += snprintf(text + n, sizeof text - (size_t)n, "\xF0\x9F\x98\x80");
        ds4_error err;
        ds4_fail(&err, DS4_EARG, "%s", text);
        const size_t len = strlen(err.message);
        EXPECT(len > sizeof err.message - 5 && len < sizeof err.message);
        EXPECT(utf8_valid(err.message, len));
        EXPECT(memcmp(err.message, text, len) == 0);
    }
}

/* ---- log --------------------------------------------------------------- */

typedef struct {
    int  lines, level;
    char last[2048];
} listener;

static void listen(void *ctx, int level, const char *line)
{
    listener *l = ctx;
    l->lines++;
    l->level = level;
    snprintf(l->last, sizeof l->last, "%s", line);
}

TEST(a_logged_line_reaches_the_listener_clean)
{
    listener l = { 0 };
    const log_sink sink = { listen, &l };
    log_line(&sink, LOG_WARNING, "%d bytes of \x1b%s", 7, "x");
    EXPECT_INT(l.lines, 1);
    EXPECT_INT(l.level, LOG_WARNING);
    EXPECT_TEXT(l.last, "7 bytes of ?x");

    char text[3000];
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = 0;
    log_line(&sink, LOG_ERROR, "%s", text);
    EXPECT_INT(strlen(l.last), 1023);
}

TEST(a_log_without_listener_is_silence)
{
    const log_sink nobody = { NULL, NULL };
    log_line(&nobody, LOG_ERROR, "x");
    log_line(NULL, LOG_ERROR, "x");
}

/* ---- clock ------------------------------------------------------------- */

TEST(time_goes_on)
{
    uint64_t last = clock_ns();
    for (int i = 0; i < 1000; i++) {
        const uint64_t now = clock_ns();
        EXPECT(now >= last);
        last = now;
    }
    EXPECT(clock_unix_seconds() > 1700000000u);
}
