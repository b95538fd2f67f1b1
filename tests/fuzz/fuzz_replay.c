/* Any bytes, as the section of sampled tool calls: what is read is written and read the same
 * again, and any block becomes a prompt of the same bytes. */
#include "text/replay.h"
#include "text/tools.h"
#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bytes section_of(replay_memory *m, slice text)
{
    bytes out;
    bytes_init(&out, SIZE_MAX);
    if (replay_section_write(m, text, &out, NULL)) abort();
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static vocab *v;                    /* opened once, left to the end of the process */
    const slice input = { (const char *)data, size };
    replay_memory *m, *again;
    chat_prompt p;
    if (!v) {
        text_source s = text_tiny_source();
        if (text_source_open(&v, &s, NULL)) abort();
        text_source_free(&s);
    }
    if (replay_open(&m, 1000, SIZE_MAX, NULL) || replay_open(&again, 1000, SIZE_MAX, NULL)) abort();

    if (!replay_section_read(m, input, NULL)) {
        bytes once = section_of(m, input);                      /* the input holds all blocks */
        if (once.len && replay_section_read(again, (slice){ once.data, once.len }, NULL)) abort();
        if (once.len && replay_ids(again) != replay_ids(m)) abort();
        bytes twice = section_of(again, input);
        if (!slice_equal((slice){ once.data, once.len }, (slice){ twice.data, twice.len })) abort();
        bytes_free(&once);
        bytes_free(&twice);
    }
    chat_prompt_init(&p, v, SIZE_MAX);
    calls_replay(&p, input);
    if (!slice_equal(input, (slice){ p.text.data, p.text.len })) abort();
    chat_prompt_free(&p);
    replay_close(m);
    replay_close(again);
    return 0;
}
