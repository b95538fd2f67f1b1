/* ptx_program: a kernel, decoded once: its steps, registers and memory.
 *
 * Every register is 32 slots of 64 bits, one a lane; a value is a slot's low bytes, and a
 * predicate one word of 32 bits in the first slot. Immediates, addresses of variables and
 * %tid and its like are registers too, filled before a block begins, so that a step reads
 * nothing else. */
#ifndef TESTS_GPU_HOST_PTX_PROGRAM_H
#define TESTS_GPU_HOST_PTX_PROGRAM_H

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "ptx_text.h"

namespace ptx {

typedef uint64_t slot;
enum { LANES = 32 };
static const uint32_t ALL = 0xffffffffu;

/* Where each space begins, so that an address of one is none of another. */
static const uint64_t SHARED_BASE = 1024, PARAM_BASE = 1ull << 44, LOCAL_BASE = 1ull << 45;

enum flow {
    FLOW_NEXT,
    FLOW_BRANCH, FLOW_END,
    FLOW_WARP,          /* waits for the lanes that its mask names, or for all of the warp */
    FLOW_BLOCK          /* waits for the block */
};

struct warp;
struct step;
typedef void action(warp &w, const step &s, uint32_t lanes);

/* An instruction: its whole name, and the form of its operands, a letter each.
 *   b h w x   a source of 1, 2, 4, 8 bytes; B H W X a destination
 *   p P       a predicate, read and written
 *   + behind  the register may be longer (loads, stores, conversions)
 *   {..}      registers that stand together, W|P two destinations
 *   [s] [.]   an address: of block-local memory, of the others
 *   i         a number within the step;   L a label */
struct opcode {
    std::string name, form;
    action     *run;
    flow        follows = FLOW_NEXT;
    int         mask = -1;              /* the operand that names the lanes of a FLOW_WARP; -1: all lanes */
    space       where = SPACE_GLOBAL;
    bool        generic = false;        /* where is not told in the text */
    bool        constant = false;       /* a load of what does not change while the kernel runs */
    int         count = 1;              /* numbers that a load or store moves */
};

struct step {
    action  *run;
    flow     follows;
    bool     unless;                    /* the guard must be false */
    int32_t  guard;                     /* -1: none */
    int32_t  reg[15];                   /* operands in the text's order, as indices of registers */
    int32_t  line;
    int64_t  number;                    /* of an address, or an immediate */
    uint32_t target;                    /* of a branch */
    const opcode *op;
};

struct constant { int32_t reg; uint64_t value; };
enum special { TID_X, TID_Y, TID_Z, NTID_X, NTID_Y, NTID_Z, CTAID_X, CTAID_Y, CTAID_Z, NCTAID_X, NCTAID_Y, NCTAID_Z,
               LANEID, SPECIALS };

struct program {
    const module_text *text;
    const kernel_text *kernel;
    std::vector<step>     steps;
    int32_t               registers;
    std::vector<constant> constants;
    int32_t               specials[SPECIALS];   /* their registers; -1: not used */
    uint64_t              static_bytes;         /* of shared memory, before the dynamic part */
    uint64_t              local_bytes;
};

class opcodes {
public:
    opcodes();
    void add(opcode o) { rows.emplace(o.name, std::move(o)); }
    /* All forms of this name; loads and stores are made at their first use. */
    std::vector<const opcode *> find(const std::string &name);
private:
    std::unordered_multimap<std::string, opcode> rows;
};

void add_arithmetic(opcodes &o);
void add_conversions(opcodes &o);
void add_exchange(opcodes &o);
void add_matrix(opcodes &o);
void add_copies(opcodes &o);
/* Of ld, st and atom with all their modifiers; false where there is no such one. */
bool memory_opcode(const std::string &name, opcode &out);

/* A module with its global variables in memory. */
struct module {
    module_text text;
    std::map<std::string, std::unique_ptr<uint8_t[]>> globals;
    std::map<std::string, program> programs;
};
/* Decodes one kernel, or ends the process with the line that is not understood. */
program decode(module &m, const kernel_text &k, opcodes &o);

}

#endif
