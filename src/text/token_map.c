#include "text/token_map.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

ds4_status token_map_open(token_map *m, const char *data, const uint32_t *at, size_t n_tokens,
                          ds4_error *err)
{
    *m = (token_map){ .data = data, .at = at, .n_slots = 16 };
    while (m->n_slots / 2 < n_tokens) m->n_slots *= 2;
    m->slots = calloc(m->n_slots, sizeof *m->slots);
    if (!m->slots) return ds4_fail(err, DS4_EMEMORY, "no memory for a vocabulary of %zu tokens", n_tokens);
    return DS4_OK;
}

void token_map_close(token_map *m)
{
    free(m->slots);
    *m = (token_map){ .slots = NULL };
}

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

/* Eight bytes at a time; the tail is read as whole words that overlap what is done. */
static uint64_t hash_of(slice text)
{
    const char *p = text.data;
    size_t   n = text.len;
    uint64_t h = n, word = 0;
    if (n >= 8) {
        for (; n > 8; n -= 8, p += 8) {
            memcpy(&word, p, 8);
            h = mix(h, word);
        }
        memcpy(&word, p + n - 8, 8);
    } else if (n >= 4) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + n - 4, 4);
        word = (uint64_t)high << 32 | low;
    } else {
        for (size_t i = 0; i < n; i++) word = word << 8 | (unsigned char)p[i];
    }
    return mix(mix(h, word), 0xD6E8FEB86659FD93u);
}

/* The slot of this text, or the empty one where it would stand. */
static uint64_t *find_slot(const token_map *m, slice text, uint64_t hash)
{
    const uint64_t bits = hash >> 32;
    for (size_t i = (size_t)hash & (m->n_slots - 1);; i = (i + 1) & (m->n_slots - 1)) {
        uint64_t *slot = &m->slots[i];
        if (*slot == 0) return slot;
        if (*slot >> 32 != bits) continue;
        const uint32_t *at = &m->at[(uint32_t)*slot - 1];
        if (slice_equal(text, (slice){ m->data + at[0], at[1] - at[0] })) return slot;
    }
}

void token_map_add(token_map *m, int32_t id)
{
    const slice text = { m->data + m->at[id], m->at[id + 1] - m->at[id] };
    const uint64_t hash = hash_of(text);
    uint64_t *slot = find_slot(m, text, hash);
    if (*slot == 0) *slot = (hash >> 32) << 32 | ((uint32_t)id + 1);
}

int32_t token_map_find(const token_map *m, slice text)
{
    return (int32_t)((uint32_t)*find_slot(m, text, hash_of(text))) - 1;
}
