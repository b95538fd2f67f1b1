#!/bin/sh
# Checks the #include lines of src/ and app/ against the table of
# docs/architecture.md: which module stands on which. When a line changes here,
# a person should have meant it.
cd "$(dirname "$0")/.." || exit 1
grep -rnE --include='*.[chm]' --include='*.cu' --include='*.cuh' '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' src app | awk -F: '
BEGIN {
    may["base"]    = ""
    may["quant"]   = "base"
    may["gguf"]    = "base quant"
    may["kernels"] = "base quant"
    may["model"]   = "base quant gguf kernels"
    may["text"]    = "base gguf"
    may["engine"]  = "base gguf model text kernels/backend.h"
    may["host"]    = "base"
    may["net"]     = "base"
    may["api"]     = "base text net/sse.h"
    may["serve"]   = "base gguf text engine net api"
    may["factory"] = "base quant gguf"
    may["bench"]   = "base quant gguf host model text engine factory kernels/backend.h kernels/cpu/cpu_kernels.h"
}
{
    split($1, at, "/"); from = at[2]
    match($0, /"[^"]*"/); name = substr($0, RSTART + 1, RLENGTH - 2)
    slash = index(name, "/"); to = slash ? substr(name, 1, slash - 1) : ""
    lines++
    if (at[1] == "app" || to == "" || to == from) next          # an app sees all, a module itself
    if (!(from in may))                 why = "module " from " is not in the table"
    else if (to == ".." || to == "app") why = from " must not include " name
    else if (!(to in may))              next                    # a folder inside the module
    else if (index(" " may[from] " ", " " to " ") || index(" " may[from] " ", " " name " ")) next
    else                                why = from " must not include " name
    print "FAIL " $1 ":" $2 ": " why; bad++
}
END {
    if (!lines) { print "FAIL no #include lines found"; exit 1 }
    print lines " includes, " bad + 0 " against the table"
    exit bad > 0
}'
