# shellcheck shell=bash
# Finds a Python and has it make .venv. Sourced by the scripts, in the repository's root. Only the results of functions
# go to stdout, which is for the service's JSON lines.

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Unsets variables of the caller that would import other code, or install packages elsewhere.
clean_environment() {
    local name
    for name in ${!PYTHON@} __PYVENV_LAUNCHER__ VIRTUAL_ENV \
        PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_REQUIREMENT; do
        unset "$name"
    done
    export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
    # Without a home directory pip would create one (as root), or warn.
    if [[ ! -d ${HOME:-} ]]; then export PIP_NO_CACHE_DIR=1; fi
}

# Prints every Python that may exist, one per line: of all of PATH, since a version manager's shim that comes first may
# not start.
python_candidates() {
    local dir name dirs
    IFS=: read -r -a dirs <<<"${PATH:-}"
    dirs+=(/usr/local/bin /usr/bin /opt/homebrew/bin)
    if [[ -n ${HOME:-} ]]; then
        dirs+=("$HOME"/.pyenv/versions/*/bin "$HOME"/.local/share/uv/python/*/bin
            "$HOME"/.local/share/mise/installs/python/*/bin "$HOME"/.asdf/installs/python/*/bin)
    fi
    for dir in "${dirs[@]}"; do
        for name in python3.{14,13,12,11} python3 python; do
            if [[ -f $dir/$name && -x $dir/$name ]]; then printf '%s\n' "$dir/$name"; fi
        done
    done
}

# Prints "RANK PATH" for a Python that starts, is new enough and can make an environment with pip.
# A pre-release ranks below every release.
rank_python() {
    "$1" -I -c 'import ensurepip, sys, venv
major, minor, micro, level, _ = sys.version_info
if (major, minor) >= (3, 11):
    print("%d%03d%03d %s" % (level == "final", minor, micro, sys.argv[1]))' "$1" \
        2>/dev/null </dev/null || true
}

find_python() {
    local best
    best=$(python_candidates | awk '!seen[$0]++' |
        while IFS= read -r candidate; do rank_python "$candidate"; done | sort -k1,1nr -s | sed 1q)
    if [[ -z $best ]]; then
        die "no Python >= 3.11 that starts and has venv and ensurepip was found (on Debian: apt install python3-venv)"
    fi
    printf '%s\n' "${best#* }"
}

# Makes .venv contain the packages of the given requirements files, and nothing stale.
ensure_environment() {
    local python
    if .venv/bin/python -I scripts/lib/environment.py check "$@" 2>/dev/null; then return; fi
    python=$(find_python)
    "$python" -I scripts/lib/environment.py make "$@" >&2 </dev/null ||
        die "could not make .venv (the lines above say why)"
}
