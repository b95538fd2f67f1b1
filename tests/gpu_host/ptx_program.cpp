#include "ptx_program.h"

#include <cstdlib>
#include <cstring>

#include "lane_runner.h"

namespace ptx {

opcodes::opcodes()
{
    add_arithmetic(*this);
    add_conversions(*this);
    add_exchange(*this);
    add_matrix(*this);
    add_copies(*this);
}

std::vector<const opcode *> opcodes::find(const std::string &name)
{
    opcode made;
    if (!rows.count(name) && memory_opcode(name, made)) add(made);
    std::vector<const opcode *> out;
    const auto range = rows.equal_range(name);
    for (auto i = range.first; i != range.second; ++i) out.push_back(&i->second);
    return out;
}

namespace {

const char *const special_names[SPECIALS] = { "%tid.x", "%tid.y", "%tid.z", "%ntid.x", "%ntid.y", "%ntid.z", "%ctaid.x",
    "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid" };

struct place { space where; uint64_t address; };

struct decoder {
    module            &m;
    const kernel_text &k;
    program            p = {};
    std::map<std::string, int32_t> index;           /* of declared registers */
    std::map<uint64_t, int32_t>    constant_of;
    std::map<std::string, place>   symbols;
    const statement   *now = nullptr;

    decoder(module &module, const kernel_text &kernel) : m(module), k(kernel)
    {
        p.text = &m.text;
        p.kernel = &k;
        for (const auto &r : k.registers) index[r.first] = p.registers++;
        for (int32_t &s : p.specials) s = -1;
        for (const variable &v : m.text.variables)
            if (v.where == SPACE_GLOBAL) symbols[v.name] = { v.where, global_at(v) | LANE_ADDRESS };
        place_all(k.variables);
        place_all(m.text.variables);
        const uint64_t dynamic = (p.static_bytes + 15) / 16 * 16;
        for (const variable &v : m.text.variables)
            if (v.where == SPACE_SHARED && v.dynamic) {
                if (v.align > 16) stop("dynamic shared memory that is aligned to more than 16 bytes");
                symbols[v.name] = { SPACE_SHARED, SHARED_BASE + dynamic };
            }
        p.static_bytes = dynamic;
    }

    [[noreturn]] void stop(const std::string &why) const { fail_at(m.text, now ? now->line : k.line, why); }

    uint64_t global_at(const variable &v)
    {
        auto &at = m.globals[v.name];
        if (!at) {
            at.reset(new uint8_t[v.bytes + 256]());
            if (!v.value.empty()) memcpy(aligned(at.get()), v.value.data(), v.value.size());
        }
        return reinterpret_cast<uint64_t>(aligned(at.get()));
    }
    static uint8_t *aligned(uint8_t *at)
    {
        return at + (256 - reinterpret_cast<uint64_t>(at) % 256) % 256;
    }

    /* Whether the kernel says its name: a module's block-local arrays are only those kernels' that use them. */
    bool uses(const variable &v) const
    {
        for (const statement &s : k.statements)
            for (const std::string &o : s.operands)
                if (o.find(v.name) != std::string::npos) return true;
        return false;
    }

    void place_all(const std::vector<variable> &from)
    {
        for (const variable &v : from) {
            if (v.where == SPACE_PARAM) symbols[v.name] = { v.where, PARAM_BASE };
            if (v.where == SPACE_LOCAL) place_in(v, p.local_bytes, LOCAL_BASE);
            if (v.where == SPACE_SHARED && !v.dynamic && (&from == &k.variables || uses(v)))
                place_in(v, p.static_bytes, SHARED_BASE);
        }
    }
    void place_in(const variable &v, uint64_t &used, uint64_t base)
    {
        used = (used + v.align - 1) / v.align * v.align;
        symbols[v.name] = { v.where, base + used };
        used += v.bytes;
    }

    int32_t constant(uint64_t value)
    {
        const auto found = constant_of.find(value);
        if (found != constant_of.end()) return found->second;
        p.constants.push_back({ p.registers, value });
        return constant_of[value] = p.registers++;
    }

    static bool number(const std::string &s, uint64_t *out)
    {
        char *end = nullptr;
        const bool bits = s.size() > 2 && s[0] == '0' && (s[1] == 'f' || s[1] == 'd');
        if (s.empty() || !(isdigit((unsigned char)s[0]) || s[0] == '-')) return false;
        *out = strtoull(bits ? s.c_str() + 2 : s.c_str(), &end, bits ? 16 : 0);
        return !*end && (!bits || s.size() == (s[1] == 'f' ? 10u : 18u));
    }

    /* A register of at least or of exactly so many bytes (0: a predicate), an immediate, an address; -1: neither. */
    int32_t source(const std::string &s, int bytes, bool longer)
    {
        uint64_t v;
        const int32_t r = declared(s, bytes, longer);
        if (r >= 0) return r;
        if (number(s, &v)) return constant(v);
        if (bytes == 4)
            for (int i = 0; i < SPECIALS; i++)
                if (s == special_names[i]) {
                    if (p.specials[i] < 0) p.specials[i] = p.registers++;
                    return p.specials[i];
                }
        const auto at = symbols.find(s);
        if (at != symbols.end() && (bytes == 8 || (bytes == 4 && at->second.where == SPACE_SHARED)))
            return constant(at->second.address);
        return -1;
    }
    int32_t declared(const std::string &s, int bytes, bool longer) const
    {
        const auto r = k.registers.find(s);
        if (r == k.registers.end()) return -1;
        if (r->second == bytes || (longer && r->second > bytes)) return index.at(s);
        return -1;
    }

    /* "[%rd1+-8]" or "[name+8]" */
    int32_t address(const std::string &s, const opcode &o, space where, int64_t *offset)
    {
        if (s.size() < 3 || s[0] != '[' || s.back() != ']') return -1;
        const size_t plus = s.find('+');
        const std::string base = s.substr(1, (plus == std::string::npos ? s.size() - 1 : plus) - 1);
        uint64_t v = 0;
        if (plus != std::string::npos && !number(s.substr(plus + 1, s.size() - plus - 2), &v)) return -1;
        *offset = (int64_t)v;
        const auto at = symbols.find(base);
        if (at != symbols.end()) {
            if (at->second.where != where || o.generic) stop("an address of another space");
            return constant(at->second.address);
        }
        const int32_t r = declared(base, 8, false);
        return r >= 0 || where != SPACE_SHARED ? r : declared(base, 4, false);
    }

    static int bytes_of(char letter)
    {
        const char *const letters = "pbhwx";
        static const int bytes[] = { 0, 1, 2, 4, 8 };
        return bytes[strchr(letters, tolower((unsigned char)letter)) - letters];
    }

    /* The step of this form, or false where an operand does not fit. */
    bool fit(const statement &s, const opcode &o, step &out)
    {
        out.op = &o;
        out.run = o.run;
        out.follows = o.follows;
        out.number = 0;
        size_t n = 0, operand = 0;
        std::vector<std::string> parts;         /* of a vector or a pair, last first */
        for (const char *f = o.form.c_str(); *f; f++) {
            if (*f == '{' || *f == '|') continue;
            if (*f == '}') {
                if (!parts.empty()) return false;
                continue;
            }
            const bool within = f != o.form.c_str() && !parts.empty();
            if (!within && operand == s.operands.size()) return false;
            std::string text = within ? parts.back() : s.operands[operand++];
            if (within) parts.pop_back();
            else if (f != o.form.c_str() && f[-1] == '{') {
                if (!split(text, '{', '}', ',', parts)) return false;
                text = parts.back();
                parts.pop_back();
            } else if (f[1] == '|' || (f[1] == '+' && f[2] == '|')) {
                if (!split(text, 0, 0, '|', parts) || parts.size() != 2) return false;
                text = parts.back();
                parts.pop_back();
            }
            if (n == sizeof out.reg / sizeof *out.reg) stop("too many operands");
            int32_t r = -1;
            if (*f == '[') {
                r = address(text, o, f[1] == 's' ? SPACE_SHARED : o.where, &out.number);
                f += 2;
            } else if (*f == 'i') {
                uint64_t v;
                if (!number(text, &v)) return false;
                out.number = (int64_t)v;
                continue;
            } else if (*f == 'L') {
                const auto l = k.labels.find(text);
                if (l == k.labels.end()) return false;
                out.target = (uint32_t)l->second;
                continue;
            } else {
                const bool longer = f[1] == '+';
                r = isupper((unsigned char)*f) ? declared(text, bytes_of(*f), longer) : source(text, bytes_of(*f), longer);
                f += longer;
            }
            if (r < 0) return false;
            out.reg[n++] = r;
        }
        return operand == s.operands.size() && parts.empty();
    }
    /* "{a,b}" or "a|b": the parts, last first. */
    static bool split(const std::string &s, char open, char close, char between, std::vector<std::string> &parts)
    {
        if (open && (s.size() < 2 || s[0] != open || s.back() != close)) return false;
        const std::string inner = open ? s.substr(1, s.size() - 2) : s;
        for (size_t from = 0; from <= inner.size();) {
            const size_t to = std::min(inner.find(between, from), inner.size());
            parts.insert(parts.begin(), inner.substr(from, to - from));
            from = to + 1;
        }
        return true;
    }

    step make(const statement &s, opcodes &all)
    {
        now = &s;
        step out = {};
        out.line = s.line;
        out.guard = -1;
        if (!s.guard.empty()) {
            out.unless = s.guard[0] == '!';
            out.guard = declared(s.guard.substr(out.unless), 0, false);
            if (out.guard < 0) stop("a guard that is no predicate");
        }
        const auto forms = all.find(s.opcode);
        if (forms.empty()) stop("no instruction '" + s.opcode + "' is known");
        for (const opcode *o : forms)
            if (fit(s, *o, out)) return out;
        stop("operands that do not fit '" + s.opcode + "'");
    }
};

}

program decode(module &m, const kernel_text &k, opcodes &all)
{
    decoder d(m, k);
    for (const statement &s : k.statements) d.p.steps.push_back(d.make(s, all));
    if (k.statements.empty() || d.p.steps.back().follows != FLOW_END)
        fail_at(m.text, k.line, "the kernel's last statement is not its end");
    return std::move(d.p);
}

}
