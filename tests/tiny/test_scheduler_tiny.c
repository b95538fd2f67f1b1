/* The scheduler over the bundled model: what it reuses and how it batches changes no token. */
#include "tiny/scheduler_rig.h"

#include "base/checked.h"

static const char *const questions[] = {
    "What is ds4?", "What is 12 + 30?", "Who are you?", "What is 9 - 4?", "How do I start ds4?", "What is a session?",
    "What does the word cache mean?", "What is 7 + 7?", "Which models can ds4 run?", "What is 50 - 8?" };

/* `turns` questions, one after the other, in one conversation; the answers joined. `cold`: each on a scheduler that has
 * seen nothing. */
static void converse(int turns, bool cold, bool think, bytes *out, uint64_t *computed)
{
    rig r;
    char *answers[20];
    line lines[42] = { SYSTEM("You are a helpful assistant") };
    int n = 1;
    if (!cold && !rig_open(&r, "auto", 1, NULL)) return;
    *computed = 0;
    for (int i = 0; i < turns; i++) {
        client c;
        lines[n++] = (line)USER(questions[i % countof(questions)]);
        if (cold && !rig_open(&r, "auto", 1, NULL)) return;
        if (ask(&r.at, &c, lines, n, &(render_options){ .think = think }))
            bytes_append(out, c.text[0].data, c.text[0].len);
        bytes_char(out, '\n');
        answers[i] = strdup(c.text[0].len ? c.text[0].data : "");
        lines[n++] = (line)ASSISTANT(answers[i]);
        client_close(&c);
        if (!cold) continue;
        *computed += counter_get(&r.metrics.prefill_tokens);
        rig_close(&r);
    }
    if (!cold) {
        *computed = counter_get(&r.metrics.prefill_tokens);
        rig_close(&r);
    }
    for (int i = 0; i < turns; i++) free(answers[i]);
}

TEST(twenty_turns_say_the_same_with_and_without_reuse)
{
    bytes with, without;
    uint64_t few, many;
    bytes_init(&with, 1 << 20);
    bytes_init(&without, 1 << 20);
    converse(20, false, false, &with, &few);
    converse(20, true, false, &without, &many);
    EXPECT_TEXT(with.data, without.data);
    EXPECT(few * 5 < many);
    bytes_free(&with);
    bytes_free(&without);
}

TEST(a_conversation_goes_on_from_disk_with_the_same_words)
{
    char dir[512], first[4096] = "";
    snprintf(dir, sizeof dir, "%s", test_scratch("kv"));
    rig r;
    client c;
    char *text = malloc(8000);
    int at = 0;
    for (int i = 0; i < 90; i++) at += sprintf(text + at, "Sentence number %d of a long instruction. ", i);
    line lines[4] = { SYSTEM(text), USER("What is ds4?") };
    if (!rig_open(&r, "auto", 1, dir)) return;
    if (ask(&r.at, &c, lines, 2, &(render_options){ 0 })) snprintf(first, sizeof first, "%s", c.text[0].data);
    client_close(&c);
    lines[2] = (line)ASSISTANT(first);
    lines[3] = (line)USER("What is 12 + 30?");
    char *live = NULL;
    if (ask(&r.at, &c, lines, 4, &(render_options){ 0 })) live = strdup(c.text[0].data);
    client_close(&c);
    rig_close(&r);

    if (!rig_open(&r, "auto", 1, dir)) return;
    if (ask(&r.at, &c, lines, 4, &(render_options){ 0 })) {
        EXPECT_TEXT(c.text[0].data, live);
        EXPECT(counter_get(&r.metrics.cached_tokens[SOURCE_DISK]) > 0);
    }
    client_close(&c);
    rig_close(&r);
    free(live);
    free(text);
}

/* The engine's rows do not depend on what else is in a step, so --batch-invariant asks for nothing more. */
TEST(eight_sessions_together_say_what_they_say_alone)
{
    rig r;
    client c[8];
    char *alone[8] = { NULL };
    if (!rig_open(&r, "auto", 1, NULL)) return;
    for (int i = 0; i < 8; i++) {
        const line lines[] = { SYSTEM("You are a helpful assistant"), USER(questions[i]) };
        if (ask(&r.at, &c[i], lines, 2, &(render_options){ .think = true })) {
            bytes_append(&c[i].reasoning, c[i].text[0].data, c[i].text[0].len);
            alone[i] = strdup(c[i].reasoning.data);
        }
        client_close(&c[i]);
    }
    rig_close(&r);

    if (!rig_open(&r, "auto", 8, NULL)) return;
    for (int i = 0; i < 8; i++) {
        const line lines[] = { SYSTEM("You are a helpful assistant"), USER(questions[i]) };
        submit_lines(&r.at, &c[i], lines, 2, &(render_options){ .think = true }, NULL);
    }
    for (int i = 0; i < 8; i++) {
        client_wait(&c[i]);
        bytes_append(&c[i].reasoning, c[i].text[0].data, c[i].text[0].len);
        EXPECT_TEXT(c[i].reasoning.data, alone[i]);
        client_close(&c[i]);
        free(alone[i]);
    }
    rig_close(&r);
}
