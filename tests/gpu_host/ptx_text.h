/* ptx_text: what nvcc's PTX says, as words.
 *
 * Splits a .ptx file into its variables and kernels, and a kernel into declarations and
 * statements. Knows the grammar and no instruction. What it does not know ends the process with
 * the file's name, the line and its text. */
#ifndef TESTS_GPU_HOST_PTX_TEXT_H
#define TESTS_GPU_HOST_PTX_TEXT_H

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace ptx {

enum space { SPACE_GLOBAL, SPACE_SHARED, SPACE_PARAM, SPACE_LOCAL };

struct variable {
    std::string          name;
    space                where;
    uint64_t             align, bytes;
    bool                 dynamic;           /* of the launch's size: extern .shared     */
    std::vector<uint8_t> value;             /* of .global ones; the rest of it is zeros */
};

struct statement {
    int                      line;
    std::string              guard;         /* "%p1", "!%p1" or "" */
    std::string              opcode;
    std::vector<std::string> operands;      /* brackets and braces stay on */
};

struct kernel_text {
    std::string                name;
    int                        line;
    uint64_t                   param_bytes;
    unsigned                   max_threads;
    std::vector<variable>      variables;   /* the parameter, block-local and lane-local ones         */
    std::map<std::string, int> registers;   /* bytes of each; 0 is a predicate. %r<3> is %r0, %r1, %r2 */
    std::vector<statement>     statements;
    std::map<std::string, size_t> labels;   /* the statement behind one */
};

struct module_text {
    std::string                        path, target;
    std::vector<std::string>           lines;
    std::vector<variable>              variables;
    std::map<std::string, kernel_text> kernels;
};

module_text read_module(const std::string &path);

[[noreturn]] void fail_at(const module_text &m, int line, const std::string &why);

}

#endif
