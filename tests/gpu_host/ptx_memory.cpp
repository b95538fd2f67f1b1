/* ptx_memory: loads, stores, atomics and copies that are done later.
 *
 * An address is aligned to all that it moves, as a card wants it, and lies within its space. Global
 * memory is the host's behind LANE_ADDRESS, whose bounds a sanitizer watches. */
#include "ptx_warp.h"

namespace ptx {

enum { LATELY = 8 };        /* so many kernels of a stream may be under way together */

uint8_t *locate(warp &w, const step &s, int lane, space where, uint64_t address, uint64_t bytes)
{
    if (address % bytes)
        fail(w, s, lane, "address %llx is not aligned to %d", (unsigned long long)address, (int)bytes);
    uint64_t base = LANE_ADDRESS, size = LANE_ADDRESS;
    uint8_t *memory = nullptr;
    if (where == SPACE_SHARED) base = SHARED_BASE, size = w.b->shared.size(), memory = w.b->shared.data();
    if (where == SPACE_PARAM) base = PARAM_BASE, size = w.b->p->kernel->param_bytes, memory = const_cast<uint8_t *>(w.b->param);
    if (where == SPACE_LOCAL) base = LOCAL_BASE, size = w.b->p->local_bytes, memory = w.local.data() + (size_t)lane * size;
    if (address < base || address - base + bytes > size)
        fail(w, s, lane, "address %llx is none of this space", (unsigned long long)address);
    if (where != SPACE_GLOBAL) return memory + (address - base);
    return reinterpret_cast<uint8_t *>(address - base);
}

const uint8_t *to_read(warp &w, const step &s, int lane, space where, uint64_t address, uint64_t bytes)
{
    const uint8_t *p = locate(w, s, lane, where, address, bytes);
    watch &seen = w.b->seen;
    if (where == SPACE_SHARED && seen.read_meets(address - SHARED_BASE, bytes, w.first + (unsigned)lane, w.syncs))
        fail(w, s, lane, "it reads what another thread writes, and no barrier is between");
    if (where == SPACE_GLOBAL && !w.waited && seen.written_lately(address, bytes, LATELY))
        fail(w, s, lane, "it reads what a kernel before it wrote, ahead of griddepcontrol.wait");
    if (where == SPACE_GLOBAL && s.op->constant && seen.written_lately(address, bytes, 1))
        fail(w, s, lane, "it reads what this launch wrote as if that could not change");
    if (where == SPACE_GLOBAL && seen.written_beside(address, bytes))
        fail(w, s, lane, "it reads what another block of the launch wrote");
    return p;
}

void write(warp &w, const step &s, int lane, space where, uint64_t address, uint64_t bytes, const void *from)
{
    uint8_t *p = locate(w, s, lane, where, address, bytes);
    if (where == SPACE_SHARED && w.b->seen.write_meets(address - SHARED_BASE, bytes, w.first + (unsigned)lane, w.syncs,
                                                       memcmp(p, from, bytes) == 0))
        fail(w, s, lane, "it writes what another thread reads or writes, and no barrier is between");
    if (where == SPACE_GLOBAL && w.b->seen.written_beside(address, bytes) && memcmp(p, from, bytes) != 0)
        fail(w, s, lane, "it changes what another block of the launch wrote");
    if (where == SPACE_GLOBAL) w.b->seen.note_global(address, bytes);
    memcpy(p, from, bytes);
}

namespace {

/* A lane's address. Block-local ones have 32 bits, in whatever register. */
template <space where> inline uint64_t address_of(const slot *base, int l, const step &s)
{
    return (where == SPACE_SHARED ? (uint32_t)base[l] : base[l]) + (uint64_t)s.number;
}

template <space where, class T> void load(warp &w, const step &s, uint32_t lanes)
{
    const int n = s.op->count;
    const slot *base = w.at(s.reg[n]);
    each_lane(lanes, [&](int l) {
        const uint8_t *p = to_read(w, s, l, where, address_of<where>(base, l, s), sizeof(T) * (uint64_t)n);
        T v[4];
        memcpy(v, p, sizeof(T) * (size_t)n);
        for (int i = 0; i < n; i++) w.at(s.reg[i])[l] = (slot)(int64_t)v[i];
    });
}
template <space where, class T> void store(warp &w, const step &s, uint32_t lanes)
{
    const int n = s.op->count;
    const slot *base = w.at(s.reg[0]);
    if (where == SPACE_GLOBAL && !w.waited) fail(w, s, -1, "a store before griddepcontrol.wait");
    each_lane(lanes, [&](int l) {
        T v[4];
        for (int i = 0; i < n; i++) v[i] = (T)w.at(s.reg[1 + i])[l];
        write(w, s, l, where, address_of<where>(base, l, s), sizeof(T) * (uint64_t)n, v);
    });
}
void add_shared(warp &w, const step &s, uint32_t lanes)
{
    const slot *base = w.at(s.reg[1]), *by = w.at(s.reg[2]);
    slot *d = w.at(s.reg[0]);
    each_lane(lanes, [&](int l) {
        uint8_t *p = locate(w, s, l, SPACE_SHARED, address_of<SPACE_SHARED>(base, l, s), 4);
        uint32_t v;
        memcpy(&v, p, 4);
        d[l] = v;
        v += (uint32_t)by[l];
        memcpy(p, &v, 4);
    });
}

template <class T> action *of_space(space where, bool loads)
{
    switch (where) {
    case SPACE_GLOBAL: return loads ? load<SPACE_GLOBAL, T> : store<SPACE_GLOBAL, T>;
    case SPACE_SHARED: return loads ? load<SPACE_SHARED, T> : store<SPACE_SHARED, T>;
    case SPACE_LOCAL:  return loads ? load<SPACE_LOCAL, T> : store<SPACE_LOCAL, T>;
    case SPACE_PARAM:  return loads ? load<SPACE_PARAM, T> : nullptr;
    }
    return nullptr;
}

struct element { const char *name; char letter; bool extends; };
const element elements[] = { { "u8", 'b', true }, { "b8", 'b', true }, { "s8", 'b', true }, { "u16", 'h', true },
    { "b16", 'h', true }, { "s16", 'h', true }, { "u32", 'w', true }, { "s32", 'w', true }, { "b32", 'w', true },
    { "f32", 'w', false }, { "u64", 'x', false }, { "s64", 'x', false }, { "b64", 'x', false }, { "f64", 'x', false } };

action *of_element(const element &e, space where, bool loads)
{
    const bool sign = e.name[0] == 's';
    switch (e.letter) {
    case 'b': return sign ? of_space<int8_t>(where, loads) : of_space<uint8_t>(where, loads);
    case 'h': return sign ? of_space<int16_t>(where, loads) : of_space<uint16_t>(where, loads);
    case 'w': return sign ? of_space<int32_t>(where, loads) : of_space<uint32_t>(where, loads);
    default:  return of_space<uint64_t>(where, loads);
    }
}

/* cp.async.*.shared.global: what is under way is garbage where it goes, until its group is waited for.
 * It lands as late as that in LANES_FORWARD, at once in LANES_BACKWARD, and either way in LANES_SHUFFLED. */
template <int bytes> void copy_later(warp &w, const step &s, uint32_t lanes)
{
    const slot *to = w.at(s.reg[0]), *from = w.at(s.reg[1]);
    if (s.number != bytes) fail(w, s, -1, "a copy of %lld bytes", (long long)s.number);
    each_lane(lanes, [&](int l) {
        static const uint64_t garbage[2] = { UINT64_MAX, UINT64_MAX };
        const uint8_t *a = to_read(w, s, l, SPACE_GLOBAL, from[l], bytes);
        const bool late = w.b->order == LANES_FORWARD || (w.b->order == LANES_SHUFFLED && w.b->random_below(2));
        write(w, s, l, SPACE_SHARED, (uint32_t)to[l], bytes, late ? (const void *)garbage : a);
        if (late) w.copies.push_back({ (uint32_t)l, (uint32_t)to[l], a, (uint32_t)bytes, w.committed[l] });
    });
}
void commit(warp &w, const step &, uint32_t lanes)
{
    each_lane(lanes, [&](int l) { w.committed[l]++; });
}
void wait_groups(warp &w, const step &s, uint32_t lanes)
{
    size_t left = 0;
    for (const copy &c : w.copies) {
        if (lanes >> c.lane & 1 && c.group + (uint64_t)s.number < w.committed[c.lane])
            write(w, s, (int)c.lane, SPACE_SHARED, c.to, c.bytes, c.from);
        else
            w.copies[left++] = c;
    }
    w.copies.resize(left);
}

}

/* ld and st {.global .shared .param .local} {.nc} {hints of caches} {.v2 .v4} .type; atom.shared.add.u32 */
bool memory_opcode(const std::string &name, opcode &out)
{
    std::vector<std::string> part;
    for (size_t from = 0; from <= name.size();) {
        const size_t to = std::min(name.find('.', from), name.size());
        part.push_back(name.substr(from, to - from));
        from = to + 1;
    }
    if (name == "atom.shared.add.u32") {
        out = { name, "W[s]w", add_shared };
        out.where = SPACE_SHARED;
        return true;
    }
    const bool loads = part[0] == "ld";
    if (!loads && part[0] != "st") return false;
    out = {};
    out.name = name;
    size_t i = 1;
    static const struct { const char *name; space where; } spaces[] = { { "global", SPACE_GLOBAL }, { "shared", SPACE_SHARED },
        { "param", SPACE_PARAM }, { "local", SPACE_LOCAL } };
    bool told = false;
    for (const auto &s : spaces)
        if (i < part.size() && part[i] == s.name) out.where = s.where, told = true;
    out.generic = !told;
    i += told;
    out.constant = loads && i < part.size() && part[i] == "nc" && out.where == SPACE_GLOBAL;
    i += out.constant;
    if (i < part.size() && part[i] == "L1::no_allocate") i++;
    if (i < part.size() && part[i] == "L2::256B") i++;
    if (i < part.size() && (part[i] == "v2" || part[i] == "v4")) out.count = part[i++][1] - '0';
    if (i + 1 != part.size()) return false;
    for (const element &e : elements) {
        if (part[i] != e.name) continue;
        std::string value(1, loads ? (char)toupper((unsigned char)e.letter) : e.letter);
        if (e.extends) value += '+';
        std::string values;
        for (int n = 0; n < out.count; n++) values += value;
        if (out.count > 1) values = "{" + values + "}";
        const std::string address = out.where == SPACE_SHARED ? "[s]" : "[.]";
        out.form = loads ? values + address : address + values;
        out.run = of_element(e, out.where, loads);
        return out.run != nullptr;
    }
    return false;
}

void add_copies(opcodes &o)
{
    o.add({ "cp.async.cg.shared.global", "[s][.]i", copy_later<16> });
    o.add({ "cp.async.ca.shared.global", "[s][.]i", copy_later<8> });
    o.add({ "cp.async.commit_group", "", commit });
    o.add({ "cp.async.wait_group", "i", wait_groups });
    o.add({ "membar.cta", "", [](warp &, const step &, uint32_t) {} });
    o.add({ "griddepcontrol.wait", "", [](warp &w, const step &, uint32_t) { w.waited = true; } });
    o.add({ "griddepcontrol.launch_dependents", "", [](warp &, const step &, uint32_t) {} });
}

}
