# Shared by scripts/setup and scripts/docker-stop; sourced, never run.
# shellcheck shell=bash
# shellcheck disable=SC2034 # each script uses some of these

# The checkout is found from the script, so the scripts work from any folder.
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
TOOLS=$ROOT/.tools
DOCKER_DIR=$TOOLS/docker
DOCKERD_PIDFILE=$DOCKER_DIR/dockerd.pid
DOCKERD_LOG=$DOCKER_DIR/dockerd.log
DOCKERD_SOCKET=/var/run/docker.sock

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
