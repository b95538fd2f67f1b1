#include "model_path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#include "base/checked.h"
#include "base/status.h"

#define PUBLISHED "ds4flash.gguf"
#define BUNDLED   "ds4-tiny.gguf"

/* The folder of this executable, links resolved. */
static int executable_folder(char out[PATH_MAX])
{
    char raw[PATH_MAX];
#ifdef __APPLE__
    uint32_t size = sizeof raw;
    if (_NSGetExecutablePath(raw, &size)) return 0;
#else
    snprintf(raw, sizeof raw, "/proc/self/exe");
#endif
    if (!realpath(raw, out)) return 0;
    char *slash = strrchr(out, '/');
    if (!slash) return 0;
    *slash = 0;
    return 1;
}

static int readable(const char *path)
{
    return access(path, R_OK) == 0;
}

/* In the source tree (build/<variant>/bin, build/<variant>/cuda/bin), beside a copied folder, installed. */
int model_path_bundled(char out[PATH_MAX], const char *name)
{
    static const char *const places[] = { "../../../models/tiny", "../../../../models/tiny", "models/tiny",
                                          "../share/ds4", "../../../models/text", "../../../../models/text",
                                          "models/text" };
    char folder[PATH_MAX], candidate[2 * PATH_MAX];
    if (!executable_folder(folder)) return 0;
    for (size_t i = 0; i < countof(places); i++) {
        snprintf(candidate, sizeof candidate, "%s/%s/%s", folder, places[i], name);
        if (readable(candidate) && realpath(candidate, out)) return 1;
    }
    return 0;
}

static ds4_status take_named(model_path *out, const char *named, int from_env, ds4_error *err)
{
    out->found_by = from_env ? "DS4_MODEL" : "--model";
    if (strlen(named) >= sizeof out->path)
        return ds4_fail(err, DS4_EARG, "%s: the path is too long", out->found_by);
    snprintf(out->path, sizeof out->path, "%s", named);
    if (access(named, F_OK) == 0) return DS4_OK;
    return ds4_fail(err, DS4_ENOTFOUND,
                    "%.120s: no such model file (from %s); "
                    "./download_model.sh q2-imatrix fetches the published one, 81 GiB", named, out->found_by);
}

ds4_status model_path_find(model_path *out, const char *named, int from_env, ds4_error *err)
{
    if (named) return take_named(out, named, from_env, err);
    if (readable(PUBLISHED)) {
        snprintf(out->path, sizeof out->path, "%s", PUBLISHED);
        out->found_by = "current folder";
        return DS4_OK;
    }
    if (model_path_bundled(out->path, BUNDLED)) {
        out->found_by = "bundled";
        return DS4_OK;
    }
    return ds4_fail(err, DS4_ENOTFOUND,
                    "no model: neither ./" PUBLISHED " nor the bundled " BUNDLED
                    " beside this program; ./download_model.sh q2-imatrix fetches the published one (81 GiB), "
                    "-m FILE names another");
}
