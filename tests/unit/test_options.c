#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/options.h"
#include "base/utf8.h"
#include "runner.h"

typedef struct {
    bool        verbose, temp_seen, help_seen;
    const char *prompt, *kv, *help_topic;
    int         ctx, threads, shift, mode;
    uint64_t    seed, memory;
    float       temp;
    option_list stops, rest;
} settings;

enum { ROWS = 13 };

static void fill_table(option t[ROWS], settings *s)
{
    const option rows[ROWS] = {
        { "Prompt", "prompt", 'p', NULL, OPTION_TEXT, &s->prompt, "TEXT", "What to say.", NULL, 0, NULL, false },
        { NULL, "system", 0, "sys", OPTION_LIST, &s->stops, "TEXT", "Repeatable text.", NULL, 0, NULL, false },
        { "Sampling", "temp", 0, NULL, OPTION_FLOAT, &s->temp, "T",
          "Divides the logits; 0 always takes the likeliest token and a large number takes nearly any of them.",
          NULL, 0, &s->temp_seen, false },
        { NULL, "seed", 's', NULL, OPTION_U64, &s->seed, "N", "Of the random stream.", NULL, 0, NULL, false },
        { "Engine", "ctx", 'c', NULL, OPTION_POSITIVE, &s->ctx, "N", "Tokens.", NULL, 0, NULL, false },
        { NULL, "threads", 't', NULL, OPTION_COUNT, &s->threads, "N", "0: all.", NULL, 0, NULL, false },
        { NULL, "shift", 0, NULL, OPTION_INT, &s->shift, "N", "May be negative.", NULL, 0, NULL, false },
        { NULL, "memory", 'm', NULL, OPTION_BYTES, &s->memory, "BYTES", "Limit.", NULL, 0, NULL, false },
        { NULL, "kv", 0, NULL, OPTION_CHOICE, &s->kv, NULL, "Row type.", "f16|f32|q8", 0, NULL, false },
        { NULL, "verbose", 'v', NULL, OPTION_FLAG, &s->verbose, NULL, "Says more.", NULL, 0, NULL, false },
        { NULL, "fast", 0, NULL, OPTION_CALL, &s->mode, NULL, "A mode.", NULL, 7, NULL, false },
        { "Help", "help", 'h', NULL, OPTION_TEXT, &s->help_topic, "TOPIC", "This text.", NULL, 0, &s->help_seen, true },
        { 0 },
    };
    memcpy(t, rows, sizeof rows);
}

/* Splits line at spaces and parses it. The line must live as long as s. */
static ds4_status parse(settings *s, char *line, bool operands, ds4_error *err)
{
    option table[ROWS];
    char *argv[32] = { "program" };
    int argc = 1;
    *s = (settings){ .ctx = -7 };
    fill_table(table, s);
    for (char *word = strtok(line, " "); word && argc < 32; word = strtok(NULL, " ")) argv[argc++] = word;
    return options_parse(table, argc, argv, operands ? &s->rest : NULL, err);
}

static void done(settings *s)
{
    option_list_free(&s->stops);
    option_list_free(&s->rest);
}

TEST(every_kind_in_every_spelling)
{
    settings s;
    ds4_error err;
    char line[] = "-p hello --temp=0.5 -s 18446744073709551615 -c 32k --threads 0 --shift -3 "
                  "-m 2g --kv q8 -v --fast --system one -sys two --sys=three";
    REQUIRE_OK(parse(&s, line, false, &err), err);
    EXPECT_TEXT(s.prompt, "hello");
    EXPECT(s.temp == 0.5f && s.temp_seen);
    EXPECT(s.seed == UINT64_MAX);
    EXPECT_INT(s.ctx, 32000);
    EXPECT_INT(s.threads, 0);
    EXPECT_INT(s.shift, -3);
    EXPECT(s.memory == UINT64_C(2) << 30);
    EXPECT_TEXT(s.kv, "q8");
    EXPECT(s.verbose);
    EXPECT_INT(s.mode, 7);
    REQUIRE(s.stops.n == 3);
    EXPECT_TEXT(s.stops.items[0], "one");
    EXPECT_TEXT(s.stops.items[1], "two");
    EXPECT_TEXT(s.stops.items[2], "three");
    EXPECT(!s.help_seen);
    done(&s);
}

TEST(what_is_not_said_stays_as_it_was)
{
    settings s;
    ds4_error err;
    char line[] = "";
    REQUIRE_OK(parse(&s, line, false, &err), err);
    EXPECT_INT(s.ctx, -7);
    EXPECT(!s.prompt && !s.verbose && !s.temp_seen);
    done(&s);
}

TEST(the_last_of_repeated_options_counts)
{
    settings s;
    ds4_error err;
    char line[] = "-c 5 --ctx 6 --ctx=7";
    REQUIRE_OK(parse(&s, line, false, &err), err);
    EXPECT_INT(s.ctx, 7);
    done(&s);
}

TEST(operands_are_collected_and_two_dashes_end_options)
{
    settings s;
    ds4_error err;
    char line[] = "one -v - two -- -c --bogus --";
    REQUIRE_OK(parse(&s, line, true, &err), err);
    static const char *want[] = { "one", "-", "two", "-c", "--bogus", "--" };
    REQUIRE(s.rest.n == (int)countof(want));
    for (int i = 0; i < s.rest.n; i++) EXPECT_TEXT(s.rest.items[i], want[i]);
    EXPECT(s.verbose);
    done(&s);
}

TEST(an_optional_value_never_takes_the_next_argument)
{
    settings s;
    ds4_error err;
    char bare[] = "--help sampling", given[] = "--help=sampling", empty[] = "-h";
    REQUIRE_OK(parse(&s, bare, true, &err), err);
    EXPECT(s.help_seen && !s.help_topic);
    EXPECT_INT(s.rest.n, 1);
    done(&s);
    REQUIRE_OK(parse(&s, given, true, &err), err);
    EXPECT_TEXT(s.help_topic, "sampling");
    done(&s);
    REQUIRE_OK(parse(&s, empty, true, &err), err);
    EXPECT(s.help_seen && !s.help_topic);
    done(&s);
}

TEST(a_value_may_begin_with_dashes)
{
    settings s;
    ds4_error err;
    char line[] = "-p --verbose --temp -1.5 -p=";
    REQUIRE_OK(parse(&s, line, false, &err), err);
    EXPECT_TEXT(s.prompt, "");
    EXPECT(s.temp == -1.5f && !s.verbose);
    done(&s);
}

TEST(mistakes_are_told_in_a_sentence)
{
    static const struct { const char *line, *message; } rows[] = {
        { "--ctx abc",      "--ctx: expected a positive integer, got \"abc\"" },
        { "-c 0",           "--ctx: expected a positive integer, got \"0\"" },
        { "-c -5",          "--ctx: expected a positive integer, got \"-5\"" },
        { "-c=",            "--ctx: expected a positive integer, got \"\"" },
        { "--ctx 2147483648", "--ctx: expected a positive integer, got \"2147483648\"" },
        { "--ctx 3g",       "--ctx: expected a positive integer, got \"3g\"" },
        { "--ctx 1kk",      "--ctx: expected a positive integer, got \"1kk\"" },
        { "--ctx 99999999999999999999999", "--ctx: expected a positive integer, got \"99999999999999999999999\"" },
        { "--threads -1",   "--threads: expected an integer that is not negative, got \"-1\"" },
        { "--shift 1k",     "--shift: expected an integer, got \"1k\"" },
        { "--shift --3",    "--shift: expected an integer, got \"--3\"" },
        { "--seed -1",      "--seed: expected an integer that is not negative, got \"-1\"" },
        { "--seed 18446744073709551616", "--seed: expected an integer that is not negative, got \"18446744073709551616\"" },
        { "-m 4t",          "--memory: expected a size such as 512m or 4g, got \"4t\"" },
        { "-m 17179869184g", "--memory: expected a size such as 512m or 4g, got \"17179869184g\"" },
        { "--temp nan",     "--temp: expected a number, got \"nan\"" },
        { "--temp -inf",    "--temp: expected a number, got \"-inf\"" },
        { "--temp 1e99",    "--temp: expected a number, got \"1e99\"" },
        { "--temp 1x",      "--temp: expected a number, got \"1x\"" },
        { "--temp=",        "--temp: expected a number, got \"\"" },
        { "--kv f8",        "--kv: expected f16, f32 or q8, got \"f8\"" },
        { "--kv f16|f32",   "--kv: expected f16, f32 or q8, got \"f16|f32\"" },
        { "--kv=",          "--kv: expected f16, f32 or q8, got \"\"" },
        { "--verbose=1",    "--verbose: takes no value" },
        { "--fast=1",       "--fast: takes no value" },
        { "-c",             "--ctx: needs a value (N)" },
        { "--kv",           "--kv: needs a value (f16|f32|q8)" },
        { "file.gguf",      "unexpected argument \"file.gguf\"; see --help" },
        { "-",              "unexpected argument \"-\"; see --help" },
        { "--tmep 1",       "unknown option --tmep; did you mean --temp?" },
        { "--temperature=1", "unknown option --temperature; did you mean --temp?" },
        { "--ver",          "unknown option --ver; did you mean --verbose?" },
        { "-temp 1",        "unknown option -temp; did you mean --temp?" },
        { "--promt=x",      "unknown option --promt; did you mean --prompt?" },
        { "-syz hi",        "unknown option -syz; did you mean --sys?" },
        { "--x",            "unknown option --x; see --help" },
        { "-x",             "unknown option -x; see --help" },
        { "-vv",            "unknown option -vv; see --help" },
        { "-kv f16",        "unknown option -kv; did you mean --kv?" },
        { "--=",            "unknown option --; see --help" },
        { "---ctx",         "unknown option ---ctx; did you mean --ctx?" },
    };
    for (size_t i = 0; i < countof(rows); i++) {
        settings s;
        ds4_error err = { 0 };
        char line[128];
        snprintf(line, sizeof line, "%s", rows[i].line);
        EXPECT_INT(parse(&s, line, false, &err), DS4_EARG);
        EXPECT_TEXT(err.message, rows[i].message);
        done(&s);
    }
}

TEST(very_long_and_very_strange_arguments_only_fail)
{
    const size_t n = 100000;
    char *line = malloc(n + 1);
    REQUIRE(line);
    static const char *starts[] = { "--", "-", "--ctx=", "-c=", "--temp=1", "--kv=", "", "--\xff\x80\x1b" };
    for (size_t i = 0; i < countof(starts); i++) {
        memset(line, 'a' + (int)i, n);
        memcpy(line, starts[i], strlen(starts[i]));
        line[n] = 0;
        settings s;
        ds4_error err = { 0 };
        EXPECT_INT(parse(&s, line, false, &err), DS4_EARG);
        EXPECT(utf8_valid(err.message, strlen(err.message)));
        EXPECT(!strchr(err.message, 0x1b));
        done(&s);
    }
    free(line);
}

static char *help(const char *topic, bool *found)
{
    settings s = { 0 };
    option table[ROWS];
    bytes out;
    bytes_init(&out, 1 << 16);
    fill_table(table, &s);
    *found = options_help(table, topic, &out);
    return bytes_take(&out);
}

TEST(help_of_one_topic)
{
    bool found;
    char *text = help("sampling", &found);
    EXPECT(found);
    EXPECT_TEXT(text,
        "Sampling:\n"
        "      --temp T            Divides the logits; 0 always takes the likeliest token\n"
        "                          and a large number takes nearly any of them.\n"
        "  -s, --seed N            Of the random stream.\n");
    free(text);
    text = help("nonsense", &found);
    EXPECT(!found);
    EXPECT_TEXT(text, "");
    free(text);
}

TEST(help_of_all_topics_fits_80_columns)
{
    bool found;
    char *text = help(NULL, &found);
    EXPECT(found);
    EXPECT(strstr(text, "Prompt:\n  -p, --prompt TEXT       What to say.\n      --system, -sys TEXT Repeatable"));
    EXPECT(strstr(text, "\n\nEngine:\n"));
    EXPECT(strstr(text, "      --kv f16|f32|q8     Row type.\n"));
    EXPECT(strstr(text, "  -h, --help[=TOPIC]      This text.\n"));
    for (char *at = text; *at;) {
        const size_t width = strcspn(at, "\n");
        EXPECT(width <= 80);
        EXPECT(width == 0 || at[width - 1] != ' ');
        at += width + (at[width] == '\n');
    }
    free(text);
}

TEST(help_that_does_not_fit_its_buffer_fails_the_buffer)
{
    settings s = { 0 };
    option table[ROWS];
    fill_table(table, &s);
    for (size_t max = 0; max < 900; max += 7) {
        bytes out;
        bytes_init(&out, max);
        options_help(table, NULL, &out);
        EXPECT(out.len <= max);
        bytes_free(&out);
    }
}

TEST(names_too_long_for_their_column_get_a_line)
{
    bool flag;
    const option table[] = {
        { NULL, "a-rather-long-option-name", 0, NULL, OPTION_FLAG, &flag, NULL, "Explained below.", NULL, 0, NULL, false },
        { 0 },
    };
    bytes out;
    bytes_init(&out, 1000);
    EXPECT(options_help(table, NULL, &out));
    EXPECT_TEXT(out.data, "Options:\n      --a-rather-long-option-name\n"
                          "                          Explained below.\n");
    bytes_free(&out);
}
