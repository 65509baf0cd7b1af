# Sourced by each peer's up and down. Needs PEER (the peer's name) and HERE (its folder).
#
# State of a peer:   $PEERS_DIR/$PEER    (may be deleted once it is down; logs are in log/)
# What it installed: $PEERS_CACHE/$PEER  (kept, so that the next start is fast)

set -euo pipefail
cache=${RUNNER_MANAGER_CACHE:-$HOME/.cache/runner-manager}
PEERS_DIR=${PEERS_DIR:-$cache/peers/state}
PEERS_CACHE=${PEERS_CACHE:-$cache/peers}
STATE=$PEERS_DIR/$PEER
CACHE=$PEERS_CACHE/$PEER
RUN=$STATE/run
LOG=$STATE/log

say() { printf '[%s] %s\n' "$PEER" "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

# One up or down of a peer at a time, and one that builds into the cache.
mkdir -p "$PEERS_DIR" "$CACHE"
exec 8>"$PEERS_DIR/.$PEER.lock"
flock -w 1200 8 || die "another up or down of this peer is still at work"
exec 7>"$CACHE/.lock"
flock -w 1200 7 || die "another up of this peer is still building"

# From here on, stdout is stderr: only emit writes to the real one.
exec 3>&1 1>&2
emit() { printf 'export %s=%q\n' "$1" "$2" >&3; }

# --- packages -----------------------------------------------------------------------------------------------

apt_need() {
    local package missing=()
    for package in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    local as_root=()
    if [[ $(id -u) != 0 ]]; then
        sudo -n true 2>/dev/null || die "install these first: ${missing[*]}"
        as_root=(sudo -n)
    fi
    say "installing ${missing[*]}"
    ${as_root[@]+"${as_root[@]}"} apt-get -qq update 3>&-
    ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" 3>&- >/dev/null
}

# venv_need REQUIREMENTS: a virtual environment in $CACHE/venv with exactly what the file names.
venv_need() {
    local want
    want=$(sha256sum <"$1" | cut -c1-16)
    [[ $(cat "$CACHE/venv/.made-from" 2>/dev/null) == "$want" ]] && return 0
    say "installing from $(basename "$1")"
    rm -rf "$CACHE/venv"
    python3 -m venv "$CACHE/venv"
    timeout 900 "$CACHE/venv/bin/python" -m pip install -q --disable-pip-version-check -r "$1" 3>&-
    echo "$want" >"$CACHE/venv/.made-from"
}

# --- processes ----------------------------------------------------------------------------------------------

# A file of a process holds its id and when it started, so that no other process is ever signalled.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    # shellcheck disable=SC2086 # the fields are to be split
    set -- $stat
    echo "${20}"
}

running() { # NAME
    local pid started
    read -r pid started 2>/dev/null <"$RUN/$1.pid" || return 1
    [[ -n $pid && $(start_time "$pid") == "$started" ]]
}

start() { # NAME COMMAND...
    local name=$1 pid
    shift
    mkdir -p "$RUN" "$LOG"
    setsid "$@" </dev/null >>"$LOG/$name.log" 2>&1 3>&- 7>&- 8>&- &
    pid=$!
    echo "$pid $(start_time "$pid" || echo 0)" >"$RUN/$name.pid"
    disown "$pid" 2>/dev/null || true
}

stop() { # NAME
    local pid _
    if running "$1"; then
        read -r pid _ <"$RUN/$1.pid"
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do
            running "$1" || break
            sleep 0.1
        done
        ! running "$1" || kill -KILL "$pid" 2>/dev/null || true
    fi
    rm -f "$RUN/$1.pid"
}

await() { # SECONDS NAME COMMAND...: until the command succeeds, or the process of that name has ended
    local end=$((SECONDS + $1)) name=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS > end)) || ! running "$name"; then
            tail -n 20 "$LOG/$name.log" || true
            die "$name did not become ready"
        fi
        sleep 0.1
    done
}
