# What the test scripts have in common: they count, wait and clean up alike. Sourced from the repository's folder.
#
# A script that leaves more behind than files in $work defines `remove`.
# shellcheck shell=bash disable=SC2034,SC2317,SC2329  # variables and functions for whoever sources this

work=$(mktemp -d)
# What a kielink in the background says goes there. It is looked into at once, perhaps before the shell that starts it has made it.
: >"$work/log"
passed=0
failed=0
ended=no
trap 'line=$LINENO' ERR
trap clean_up EXIT

# The closing line, and the exit code that goes with it.
end() {
    ended=yes
    echo "$passed passed, $failed failed"
    exit $((failed > 0))
}

clean_up() {
    # A command that nobody expected to fail ended the run.
    if [ "$ended" = no ]; then
        fail "the run itself stopped${line:+ in line $line}"
        echo "$passed passed, $failed failed"
    fi
    ! declare -F remove >/dev/null || remove >"$work/remove" 2>&1 || true
    rm -rf "$work"
}

pass() {
    passed=$((passed + 1))
    echo "ok      $1"
}

fail() {
    failed=$((failed + 1))
    echo "FAILED  $1"
    [ $# -lt 2 ] || note <<<"$2"
}

skip() { echo "skipped $1: $2"; }
# An answer may be thousands of characters wide.
note() { cut -c1-400 | sed 's/^/        /'; }
have() { command -v "$1" >/dev/null; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# check NAME COMMAND...: passes when the command does.
check() {
    local name=$1
    shift
    if "$@" >"$work/check" 2>&1; then pass "$name"; else fail "$name" "$(tail -20 "$work/check")"; fi
}

# equal NAME EXPECTED ACTUAL
equal() {
    if [ "$2" = "$3" ]; then pass "$1"; else fail "$1" "expected: $2"$'\n'"found:    $3"; fi
}

# contains NAME PATTERN TEXT
contains() {
    if grep -q -- "$2" <<<"$3"; then pass "$1"; else fail "$1" "no $2 in:"$'\n'"$3"; fi
}

# lacks NAME PATTERN TEXT
lacks() {
    if grep -q -- "$2" <<<"$3"; then fail "$1" "there is $2"; else pass "$1"; fi
}

# bring PACKAGE...: installs them where this is Debian and root; what fails is found missing later.
bring() {
    have apt-get && [ "$(id -u)" = 0 ] || return 0
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$work/apt" 2>&1 || true
}

# python_tools FOLDER PACKAGE...: a Python environment with these from PyPI. Kept for the next run, and made anew where others are
# wanted. Without them everything is skipped, and the run has ended.
python_tools() {
    # Debian has the part that `venv` needs in a package of its own.
    python3 -m ensurepip --version >/dev/null 2>&1 || bring python3 python3-venv
    if ! make_python_tools "$@" >"$work/tools" 2>&1; then
        skip "everything" "the tools cannot be installed from PyPI into $1"
        tail -5 "$work/tools" | note
        end
    fi
}

make_python_tools() {
    local venv=$1
    shift
    [ "$(cat "$venv/installed" 2>/dev/null)" != "$*" ] || return 0
    rm -rf "$venv" && python3 -m venv "$venv" &&
        "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" &&
        echo "$*" >"$venv/installed"
}

# eventually SECONDS COMMAND...: tries it until it succeeds.
eventually() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# make_box MIB: a memory cgroup (v1 or v2) of so many MiB without swap, below this process's own, so that limits that are set already
# hold as well. Its folder is in $box. Fails where none can be made: it takes root, and cgroups that may be written. Whoever makes one
# has `remove` call `remove_box` when everything in it has ended.
box=
make_box() {
    local v1 v2 root
    v1=$(sed -n 's/^[0-9]*:[^:]*\bmemory\b[^:]*:\(.*\)/\1/p' /proc/self/cgroup)
    v2=$(sed -n 's/^0:://p' /proc/self/cgroup)
    for root in "/sys/fs/cgroup/memory$v1" /sys/fs/cgroup/memory "/sys/fs/cgroup$v2" /sys/fs/cgroup; do
        box=${root%/}/kielink-test-$$
        if mkdir "$box" 2>/dev/null; then
            if limit_box $(($1 << 20)) 2>/dev/null; then return 0; fi
            rmdir "$box"
        fi
    done
    box=
    return 1
}

limit_box() {
    if [ -e "$box/memory.max" ]; then
        echo "$1" >"$box/memory.max" && { [ ! -e "$box/memory.swap.max" ] || echo 0 >"$box/memory.swap.max"; }
    else
        echo "$1" >"$box/memory.limit_in_bytes" &&
            { [ ! -e "$box/memory.memsw.limit_in_bytes" ] || echo "$1" >"$box/memory.memsw.limit_in_bytes"; }
    fi
}

# in_box COMMAND...: becomes the command, inside of the box; to be started with `&`, so that $! is the command itself.
# shellcheck disable=SC2016  # for the other shell
in_box() { exec bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$box" "$@"; }

# The most bytes that the box has held since `forget_peak`, where the kernel tells.
box_peak() { cat "$box/memory.peak" "$box/memory.max_usage_in_bytes" 2>/dev/null | head -1; }
forget_peak() { echo 0 >"$box/memory.max_usage_in_bytes" 2>/dev/null || true; }

# A group can only be removed when its last process has gone.
remove_box() { [ -z "$box" ] || eventually 5 rmdir "$box"; }
