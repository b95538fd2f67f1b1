/* Transcripts of all dialects: a request, the events of its answer, and the bytes a client gets (README.md). */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/scrub.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/utf8.h"
#include "runner.h"
#include "text/json_tree.h"
#include "text_vocab.h"

enum { MAX_TOKENS = 16, MAX_TOP = 20 };

typedef struct {
    const char  *folder, *name;
    api_dialect  dialect;
    api_config   config;
    uint8_t      counter;               /* of the random bytes */
    vocab       *v;
    scrub_list  *scrubs;
    const char  *alias[1];
    api_encoder *encoder;
    bytes        out;
    answer_token   tokens[MAX_TOKENS];  /* for the next event  */
    answer_logprob top[MAX_TOKENS][MAX_TOP];
    int          n_tokens;
} transcript;

static void count_up(void *ctx, uint8_t *out, size_t n)
{
    transcript *t = ctx;
    for (size_t i = 0; i < n; i++) out[i] = t->counter++;
}

static const char *path_of(const transcript *t, const char *ending)
{
    char name[256];
    snprintf(name, sizeof name, "../conformance/%s/%s%s", t->folder, t->name, ending);
    return test_data(name);
}

/* Whole file, or NULL; caller frees. */
static char *read_optional(const transcript *t, const char *ending)
{
    char *data;
    size_t n;
    return file_read_all(path_of(t, ending), 1u << 24, &data, &n, NULL) ? NULL : data;
}

/* ---- lines of events ------------------------------------------------------------------------ */

static char *next_word(char **rest)
{
    while (**rest == ' ') ++*rest;
    char *word = *rest;
    *rest += strcspn(word, " ");
    if (**rest) *(*rest)++ = 0;
    return word;
}

/* A JSON string; its bytes live in a pool until the program ends. */
static slice next_text(const transcript *t, char **rest)
{
    json_tree tree;
    ds4_error err;
    while (**rest == ' ') ++*rest;
    char *end = *rest;
    for (end += *end == '"'; *end && *end != '"'; end++) end += *end == '\\' && end[1];
    if (*end) end++;
    const ds4_status st = json_tree_parse(&tree, (slice){ *rest, (size_t)(end - *rest) }, &err);
    if (st || tree.nodes[1].kind != JSON_TREE_STRING) {
        test_fail(__FILE__, __LINE__, "%s/%s.events: a JSON string is expected at: %s", t->folder, t->name, *rest);
        json_tree_free(&tree);
        return slice_of("");
    }
    *rest = end;
    const slice s = tree.nodes[1].text;
    static char pool[16][65536];
    static int next;
    char *copy = pool[next++ % 16];
    const size_t n = min_size(s.len, sizeof pool[0] - 1);
    memcpy(copy, s.data, n);
    copy[n] = 0;
    json_tree_free(&tree);
    return (slice){ copy, n };
}

static answer_usage next_usage(char **rest)
{
    answer_usage u = { .prompt_tokens = 0 };
    for (char *word = next_word(rest); *word; word = next_word(rest)) {
        char *equals = strchr(word, '=');
        const int v = equals ? atoi(equals + 1) : 0;
        if (!strncmp(word, "prompt=", 7))          u.prompt_tokens = v;
        else if (!strncmp(word, "cached=", 7))     u.cached_tokens = v;
        else if (!strncmp(word, "stored=", 7))     u.stored_tokens = v;
        else if (!strncmp(word, "completion=", 11)) u.completion_tokens = v;
        else if (!strncmp(word, "reasoning=", 10)) u.reasoning_tokens = v;
        else test_fail(__FILE__, __LINE__, "unknown usage %s", word);
    }
    return u;
}

static void next_token(transcript *t, char **rest)
{
    answer_token *token = &t->tokens[t->n_tokens];
    answer_logprob *top = t->top[t->n_tokens++];
    token->self.token = atoi(next_word(rest));
    token->self.logprob = strtof(next_word(rest), NULL);
    token->top = top;
    token->n_top = 0;
    for (char *word = next_word(rest); *word; word = next_word(rest)) {
        char *colon;
        const int32_t id = (int32_t)strtol(word, &colon, 10);
        top[token->n_top++] = (answer_logprob){ id, strtof(colon + 1, NULL) };
    }
}

static answer_finish finish_of(const char *word)
{
    static const struct { const char *name; answer_finish finish; } names[] = {
        { "stop", FINISH_STOP }, { "stop_string", FINISH_STOP_STRING }, { "length", FINISH_LENGTH },
        { "context", FINISH_CONTEXT }, { "tool_calls", FINISH_TOOL_CALLS }, { "cancelled", FINISH_CANCELLED },
    };
    for (size_t i = 0; i < countof(names); i++) {
        if (!strcmp(word, names[i].name)) return names[i].finish;
    }
    test_fail(__FILE__, __LINE__, "unknown finish %s", word);
    return FINISH_STOP;
}

static bool answer_line(transcript *t, int choice, const char *kind, char *rest)
{
    answer_event event = { .choice = choice };
    if (!strcmp(kind, "reasoning") || !strcmp(kind, "text")) {
        event.kind = *kind == 'r' ? ANSWER_REASONING : ANSWER_TEXT;
        event.bytes = next_text(t, &rest);
        event.tokens = t->tokens;
        event.n_tokens = t->n_tokens;
        t->n_tokens = 0;
    } else if (!strcmp(kind, "call")) {
        event.kind = ANSWER_CALL_BEGIN;
        event.call = atoi(next_word(&rest));
        event.id = next_text(t, &rest);
        event.name = next_text(t, &rest);
    } else if (!strcmp(kind, "args")) {
        event.kind = ANSWER_CALL_ARGS;
        event.call = atoi(next_word(&rest));
        event.bytes = next_text(t, &rest);
    } else if (!strcmp(kind, "end_call")) {
        event.kind = ANSWER_CALL_END;
        event.call = atoi(next_word(&rest));
    } else if (!strcmp(kind, "finish")) {
        event.kind = ANSWER_FINISH;
        event.finish = finish_of(next_word(&rest));
        if (event.finish == FINISH_STOP_STRING) event.stop = next_text(t, &rest);
    } else {
        return false;
    }
    api_encode(t->encoder, &event, &t->out);
    return true;
}

static void fail_line(transcript *t, char *rest)
{
    static const char *const codes[] = { "context_length_exceeded", "rate_limit_exceeded", "loading", "shutting_down" };
    api_error e;
    const int status = atoi(next_word(&rest));
    const char *word = next_word(&rest), *code = NULL;
    for (size_t i = 0; i < countof(codes); i++) {
        if (!strcmp(word, codes[i])) code = codes[i];
    }
    const slice message = next_text(t, &rest);
    api_refuse(&e, status, status >= 500 ? "server_error" : "invalid_request_error", code, NULL, "%.*s",
               (int)message.len, message.data);
    api_encode_failure(t->encoder, &e, &t->out);
}

static void run_line(transcript *t, char *line)
{
    int choice = 0;
    char *rest = line, *kind = next_word(&rest);
    answer_usage u;
    if (*kind == '@') {
        choice = atoi(kind + 1);
        kind = next_word(&rest);
    }
    if (!*kind || *kind == '#' || !strcmp(kind, "config") || answer_line(t, choice, kind, rest)) return;
    if (!strcmp(kind, "token")) {
        next_token(t, &rest);
    } else if (!strcmp(kind, "start")) {
        u = next_usage(&rest);
        api_encode_start(t->encoder, &u, &t->out);
    } else if (!strcmp(kind, "usage")) {
        u = next_usage(&rest);
        api_encode_usage(t->encoder, &u);
    } else if (!strcmp(kind, "end")) {
        u = next_usage(&rest);
        api_encode_end(t->encoder, &u, &t->out);
    } else if (!strcmp(kind, "echo")) {
        const slice text = next_text(t, &rest);
        api_encode_echo(t->encoder, choice, t->tokens, t->n_tokens, text, &t->out);
        t->n_tokens = 0;
    } else if (!strcmp(kind, "keepalive")) {
        api_encode_keepalive(t->encoder, &t->out);
    } else if (!strcmp(kind, "progress")) {
        const int done = atoi(next_word(&rest));
        api_encode_progress(t->encoder, done, atoi(next_word(&rest)), &t->out);
    } else if (!strcmp(kind, "fail")) {
        fail_line(t, rest);
    } else {
        test_fail(__FILE__, __LINE__, "%s/%s.events: unknown line %s", t->folder, t->name, kind);
    }
}

static void run_lines(transcript *t, const char *events, void (*run)(transcript *t, char *line))
{
    char *copy = strdup(events ? events : ""), *save = NULL;
    for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) run(t, line);
    free(copy);
}

/* ---- the server ----------------------------------------------------------------------------- */

static void set_config(transcript *t, const char *key, const char *value)
{
    api_config *c = &t->config;
    const bool yes = atoi(value) != 0;
    ds4_error err = { .message = "" };
    if (!strcmp(key, "mode"))                    c->mode = atoi(value);
    else if (!strcmp(key, "ctx"))                c->ctx = atoi(value);
    else if (!strcmp(key, "think_max_min_ctx"))  c->think_max_min_ctx = atoi(value);
    else if (!strcmp(key, "profile"))            c->profile = yes ? EFFORT_PROFILE_0731 : EFFORT_PROFILE_PREVIEW;
    else if (!strcmp(key, "strict_model"))       c->strict_model = yes;
    else if (!strcmp(key, "reject_media"))       c->reject_media = yes;
    else if (!strcmp(key, "responses_summary"))  c->responses_summary = yes;
    else if (!strcmp(key, "anthropic_redact"))   c->anthropic_redact = yes;
    else if (!strcmp(key, "reasoning_field")) {
        c->reasoning_field = !strcmp(value, "both") ? REASONING_FIELD_BOTH
                           : !strcmp(value, "reasoning") ? REASONING_FIELD_REASONING
                           : !strcmp(value, "none") ? REASONING_FIELD_NONE : REASONING_FIELD_CONTENT;
    } else if (!strcmp(key, "alias")) {
        t->alias[0] = "fast";
        c->aliases = t->alias;
        c->n_aliases = 1;
    } else if (!strcmp(key, "scrub")) {
        EXPECT_OK(scrub_open(&t->scrubs, &value, 1, &err), err);
        c->scrubs = t->scrubs;
    } else test_fail(__FILE__, __LINE__, "unknown config %s", key);
}

static void config_line(transcript *t, char *line)
{
    char *rest = line;
    if (strcmp(next_word(&rest), "config")) return;
    for (char *word = next_word(&rest); *word; word = next_word(&rest)) {
        char *equals = strchr(word, '=');
        if (equals) *equals = 0;
        set_config(t, word, equals ? equals + 1 : "1");
    }
}

static void open_transcript(transcript *t, const char *folder, const char *name, api_dialect dialect,
                            const char *events)
{
    *t = (transcript){ .folder = folder, .name = name, .dialect = dialect, .v = text_tiny_vocab() };
    t->config = (api_config){
        .model = "deepseek-v4-flash", .display_name = "DeepSeek V4 Flash", .quant = "q2", .ctx = 100000,
        .vocab = t->v, .vocab_size = vocab_size(t->v), .started = 1767225600, .default_tokens = 393216,
        .think_max_min_ctx = CHAT_THINK_MAX_MIN_CTX, .temperature = 1, .top_p = 1, .min_p = 0.05f,
        .random = count_up, .random_ctx = t,
    };
    memset(t->config.state_key, 7, sizeof t->config.state_key);
    bytes_init(&t->out, 1u << 24);
    run_lines(t, events, config_line);
}

static void close_transcript(transcript *t)
{
    scrub_close(t->scrubs);
    bytes_free(&t->out);
    vocab_close(t->v);
}

/* ---- running one ---------------------------------------------------------------------------- */

static void expect_file(const transcript *t, const char *ending, const char *got)
{
    char *want = read_optional(t, ending);
    if (!want && getenv("DS4_CONFORMANCE_WRITE")) {
        FILE *f = fopen(path_of(t, ending), "w");
        if (f) fputs(got, f);
        if (f) fclose(f);
        return;
    }
    char what[256];
    snprintf(what, sizeof what, "%s/%s%s", t->folder, t->name, ending);
    if (want) test_expect_text(__FILE__, __LINE__, what, got, want);
    else test_fail(__FILE__, __LINE__, "%s is missing", what);
    free(want);
}

/* SSE and comments are text; a body must also be JSON. */
static void expect_sound(const transcript *t, bool json)
{
    json_tree tree;
    ds4_error err = { .message = "" };
    EXPECT(!t->out.failed);
    EXPECT(utf8_valid(t->out.data ? t->out.data : "", t->out.len));
    if (!json) return;
    const ds4_status st = json_tree_parse(&tree, (slice){ t->out.data, t->out.len }, &err);
    if (st) test_fail(__FILE__, __LINE__, "%s/%s: %s", t->folder, t->name, err.message);
    json_tree_free(&tree);
}

static void expect_prompt(transcript *t, const api_request *r)
{
    ds4_error err = { .message = "" };
    chat_prompt p;
    chat_prompt_init(&p, t->v, 1u << 24);
    const ds4_status st = chat_render(&p, &r->chat, &err);
    if (st) test_fail(__FILE__, __LINE__, "%s/%s: %s", t->folder, t->name, err.message);
    else expect_file(t, ".prompt", p.text.data);
    chat_prompt_free(&p);
}

static void expect_refusal(transcript *t, const api_error *e)
{
    bytes_printf(&t->out, "%d\n", e->status);
    api_error_body(t->dialect, e, "req_0123456789abcdef01234567", &t->out);
    bytes_char(&t->out, '\n');
    expect_file(t, ".error", t->out.data);
}

static void expect_answer(transcript *t, const api_request *r, const char *events)
{
    const api_answer_info info = { "req_0123456789abcdef01234567", 1767225600 };
    t->encoder = api_encoder_new(r, &t->config, &info);
    REQUIRE(t->encoder);
    run_lines(t, events, run_line);
    EXPECT_INT(api_encoder_status(t->encoder), DS4_OK);
    expect_sound(t, !r->stream);
    if (!r->stream) bytes_char(&t->out, '\n');
    expect_file(t, r->stream ? ".sse" : ".json", t->out.data);
    api_encoder_free(t->encoder);
}

static bool begins(const char *name, const char *with)
{
    return !strncmp(name, with, strlen(with));
}

/* The beginning of its name says what a case shows. */
static void run_transcript(const char *folder, const char *name, api_dialect dialect)
{
    transcript t = { .folder = folder, .name = name };
    char *body = read_optional(&t, ".request.json"), *events = read_optional(&t, ".events");
    api_request *r = NULL;
    api_error e = { .status = 0 };
    REQUIRE(body);
    open_transcript(&t, folder, name, dialect, events);
    const bool good = begins(name, "count_") ? api_parse_count_tokens(&r, slice_of(body), &t.config, &e)
                                             : api_parse(&r, dialect, slice_of(body), &t.config, &e);
    memset(body, '#', strlen(body));        /* a request keeps nothing of its body */
    if (good == begins(name, "refused_")) {
        test_fail(__FILE__, __LINE__, "%s/%s: %s", folder, name, good ? "was not refused" : e.message);
    } else if (!good) {
        expect_refusal(&t, &e);
    } else if (begins(name, "prompt_") || begins(name, "count_")) {
        expect_prompt(&t, r);
    } else {
        expect_answer(&t, r, events);
    }
    api_request_free(r);
    close_transcript(&t);
    free(body);
    free(events);
}

static int is_request(const struct dirent *d)
{
    const char *ending = strstr(d->d_name, ".request.json");
    return ending && strlen(ending) == strlen(".request.json");
}

static void run_folder(const char *folder, api_dialect dialect)
{
    char name[128];
    struct dirent **entries;
    snprintf(name, sizeof name, "../conformance/%s", folder);
    const int n = scandir(test_data(name), &entries, is_request, alphasort);
    EXPECT(n > 0);
    for (int i = 0; i < n; i++) {
        const size_t n_name = strlen(entries[i]->d_name) - strlen(".request.json");
        snprintf(name, sizeof name, "%.*s", (int)n_name, entries[i]->d_name);
        run_transcript(folder, name, dialect);
        free(entries[i]);
    }
    if (n >= 0) free(entries);
}

TEST(chat_transcripts)        { run_folder("chat", API_CHAT); }
TEST(completions_transcripts) { run_folder("completions", API_COMPLETIONS); }
TEST(responses_transcripts)   { run_folder("responses", API_RESPONSES); }
TEST(messages_transcripts)    { run_folder("messages", API_MESSAGES); }

/* ---- what has no request -------------------------------------------------------------------- */

static void with_server(const char *config, void (*run)(transcript *t, const char *name), const char *name)
{
    transcript t;
    char line[200];
    snprintf(line, sizeof line, "config %s", config);
    open_transcript(&t, "models", name, API_CHAT, line);
    run(&t, name);
    close_transcript(&t);
}

static void list_models(transcript *t, const char *name)
{
    (void)name;
    api_models_body(&t->config, &t->out);
    expect_sound(t, true);
    bytes_char(&t->out, '\n');
    expect_file(t, ".json", t->out.data);
}

static void one_model(transcript *t, const char *name)
{
    api_error e;
    const slice id = slice_of(strchr(name, '_') + 1);
    if (!api_model_body(&t->config, id, &t->out, &e)) {
        expect_refusal(t, &e);
        return;
    }
    expect_sound(t, true);
    bytes_char(&t->out, '\n');
    expect_file(t, ".json", t->out.data);
}

TEST(models_are_listed_for_both_families_of_clients)
{
    with_server("", list_models, "list");
    with_server("alias=fast", list_models, "aliases");
    with_server("", one_model, "one_anything");
    with_server("alias=fast strict_model=1", one_model, "one_fast");
    with_server("strict_model=1", one_model, "strict_unknown");
}
