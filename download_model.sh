#!/bin/sh
# Downloads a published DeepSeek V4 Flash model and points ds4flash.gguf at it.
#
#   ./download_model.sh q2-imatrix            see --help for the others
#
# The file arrives as gguf/NAME.part and gets its name only when its size and
# its header are right; a download that was cut goes on where it stopped.
set -eu

BASE_URL=${DS4_MODEL_URL:-https://huggingface.co/antirez/deepseek-v4-gguf/resolve/main}
Q2=DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2
Q4=DeepSeek-V4-Flash-Q4KExperts-F16HC-F16Compressor-F16Indexer-Q8Attn-Q8Shared-Q8Out-chat-v2
MTP=DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32
LINK=ds4flash.gguf
FOLDER=gguf
MAX_IDLE_TRIES=5        # attempts in a row that bring no byte

usage() {
    cat <<'EOF'
Usage: ./download_model.sh [--token TOKEN] MODEL

  q2            experts of 2 bits, 81 GiB
  q2-imatrix    the same, weighted by importance: the one for 96 to 128 GB machines
  q4            experts of 4 bits, 153 GiB
  q4-imatrix    the same, weighted by importance: the one for 256 GB machines
  mtp           draft model for speculative decoding, 3.5 GiB; not linked

  --token TOKEN   access token of the hub; else HF_TOKEN, else its cache file

Files go to gguf/ beside this script, and ds4flash.gguf points at the chosen
one. DS4_MODEL_URL names another folder (a mirror) to fetch from.
EOF
}

say()  { printf '%s\n' "$*" >&2; }
fail() { say "download_model: $*"; exit 1; }
bad_usage() { say "download_model: $*"; usage >&2; exit 2; }

# ---- arguments ----------------------------------------------------------------

model=
token=${HF_TOKEN:-}
while [ $# -gt 0 ]; do
    case $1 in
        -h|--help)  usage; exit 0 ;;
        --token)    [ $# -ge 2 ] || bad_usage "--token needs a value"; token=$2; shift ;;
        --token=*)  token=${1#--token=} ;;
        -*)         bad_usage "unknown option $1" ;;
        *)          [ -z "$model" ] || bad_usage "one model at a time"; model=$1 ;;
    esac
    shift
done

case $model in
    q2)         name=$Q2.gguf ;;
    q2-imatrix) name=$Q2-imatrix.gguf ;;
    q4)         name=$Q4.gguf ;;
    q4-imatrix) name=$Q4-imatrix.gguf ;;
    mtp)        name=$MTP.gguf ;;
    '')         bad_usage "which model?" ;;
    *)          bad_usage "unknown model $model" ;;
esac

token_cache=${HF_HOME:-${HOME:-/nonexistent}/.cache/huggingface}/token
if [ -z "$token" ] && [ -r "$token_cache" ]; then token=$(cat "$token_cache"); fi

cd "$(dirname "$0")"
url=${BASE_URL%/}/$name
file=$FOLDER/$name
part=$file.part

command -v curl >/dev/null 2>&1 || fail "curl is missing; install it (apt-get install curl)"
if [ "$model" != mtp ] && [ -e "$LINK" ] && [ ! -L "$LINK" ]; then
    fail "$LINK is a file and not a link; move it away first"
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The token goes to curl through a private file: arguments are visible to everybody.
: > "$tmp/auth"
if [ -n "$token" ]; then printf 'Authorization: Bearer %s\n' "$token" > "$tmp/auth"; fi

# ---- helpers ------------------------------------------------------------------

bytes_of() { if [ -f "$1" ]; then wc -c < "$1" | tr -d ' '; else echo 0; fi; }
gib() { awk -v n="$1" 'BEGIN { if (n >= 107374182) printf "%.1f GiB", n / 1073741824; else printf "%d bytes", n }'; }

# "GGUF", then version 2 or 3, little-endian.
is_gguf() {
    case $(od -An -tx1 -N8 "$1" | tr -d ' \n') in
        4747554602000000|4747554603000000) return 0 ;;
    esac
    return 1
}

# A header of the last response (redirects come first), without CR.
header() { tr -d '\r' < "$tmp/headers" | awk -v key="$1" '
    /^HTTP\// { value = "" }
    { at = index($0, ":") }
    at && tolower(substr($0, 1, at - 1)) == key { value = substr($0, at + 1); sub(/^ +/, "", value) }
    END { print value }'; }
status() { tr -d '\r' < "$tmp/headers" | awk '/^HTTP\// { code = $2 } END { print code }'; }

explain_status() {
    case $1 in
        401|403) fail "$url: access refused ($1); give a token with --token, in HF_TOKEN or in $token_cache" ;;
        404)     fail "$url: there is no such file (404); is DS4_MODEL_URL right?" ;;
        429)     fail "$url: too many requests (429); try again later" ;;
        '')      fail "$url: $(sed -n 's/^curl: ([0-9]*) //p' "$tmp/errors" | head -n 1)" ;;
        *)       fail "$url: the server answered $1" ;;
    esac
}

# ---- asking -------------------------------------------------------------------

# Eight bytes tell whether this is a model, how large it is, and whether the
# server can continue a download. A server without ranges sends everything:
# head closes the pipe then.
ask() {
    curl -sSL -r 0-7 -H @"$tmp/auth" -D "$tmp/headers" "$url" 2> "$tmp/errors" | head -c 8 > "$tmp/begin" || true
    touch "$tmp/headers"
    case $(status) in
        206) ranges=yes; size=$(header content-range); size=${size##*/} ;;
        200) ranges=no;  size=$(header content-length) ;;
        *)   explain_status "$(status)" ;;
    esac
    is_gguf "$tmp/begin" || fail "$url: not a GGUF file; it begins with \"$(tr -cd '[:print:]' < "$tmp/begin")\""
    case $size in
        ''|*[!0-9]*) fail "$url: the server does not tell the size of the file" ;;
    esac
    etag=$(header etag)
}

check_space() {
    free=$(df -Pk "$FOLDER" | awk 'NR == 2 { printf "%.0f", $4 * 1024 }')
    need=$(awk -v size="$size" -v have="$(bytes_of "$part")" 'BEGIN { printf "%.0f", size - have }')
    if awk -v f="$free" -v n="$need" 'BEGIN { exit !(f < n) }'; then
        fail "$(pwd)/$FOLDER: $(gib "$need") needed, $(gib "$free") free"
    fi
}

# What was begun is worth keeping when the server continues downloads and still
# has the same file.
check_part() {
    [ -f "$part" ] || return 0
    if [ "$ranges" = no ]; then
        say "the server can not continue downloads; starting again"
    elif [ "$(cat "$part.etag" 2>/dev/null || true)" != "$etag" ]; then
        say "the file on the server has changed; starting again"
    elif [ "$(bytes_of "$part")" -gt "$size" ]; then
        say "$part is longer than the file on the server; starting again"
    else
        return 0
    fi
    rm -f "$part"
}

# ---- downloading --------------------------------------------------------------

fetch() {
    shown=-sS
    if [ -t 2 ]; then shown=--progress-bar; fi
    set -- -fL $shown -H @"$tmp/auth" -D "$tmp/headers" -o "$part"
    if [ "$ranges" = yes ]; then set -- "$@" -C -; fi
    curl "$@" "$url"
}

# Again and again while it brings something; a cut line is the rule at 81 GiB.
download() {
    printf '%s\n' "$etag" > "$part.etag"
    idle=0
    while [ "$(bytes_of "$part")" -lt "$size" ]; do
        before=$(bytes_of "$part")
        if fetch; then return; fi
        case $(status) in
            401|403|404|429) explain_status "$(status)" ;;
        esac
        if [ "$ranges" = no ]; then rm -f "$part"; fi
        idle=$((idle + 1))
        if [ "$(bytes_of "$part")" -gt "$before" ]; then idle=0; fi
        if [ $idle -ge $MAX_IDLE_TRIES ]; then
            fail "$url: gave up at $(gib "$(bytes_of "$part")") of $(gib "$size"); run the same command again to go on"
        fi
        say "the connection was cut at $(gib "$(bytes_of "$part")") of $(gib "$size"); going on"
        sleep $((idle + 1))
    done
}

# Never leaves a wrong file, not even as a beginning of the next download.
accept() {
    got=$(bytes_of "$part")
    if [ "$got" != "$size" ] || ! is_gguf "$part"; then
        rm -f "$part" "$part.etag"
        if [ "$got" != "$size" ]; then fail "$url: $got bytes came instead of $size; removed"; fi
        fail "$url: what came is not a GGUF file; removed"
    fi
    mv -f "$part" "$file"
    rm -f "$part.etag"
}

link_model() {
    if [ "$model" = mtp ]; then
        say "$file is there; $LINK is left as it is"
    else
        ln -sfn "$file" "$LINK"
        say "$LINK -> $file"
    fi
}

mkdir -p "$FOLDER"
if [ -f "$file" ] && is_gguf "$file"; then
    say "$file is there already"
else
    ask
    check_part
    check_space
    say "$name, $(gib "$size"), from $url"
    download
    accept
fi
link_model
