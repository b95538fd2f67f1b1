#!/bin/sh
# Installs the system packages that are missing, or only says which they are.
#
#   tools/deps.sh [GROUP]            installs (Debian, Ubuntu, Fedora, Arch, macOS)
#   tools/deps.sh --check [GROUP]    one sentence and status 1 when something is missing
#
# GROUP: build (default) what `make` needs; test: and `make test`; fuzz: and
# `make fuzz`. What is there is found by compiling, not by asking the package
# system, so libraries built by hand count too.
set -u
check=
[ "${1-}" = --check ] && { check=1; shift; }
group=${1:-build}
case $group in build|test|fuzz) ;; *) echo "usage: tools/deps.sh [--check] [build|test|fuzz]"; exit 2 ;; esac

CC=${CC:-cc}
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

brew_paths=
if [ "$(uname -s)" = Darwin ] && command -v brew >/dev/null; then
    prefix=$(brew --prefix)
    brew_paths="-I$prefix/include -L$prefix/lib"
fi

# compiles COMPILER FLAGS LINE...: does a program with these first lines link?
compiles() {
    compiler=$1 flags=$2
    shift 2
    { printf '%s\n' "$@"; echo 'int main(void) { return 0; }'; } >"$scratch/t.c"
    # shellcheck disable=SC2086    # flags and paths are lists
    $compiler "$scratch/t.c" $brew_paths $flags -o "$scratch/t" >/dev/null 2>&1
}
has_json() { compiles "$CC" -ljson-c '#include <json-c/json.h>'; }
has_uv() { compiles "$CC" -luv '#include <uv.h>'; }
has_crypto() { compiles "$CC" -lcrypto '#include <openssl/evp.h>'; }
has_edit() { compiles "$CC" -ledit '#include <stdio.h>' '#include <editline/readline.h>'; }
# The CUDA kernels run in tests as C++ on the CPU.
has_cxx() {
    echo 'int main() { return 0; }' >"$scratch/t.cpp"
    ${CXX:-c++} -std=c++17 "$scratch/t.cpp" -o "$scratch/t" >/dev/null 2>&1
}
has_fuzzer() {
    printf '%s\n' '#include <stddef.h>' 'int LLVMFuzzerTestOneInput(const char *d, size_t n);' \
        'int LLVMFuzzerTestOneInput(const char *d, size_t n) { return !d && n; }' >"$scratch/f.c"
    clang -fsanitize=fuzzer,address,undefined "$scratch/f.c" -o "$scratch/f" >/dev/null 2>&1
}

# The usual case, that all is there, costs one small compilation.
missing() {
    command -v make >/dev/null || echo make
    if ! compiles "$CC" '-ljson-c -ledit -luv -lcrypto' '#include <stdio.h>' '#include <json-c/json.h>' \
                  '#include <editline/readline.h>' '#include <uv.h>' '#include <openssl/evp.h>'; then
        if ! compiles "$CC" ''; then echo compiler; fi
        has_json || echo json-c
        has_edit || echo libedit
        has_uv || echo libuv
        has_crypto || echo libcrypto
    fi
    [ "$group" = build ] && return
    command -v python3 >/dev/null || echo python3
    has_cxx || echo c++
    [ "$group" = test ] && return
    has_fuzzer || echo clang
}

manager() {
    for m in apt-get dnf pacman brew; do command -v $m >/dev/null && { echo $m; return; }; done
}

# package MANAGER THING: its name there
package() {
    case $1:$2 in
        apt-get:compiler)  echo gcc libc6-dev ;;
        brew:compiler|brew:c++) ;;
        *:compiler)        echo gcc ;;
        apt-get:c++)       echo g++ ;;
        dnf:c++)           echo gcc-c++ ;;
        pacman:c++)        echo gcc ;;
        apt-get:json-c)    echo libjson-c-dev ;;
        dnf:json-c)        echo json-c-devel ;;
        apt-get:libedit)   echo libedit-dev ;;
        dnf:libedit)       echo libedit-devel ;;
        apt-get:libuv)     echo libuv1-dev ;;
        dnf:libuv)         echo libuv-devel ;;
        apt-get:libcrypto) echo libssl-dev ;;
        dnf:libcrypto)     echo openssl-devel ;;
        pacman:libcrypto)  echo openssl ;;
        brew:libcrypto)    echo openssl@3 ;;
        pacman:python3)    echo python ;;
        apt-get:clang)     apt_clang ;;
        dnf:clang|pacman:clang) echo clang compiler-rt ;;
        brew:clang)        echo llvm ;;
        *)                 echo "$2" ;;
    esac
}

# Debian keeps the sanitizers apart and names them by version.
apt_clang() {
    echo clang
    apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/libclang-rt-\1-dev/p' |
        while read -r rt; do apt-cache show "$rt" >/dev/null 2>&1 && echo "$rt"; done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "this needs root: $*" >&2; return 1; fi
}

install() {
    case $1 in
        apt-get)
            shift
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@" ||
                { as_root apt-get update -q &&
                  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@"; } ;;
        dnf)    shift; as_root dnf install -y "$@" ;;
        pacman) shift; as_root pacman -S --needed --noconfirm "$@" ;;
        brew)   shift; brew install "$@" ;;
    esac
}

things=$(missing)
[ -z "$things" ] && exit 0
commas() { awk '{ s = s (NR > 1 ? ", " : "") $0 } END { print s }'; }
list=$(echo "$things" | commas)

m=$(manager)
packages=
if [ -n "$m" ]; then
    # The lists of a fresh container are empty; clang's runtime is named in them.
    if [ -z "$check" ] && [ "$m" = apt-get ] && [ "$group" = fuzz ]; then as_root apt-get update -q; fi
    for t in $things; do
        for p in $(package "$m" "$t"); do packages="$packages${packages:+ }$p"; done
    done
fi

remedy="run tools/deps.sh $group"
[ "$m" = brew ] && case $list in *compiler*|*c++*) remedy="run xcode-select --install" ;; esac
[ -z "$m" ] && remedy="install with this system's package manager"
if [ -n "$check" ]; then
    echo "missing: $list; $remedy${packages:+ ($m installs: $packages)}"
    exit 1
fi
if [ -z "$packages" ]; then
    echo "missing: $list; $remedy"
    exit 1
fi

echo "missing: $list; installing $packages"
# shellcheck disable=SC2086    # a list
install "$m" $packages || exit 1
things=$(missing)
[ -z "$things" ] && exit 0
echo "still missing: $(echo "$things" | commas)"
exit 1
