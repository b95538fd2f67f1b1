#include "stats.h"

#include <stdio.h>

#include "base/json_writer.h"

turn_stats turn_stats_of(const conversation *c, size_t prompt_tokens, const generate_result *r)
{
    return (turn_stats){
        .prompt_tokens = prompt_tokens, .prefilled = c->prefilled, .prefill_ns = c->prefill_ns,
        .prefill_pages = c->pages, .answer = *r,
        .used = (int)c->line.tokens.n, .capacity = ds4_session_capacity(c->line.session),
    };
}

static double seconds(uint64_t ns)
{
    return (double)ns / 1e9;
}

static double rate(double n, uint64_t ns)
{
    return ns ? n / seconds(ns) : 0;
}

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

static uint64_t read_per_token(const turn_stats *s)
{
    return s->answer.tokens > 0 ? s->answer.experts.bytes_read / (uint64_t)s->answer.tokens : 0;
}

static void experts_text(const turn_stats *s, char *out, size_t size)
{
    const ds4_expert_metrics *e = &s->answer.experts;
    char per_token[24];
    console_bytes(per_token, read_per_token(s));
    snprintf(out, size, "; experts: %.1f %% were in memory, %s read per token at %.2f GB/s, %.0f %% of the time waited, "
             "%.0f %% of %llu guesses wanted", 100 * share(e->hits, e->hits + e->misses), per_token,
             e->busy_ns ? (double)e->bytes_read / (double)e->busy_ns : 0, 100 * share(e->wait_ns, s->answer.ns),
             100 * share(e->ahead_used, e->ahead), (unsigned long long)e->ahead);
}

static uint64_t bus_bytes_per_token(const turn_stats *s)
{
    return s->answer.tokens > 0 ? s->answer.card_experts.bus_bytes / (uint64_t)s->answer.tokens : 0;
}

static void card_experts_text(const turn_stats *s, char *out, size_t size)
{
    const ds4_card_expert_metrics *e = &s->answer.card_experts;
    char per_token[24];
    console_bytes(per_token, bus_bytes_per_token(s));
    snprintf(out, size, "; experts: %.1f %% were on the card, %s read over the bus per token, %llu changed places",
             100 * share(e->hits, e->hits + e->misses), per_token, (unsigned long long)e->exchanges);
}

void turn_stats_text(const turn_stats *s, char *out, size_t size)
{
    const int n = snprintf(out, size, "prefill %zu tokens in %.2f s (%.2f t/s), generation %d tokens in %.2f s (%.2f t/s), ctx %d/%d",
             s->prefilled, seconds(s->prefill_ns), rate((double)s->prefilled, s->prefill_ns),
             s->answer.tokens, seconds(s->answer.ns), rate(s->answer.tokens, s->answer.ns),
             s->used, s->capacity);
    if (s->answer.experts.slots && n > 0 && (size_t)n < size) experts_text(s, out + n, size - (size_t)n);
    if (s->answer.card_experts.misses && n > 0 && (size_t)n < size) card_experts_text(s, out + n, size - (size_t)n);
}

/* ---- pages from the disk ------------------------------------------------------ */

enum {
    PAGE_WAIT_NS = 100000,      /* what a solid-state disk takes at least for one */
    PAGE_BYTES = 4096
};

/* At least a twentieth of the time went into waiting for pages. */
static bool hurts(const residency_counts *p, uint64_t ns)
{
    return p->page_ins >= 50 && p->page_ins * PAGE_WAIT_NS > ns / 20;
}

static bool paging_hurts(const turn_stats *s)
{
    return hurts(&s->prefill_pages, s->prefill_ns) || hurts(&s->answer.pages, s->answer.ns);
}

bool turn_stats_paging(const turn_stats *s, char *out, size_t size)
{
    const residency_counts *p = &s->prefill_pages, *g = &s->answer.pages;
    const bool again = (g->refaults + p->refaults) * PAGE_BYTES > (g->read_bytes + p->read_bytes) / 2;
    const int tokens = s->answer.tokens > 0 ? s->answer.tokens : 1;
    char read[24], per_token[24];
    if (!paging_hurts(s)) return false;
    console_bytes(read, p->read_bytes);
    console_bytes(per_token, g->read_bytes / (uint64_t)tokens);
    snprintf(out, size,
             "waiting for the disk: %s in %llu page faults for the prompt, %s in %.0f per token of the answer; %s",
             read, (unsigned long long)p->page_ins, per_token, (double)g->page_ins / tokens,
             again ? "they were in memory before and were dropped: close other programs, or give --expert-cache a size"
                   : "the weights were not in memory yet: --warm-weights reads them before the prompt");
    return true;
}

/* ---- JSON --------------------------------------------------------------------- */

static void field_bytes(json_writer *w, const char *key, const bytes *b)
{
    json_key(w, key);
    json_string(w, b->data ? b->data : "", b->len);
}

static void field_experts(json_writer *w, const turn_stats *s)
{
    const ds4_expert_metrics *e = &s->answer.experts;
    json_key(w, "experts");
    json_object(w);
    json_put_int(w, "cached", (int64_t)e->slots);
    json_put_int(w, "total", (int64_t)e->experts);
    json_put_int(w, "hits", (int64_t)e->hits);
    json_put_int(w, "misses", (int64_t)e->misses);
    json_put_int(w, "bytes_read", (int64_t)e->bytes_read);
    json_put_int(w, "bytes_read_per_token", (int64_t)read_per_token(s));
    json_put_double(w, "read_seconds", seconds(e->busy_ns), 6);
    json_put_double(w, "wait_seconds", seconds(e->wait_ns), 6);
    json_put_int(w, "guessed", (int64_t)e->ahead);
    json_put_int(w, "guessed_and_wanted", (int64_t)e->ahead_used);
    json_object_end(w);
}

static void field_card_experts(json_writer *w, const turn_stats *s)
{
    const ds4_card_expert_metrics *e = &s->answer.card_experts;
    json_key(w, "card_experts");
    json_object(w);
    json_put_int(w, "hits", (int64_t)e->hits);
    json_put_int(w, "misses", (int64_t)e->misses);
    json_put_int(w, "bus_bytes", (int64_t)e->bus_bytes);
    json_put_int(w, "bus_bytes_per_token", (int64_t)bus_bytes_per_token(s));
    json_put_int(w, "exchanges", (int64_t)e->exchanges);
    json_object_end(w);
}

static void field_pages(json_writer *w, const turn_stats *s)
{
    json_key(w, "pages");
    json_object(w);
    json_put_int(w, "prefill_page_ins", (int64_t)s->prefill_pages.page_ins);
    json_put_int(w, "prefill_bytes_read", (int64_t)s->prefill_pages.read_bytes);
    json_put_int(w, "generation_page_ins", (int64_t)s->answer.pages.page_ins);
    json_put_int(w, "generation_bytes_read", (int64_t)s->answer.pages.read_bytes);
    json_object_end(w);
}

bool turn_stats_json(const turn_stats *s, const printer *p, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    field_bytes(&w, "content", &p->text);
    field_bytes(&w, "reasoning", &p->reasoning);
    json_put_text(&w, "finish_reason", finish_name(s->answer.finish));

    json_key(&w, "usage");
    json_object(&w);
    json_put_int(&w, "prompt_tokens", (int64_t)s->prompt_tokens);
    json_put_int(&w, "completion_tokens", s->answer.tokens);
    json_put_int(&w, "reasoning_tokens", s->answer.reasoning_tokens);
    json_put_int(&w, "total_tokens", (int64_t)s->prompt_tokens + s->answer.tokens);
    json_object_end(&w);

    json_key(&w, "timings");
    json_object(&w);
    json_put_double(&w, "prefill_seconds", seconds(s->prefill_ns), 6);
    json_put_double(&w, "prefill_tokens_per_second", rate((double)s->prefilled, s->prefill_ns), 6);
    json_put_double(&w, "generation_seconds", seconds(s->answer.ns), 6);
    json_put_double(&w, "generation_tokens_per_second", rate(s->answer.tokens, s->answer.ns), 6);
    json_object_end(&w);
    if (s->answer.experts.slots) field_experts(&w, s);
    if (s->answer.card_experts.misses) field_card_experts(&w, s);
    if (paging_hurts(s)) field_pages(&w, s);

    json_object_end(&w);
    bytes_char(out, '\n');
    return !out->failed && !p->text.failed && !p->reasoning.failed;
}
