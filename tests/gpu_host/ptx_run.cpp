/* ptx_run: finds a kernel's text and keeps what was decoded. */
#include "ptx_run.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

#include "ptx_block.h"

namespace {

struct library {
    std::mutex   lock;
    ptx::opcodes table;
    std::map<std::string, ptx::module> modules;             /* by path */
    std::map<std::string, std::string> path_of;             /* by kernel, of DS4_TEST_PTX */

    ptx::module &module_at(const std::string &path)
    {
        ptx::module &m = modules[path];
        if (m.text.path.empty()) m.text = ptx::read_module(path);
        return m;
    }
    const ptx::program &program_of(const std::string &path, const std::string &kernel)
    {
        ptx::module &m = module_at(path);
        const auto k = m.text.kernels.find(kernel);
        if (k == m.text.kernels.end()) ptx::fail_at(m.text, 0, "there is no kernel " + kernel);
        const auto p = m.programs.find(kernel);
        return p != m.programs.end() ? p->second : m.programs.emplace(kernel, ptx::decode(m, k->second, table)).first->second;
    }
    static std::vector<std::string> files()
    {
        const char *folder = getenv("DS4_TEST_PTX");
        std::vector<std::string> out;
        std::error_code err;
        for (const auto &e : std::filesystem::directory_iterator(folder ? folder : "", err))
            if (e.path().extension() == ".ptx") out.push_back(e.path());
        if (out.empty()) {
            fprintf(stderr, "ptx: DS4_TEST_PTX must name a folder with the .ptx files of src/kernels/cuda\n");
            abort();
        }
        std::sort(out.begin(), out.end());
        return out;
    }
    /* Which file has which kernel, by a look at the lines that name one. */
    void index()
    {
        static const std::string entry = ".visible .entry ";
        for (const std::string &path : files()) {
            std::ifstream file(path);
            for (std::string line; std::getline(file, line);)
                if (line.compare(0, entry.size(), entry) == 0)
                    path_of[line.substr(entry.size(), line.find('(') - entry.size())] = path;
        }
    }
};

library &the_library(void)
{
    static library l;
    return l;
}

void run(const std::string &path, const std::string &kernel, const unsigned grid[3], unsigned block, unsigned shared,
         const void *args, size_t args_bytes, lane_order order)
{
    library &l = the_library();
    const ptx::program *p;
    {
        const std::lock_guard<std::mutex> hold(l.lock);
        p = &l.program_of(path, kernel);
    }
    if (p->kernel->param_bytes != args_bytes)
        ptx::fail_at(*p->text, p->kernel->line, "kernel " + kernel + " takes arguments of another size than the host's " +
                     std::to_string(args_bytes));
    ptx::run_grid(*p, grid, block, shared, args, order);
}

}

void ptx_run(const lane_kernel_entry *kernel, const unsigned grid[3], unsigned block, unsigned shared,
             const void *args, lane_order order)
{
    library &l = the_library();
    std::string path;
    {
        const std::lock_guard<std::mutex> hold(l.lock);
        if (l.path_of.empty()) l.index();
        path = l.path_of[kernel->name];
        if (path.empty()) {
            fprintf(stderr, "ptx: no file in DS4_TEST_PTX has a kernel %s\n", kernel->name);
            abort();
        }
    }
    run(path, kernel->name, grid, block, shared, args, kernel->args_bytes, order);
}

void ptx_settled(void) { ptx::settle(); }

void ptx_run_file(const char *path, const char *kernel, const unsigned grid[3], unsigned block, unsigned shared,
                  const void *args, size_t args_bytes, lane_order order)
{
    run(path, kernel, grid, block, shared, args, args_bytes, order);
}

int ptx_decode_all(void)
{
    library &l = the_library();
    const std::lock_guard<std::mutex> hold(l.lock);
    int n = 0;
    for (const std::string &path : library::files())
        for (const auto &k : l.module_at(path).text.kernels) {
            l.program_of(path, k.first);
            n++;
        }
    return n;
}
