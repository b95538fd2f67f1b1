#include "ptx_text.h"

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace ptx {

void fail_at(const module_text &m, int line, const std::string &why)
{
    const std::string text = line > 0 && line <= (int)m.lines.size() ? m.lines[(size_t)line - 1] : "";
    fprintf(stderr, "ptx: %s:%d: %s: %.160s\n", m.path.c_str(), line, why.c_str(), text.c_str());
    abort();
}

/* Words of one statement: names with their dots, numbers, and single signs. */
struct word { std::string text; int line; };

static bool of_name(char c) { return isalnum((unsigned char)c) || strchr("_$%.", c); }

struct reader {
    module_text      &m;
    std::vector<word> words;
    size_t            at = 0;
    int               scopes = 0;           /* opened within the kernel so far */

    explicit reader(module_text &module) : m(module)
    {
        for (size_t i = 0; i < m.lines.size(); i++) split(m.lines[i], (int)i + 1);
        words.push_back({ "", (int)m.lines.size() });
    }

    void split(const std::string &s, int line)
    {
        for (size_t i = 0; i < s.size();) {
            if (isspace((unsigned char)s[i])) { i++; continue; }
            if (s.compare(i, 2, "//") == 0) return;
            size_t n = 1;
            if (s[i] == '"') {
                n = s.find('"', i + 1);
                if (n == std::string::npos) fail_at(m, line, "a quoted text without an end");
                n = n + 1 - i;
            } else if (of_name(s[i]) || (s[i] == '-' && i + 1 < s.size() && isdigit((unsigned char)s[i + 1]))) {
                /* "L1::no_allocate" is one word */
                while (i + n < s.size() && (of_name(s[i + n]) || s.compare(i + n, 2, "::") == 0))
                    n += s[i + n] == ':' ? 2 : 1;
            }
            words.push_back({ s.substr(i, n), line });
            i += n;
        }
    }

    int line() const { return words[at].line; }
    const std::string &peek() const { return words[at].text; }
    std::string next() { return words[at].text.empty() ? (stop("the file ends too early"), "") : words[at++].text; }
    [[noreturn]] void stop(const std::string &why) const { fail_at(m, line(), why); }
    bool take(const char *text)
    {
        if (peek() != text) return false;
        at++;
        return true;
    }
    void need(const char *text)
    {
        if (!take(text)) stop("'" + peek() + "' where '" + text + "' belongs");
    }
    uint64_t number()
    {
        const std::string s = next();
        char *end = nullptr;
        const uint64_t v = strtoull(s.c_str(), &end, 0);
        if (s.empty() || *end) stop("'" + s + "' where a number belongs");
        return v;
    }
};

/* Bytes of a type without its dot; 0 is a predicate. */
static int type_bytes(const reader &r, const std::string &type)
{
    if (type == ".pred") return 0;
    const std::string bits = type.size() > 2 ? type.substr(2) : "";
    if (strchr("bsuf", type.size() > 1 ? type[1] : '?') && (bits == "8" || bits == "16" || bits == "32" || bits == "64"))
        return atoi(bits.c_str()) / 8;
    r.stop("no type '" + type + "' is known");
}

/* Behind ".shared" and its like: .align 16 .b8 name[64] = {...} */
static variable read_variable(reader &r, space where)
{
    variable v = { "", where, 1, 0, false, {} };
    if (r.take(".align")) v.align = r.number();
    const uint64_t each = (uint64_t)type_bytes(r, r.next());
    uint64_t n = 1;
    v.name = r.next();
    if (v.align < each) v.align = each;
    if (r.take("[")) {
        v.dynamic = r.peek() == "]";
        n = v.dynamic ? 0 : r.number();
        r.need("]");
    }
    v.bytes = n * each;
    if (r.take("=")) {
        v.value.reserve(v.bytes);
        r.need("{");
        do {
            const uint64_t x = r.number();
            for (uint64_t i = 0; i < each; i++) v.value.push_back((uint8_t)(x >> (8 * i)));
        } while (r.take(","));
        r.need("}");
        if (v.value.size() > v.bytes) r.stop("more values than the variable holds");
    }
    return v;
}

/* A register's name within the scopes that are open: that of an inner one has the scope's number. */
struct scopes {
    std::vector<std::map<std::string, std::string>> open;

    std::string resolve(const std::string &name) const
    {
        for (size_t i = open.size(); i-- > 0;) {
            const auto found = open[i].find(name);
            if (found != open[i].end()) return found->second;
        }
        return name;
    }
    std::string resolve_all(const std::string &operand) const
    {
        std::string out;
        for (size_t i = 0; i < operand.size();) {
            size_t n = 1;
            if (operand[i] == '%')
                while (i + n < operand.size() && of_name(operand[i + n])) n++;
            out += n > 1 ? resolve(operand.substr(i, n)) : operand.substr(i, n);
            i += n;
        }
        return out;
    }
};

static void read_registers(reader &r, kernel_text &k, scopes &s)
{
    const int bytes = type_bytes(r, r.next());
    const std::string name = r.next();
    if (r.take("<")) {
        const uint64_t n = r.number();
        r.need(">");
        if (s.open.size() > 1) r.stop("many registers within an inner scope");
        for (uint64_t i = 0; i < n; i++) k.registers[name + std::to_string(i)] = bytes;
    } else {
        const std::string own = s.open.size() > 1 ? name + "@" + std::to_string(r.scopes) : name;
        s.open.back()[name] = own;
        k.registers[own] = bytes;
    }
    r.need(";");
}

static statement read_statement(reader &r, const scopes &s)
{
    statement st;
    st.line = r.line();
    if (r.take("@")) {
        const bool no = r.take("!");
        st.guard = (no ? "!" : "") + s.resolve(r.next());
    }
    st.opcode = r.next();
    std::string operand;
    for (int depth = 0; r.peek() != ";" || depth;) {
        const std::string t = r.next();
        if (t == "[" || t == "{") depth++;
        if (t == "]" || t == "}") depth--;
        if (t == "," && !depth) {
            st.operands.push_back(s.resolve_all(operand));
            operand.clear();
        } else {
            operand += t;
        }
    }
    if (!operand.empty()) st.operands.push_back(s.resolve_all(operand));
    r.need(";");
    return st;
}

static void read_body(reader &r, kernel_text &k)
{
    scopes s;
    r.scopes = 0;
    do {
        if (r.take("{")) {
            s.open.emplace_back();
            r.scopes++;
        } else if (r.take("}")) {
            s.open.pop_back();
        } else if (r.take(".reg")) {
            read_registers(r, k, s);
        } else if (r.take(".shared")) {
            k.variables.push_back(read_variable(r, SPACE_SHARED));
            r.need(";");
        } else if (r.take(".local")) {
            k.variables.push_back(read_variable(r, SPACE_LOCAL));
            r.need(";");
        } else if (r.take(".pragma")) {         /* hints: nounroll, used_bytes_mask */
            r.next();
            r.need(";");
        } else if (r.words[r.at + 1].text == ":") {
            if (!k.labels.emplace(r.next(), k.statements.size()).second) r.stop("a label that is there already");
            r.need(":");
        } else {
            k.statements.push_back(read_statement(r, s));
        }
    } while (!s.open.empty());
}

static kernel_text read_kernel(reader &r)
{
    kernel_text k = {};
    k.line = r.line();
    k.name = r.next();
    r.need("(");
    r.need(".param");
    k.variables.push_back(read_variable(r, SPACE_PARAM));
    k.param_bytes = k.variables[0].bytes;
    r.need(")");
    k.max_threads = 1024;
    while (r.peek() != "{") {
        if (r.take(".maxntid")) {
            k.max_threads = (unsigned)r.number();
            for (int i = 0; i < 2; i++) {
                r.need(",");
                if (r.number() != 1) r.stop("blocks of more than one dimension");
            }
        } else if (r.take(".minnctapersm")) {
            r.number();
        } else {
            r.stop("no directive '" + r.peek() + "' is known");
        }
    }
    read_body(r, k);
    return k;
}

module_text read_module(const std::string &path)
{
    module_text m;
    m.path = path;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) m.lines.push_back(line);
    if (m.lines.empty()) fail_at(m, 0, "the file is empty, or can not be read");
    reader r(m);
    while (!r.peek().empty()) {
        if (r.take(".version")) {
            r.next();
        } else if (r.take(".target")) {
            m.target = r.next();
        } else if (r.take(".address_size")) {
            if (r.number() != 64) r.stop("addresses of other than 64 bits");
        } else if (r.take(".visible")) {
            r.need(".entry");
            kernel_text k = read_kernel(r);
            m.kernels[k.name] = std::move(k);
        } else {
            r.take(".extern");
            if (!r.take(".global") && r.peek() != ".shared") r.stop("no directive '" + r.peek() + "' is known");
            const space where = r.take(".shared") ? SPACE_SHARED : SPACE_GLOBAL;
            m.variables.push_back(read_variable(r, where));
            r.need(";");
        }
    }
    return m;
}

}
