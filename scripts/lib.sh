# Shared by the scripts of this folder; sourced, never run.
# shellcheck shell=bash
# shellcheck disable=SC2034 # each script uses some of these

# The checkout is found from the script, so the scripts work from any folder.
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
TOOLS=$ROOT/.tools
DOCKER_DIR=$TOOLS/docker
DOCKERD_PIDFILE=$DOCKER_DIR/dockerd.pid
DOCKERD_LOG=$DOCKER_DIR/dockerd.log
DOCKERD_SOCKET=/var/run/docker.sock
ENDPOINT= # where the engine answers, in DOCKER_HOST's form, set by find_engine

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die TRIED WENT_WRONG DO_NEXT
die() {
    printf '%s: failed: %s\n  what went wrong: %s\n  what to do next: %s\n' "${0##*/}" "$1" "$2" "$3" >&2
    exit 1
}

# The process id of the dockerd that scripts/setup started from this checkout.
# A pid file alone proves nothing, because pids are reused after a crash or a
# reboot: the process must also carry our pid file on its command line.
own_dockerd_pid() {
    local pid
    [[ -s $DOCKERD_PIDFILE ]] || return 1
    pid=$(<"$DOCKERD_PIDFILE")
    [[ $pid =~ ^[0-9]+$ && -r /proc/$pid/cmdline ]] || return 1
    # The process may end between the check and the read; that is a plain "no".
    { tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null |
        grep -qxF -- "--pidfile=$DOCKERD_PIDFILE" || return 1
    printf '%s\n' "$pid"
}

# wait_for SECONDS COMMAND...: true as soon as the command is, false at the deadline.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# --- Docker engine -----------------------------------------------------------

# The engine is asked over its API with curl wherever that is possible: a client
# may be missing, or too new or too old to talk to the engine.
# engine_api ENDPOINT PATH [curl options]
engine_api() {
    local endpoint=$1 path=$2
    shift 2
    case $endpoint in
        unix://*) curl -sS --fail --max-time 120 --noproxy '*' --unix-socket "${endpoint#unix://}" "$@" "http://localhost$path" ;;
        *) curl -sS --fail --max-time 120 --noproxy '*' "$@" "http://${endpoint#tcp://}$path" ;;
    esac
}

# TLS and ssh need the credentials that only the docker client knows how to find.
needs_client() {
    [[ -n ${DOCKER_TLS_VERIFY:-} && $1 == tcp://* ]] || [[ $1 != unix://* && $1 != tcp://* ]]
}

answers() {
    if needs_client "$1"; then
        DOCKER_HOST=$1 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
    else
        engine_api "$1" /_ping --max-time 5 >/dev/null 2>&1
    fi
}

# Where an engine may answer: DOCKER_HOST alone if it is set, because the user
# chose it; else the usual socket, then the docker client's current context
# (rootless engines and desktop ones).
find_engine() {
    local candidate context=
    if [[ -n ${DOCKER_HOST:-} ]]; then
        answers "$DOCKER_HOST" ||
            die "reaching the Docker engine at DOCKER_HOST=$DOCKER_HOST" "it does not answer" \
                "start that engine, or unset DOCKER_HOST to let scripts/setup find or start one"
        ENDPOINT=$DOCKER_HOST
        return
    fi
    if command -v docker >/dev/null; then
        context=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || true)
    fi
    for candidate in "unix://$DOCKERD_SOCKET" "$context"; do
        if [[ -n $candidate ]] && answers "$candidate"; then
            ENDPOINT=$candidate
            return
        fi
    done
    return 1
}

# image_present IMAGE
image_present() {
    if needs_client "$ENDPOINT"; then
        DOCKER_HOST=$ENDPOINT docker image inspect "$1" >/dev/null 2>&1
    else
        engine_api "$ENDPOINT" "/images/$1/json" >/dev/null 2>&1
    fi
}

# import_image TAR IMAGE CHANGES...: an image of one layer, from a root file
# system; a change is a line of a Dockerfile. $WORK is the caller's scratch folder.
import_image() {
    local tar=$1 image=$2 change query='' options=() ended=no
    shift 2
    for change in "$@"; do
        query+="&changes=$(percent_encoded "$change")"
        options+=(--change "$change")
    done
    if needs_client "$ENDPOINT"; then
        DOCKER_HOST=$ENDPOINT docker import "${options[@]}" "$tar" "$image" && ended=yes
    else
        engine_api "$ENDPOINT" "/images/create?fromSrc=-&repo=${image%:*}&tag=${image##*:}$query" \
            -X POST -H 'Content-Type: application/x-tar' -T "$tar" && ended=yes
    fi >"$WORK/import.log" 2>&1
    # An engine that fails half-way has said that all is well by then.
    if [[ $ended == no ]] || grep -q errorDetail "$WORK/import.log"; then
        tail -n 5 "$WORK/import.log" >&2
        die "importing the image $image at $ENDPOINT" "the engine refused it; its words are above" \
            "check the engine's free disk space and its log, then run scripts/${0##*/} again"
    fi
}

percent_encoded() { python3 -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1], safe=""))' "$1"; }

# A program that is linked dynamically names its loader (PT_INTERP, type 3);
# inside an otherwise empty image there is no loader to run it.
is_static() {
    python3 - "$1" <<'PYTHON'
import struct, sys
data = open(sys.argv[1], "rb").read()
if data[:4] != b"\x7fELF":
    sys.exit(1)
wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
offset, = struct.unpack_from(order + ("Q" if wide else "I"), data, 32 if wide else 28)
size, count = struct.unpack_from(order + "HH", data, 54 if wide else 42)
types = [struct.unpack_from(order + "I", data, offset + n * size)[0] for n in range(count)]
sys.exit(3 in types)
PYTHON
}
