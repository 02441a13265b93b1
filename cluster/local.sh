#!/usr/bin/env bash
# A two-node Ray cluster, an S3 server and an MLflow server on this machine, to try things on and for the tests. Linux.
#
#   cluster/local.sh start [FOLDER]             start all of it, in some twenty seconds
#   eval "$(cluster/local.sh env [FOLDER])"     addresses and dummy credentials for this shell
#   cluster/local.sh status [FOLDER]            what runs, and where; exit 1 when a part has ended
#   cluster/local.sh add-node [FOLDER]          one more worker node; prints its name
#   cluster/local.sh remove-node NAME [FOLDER]  kill -9 of a worker node with all its processes, as a lost machine
#   cluster/local.sh stop [FOLDER]              stop all of it; logs and MLflow's runs stay in FOLDER
#
# FOLDER (default: .local-cluster of the repository) holds logs, process ids, the Ray token and MLflow's runs. The S3
# server keeps its objects in memory: they end with `stop`.
#
# Variables of `start` and `add-node`, with their defaults:
#   HEAD_CPUS=2 WORKER_CPUS=2 OBJECT_STORE_BYTES=300000000    shape of the nodes; CPUs are logical
#   S3_PORT MLFLOW_PORT RAY_PORT DASHBOARD_PORT               free ones
#   START_SECONDS=180                                         time limit of `start` and of `add-node`
#   PYTHON=.venv/bin/python                                   of an environment made by `make setup`
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
ID="" # this and the other capitals below are set by `load`, from FOLDER/state

main() {
    local command=${1:-} name=""
    if [ "$command" = remove-node ]; then
        name=${2:-}
        [ -n "$name" ] || fail "remove-node needs the name of a node; \`status\` lists them"
        shift
    fi
    FOLDER=$(realpath -m -- "${2:-$ROOT/.local-cluster}")
    case $command in
    start) start ;;
    env) need_cluster && settings ;;
    status) need_cluster && status ;;
    add-node) need_cluster && add_node ;;
    remove-node) need_cluster && remove_node "$name" ;;
    stop) stop ;;
    *) fail "usage:"$'\n'"$(sed -n '/^#   .*local\.sh/s/^# *//p' "${BASH_SOURCE[0]}")" ;;
    esac
}

fail() {
    echo "error: $1" >&2
    exit 2
}

load() {
    [ -f "$FOLDER/state" ] || return 1
    # shellcheck source=/dev/null
    source "$FOLDER/state"
}

parts() {
    local file
    for file in "$FOLDER"/pids/*; do
        if [ -f "$file" ]; then basename "$file"; fi
    done
}

# Whether a part runs. The id is on its command line, so another process that got its number is not taken for it.
alive() {
    grep -qsz -- "^$ID$" "/proc/$(cat "$FOLDER/pids/$1")/cmdline"
}

any_alive() {
    local part
    for part in $(parts); do
        if alive "$part"; then return 0; fi
    done
    return 1
}

need_cluster() {
    if ! load || ! any_alive; then
        fail "no cluster runs in $FOLDER; start one with: cluster/local.sh start"
    fi
}

launch() {
    local part=$1
    shift
    setsid "$PYTHON" "$ROOT/cluster/local_part.py" "$ID" "$@" >"$FOLDER/logs/$part.log" 2>&1 </dev/null &
    echo $! >"$FOLDER/pids/$part"
}

# Each node has an address and a temporary folder of its own, as on machines of their own.
launch_node() {
    local part=$1 address=$2 cpus=$3
    shift 3
    launch "$part" "$(dirname "$PYTHON")/ray" start --block --node-ip-address "$address" --num-cpus "$cpus" \
        --object-store-memory "${OBJECT_STORE_BYTES:-300000000}" --temp-dir "$TEMP/$part" --labels "local/node=$part" \
        --dashboard-agent-listen-port 0 --disable-usage-stats --log-color false "$@"
}

launch_worker() {
    launch_node "worker-$1" "127.0.0.$(($1 + 2))" "${WORKER_CPUS:-2}" --address "$HEAD_ADDRESS:$RAY_PORT"
}

wait_for() {
    "$PYTHON" "$ROOT/cluster/local_wait.py" --folder "$FOLDER" --seconds "${START_SECONDS:-180}" "$@"
}

# What a shell and the nodes need. The nodes have it in their environment, so that no job carries a credential.
settings() {
    cat <<END
unset AWS_PROFILE AWS_SESSION_TOKEN RAY_AUTH_TOKEN
export AWS_ENDPOINT_URL=http://127.0.0.1:$S3_PORT
export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=secret-key-of-the-local-cluster AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
export CFR_ICL_BUCKET=s3://$BUCKET
export MLFLOW_TRACKING_URI=http://127.0.0.1:$MLFLOW_PORT
export RAY_ADDRESS=$HEAD_ADDRESS:$RAY_PORT
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$DASHBOARD_PORT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$(printf %q "$FOLDER/token")
END
}

node_environment() {
    eval "$(settings)"
    unset RAY_ADDRESS RAY_API_SERVER_ADDRESS # Ray sets its own in jobs
    export RAY_TMPDIR=$TEMP                  # else this cluster is what `ray.init("auto")` finds on this machine
    export RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=${RAY_TRAIN_HEALTH_CHECK_INTERVAL_S:-0.5}
    export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
    PATH=$(dirname "$PYTHON"):$PATH # the entry points of jobs say `python`
}

start() {
    local missing free
    if load; then
        if any_alive; then fail "a cluster already runs in $FOLDER; stop it with: cluster/local.sh stop"; fi
        stop >/dev/null # what a crash of the machine left
    fi
    missing=$("$PYTHON" -c 'from importlib.util import find_spec
print(*(name for name in ("ray", "moto", "flask", "mlflow") if find_spec(name) is None))') ||
        fail "cannot run $PYTHON; make the environment with \`make setup\`, or name another with PYTHON=..."
    [ -z "$missing" ] || fail "$PYTHON lacks: $missing; install them with \`make setup\`"

    rm -rf "$FOLDER/pids" "$FOLDER/logs"
    mkdir -p "$FOLDER/pids" "$FOLDER/logs"
    read -ra free < <("$PYTHON" -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
print(*(s.getsockname()[1] for s in sockets))')
    # Ray's folder has a short name, as Ray puts Unix sockets under it, whose paths end at 107 bytes.
    TEMP=$(mktemp -d /tmp/cfr-XXXXXX)
    cat >"$FOLDER/state" <<END
ID=$(basename "$TEMP")
TEMP=$TEMP
BUCKET=cfr-icl
HEAD_ADDRESS=127.0.0.2
S3_PORT=${S3_PORT:-${free[0]}}
MLFLOW_PORT=${MLFLOW_PORT:-${free[1]}}
DASHBOARD_PORT=${DASHBOARD_PORT:-${free[2]}}
RAY_PORT=${RAY_PORT:-${free[3]}}
RAY_CLIENT_PORT=${free[4]}
END
    load
    echo 1 >"$FOLDER/workers"
    (umask 077 && "$PYTHON" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$FOLDER/token")
    node_environment

    trap 'stop >/dev/null' EXIT # until all is up
    trap 'exit 130' INT TERM
    launch s3 "$PYTHON" -m moto.server --host 127.0.0.1 --port "$S3_PORT"
    # Its job runners (four more processes) are for evaluations of language models.
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
        launch mlflow "$PYTHON" -m mlflow server --host 127.0.0.1 --port "$MLFLOW_PORT" --workers 1 \
        --backend-store-uri "sqlite:///$FOLDER/mlflow.db" --artifacts-destination "$FOLDER/artifacts"
    launch_node head "$HEAD_ADDRESS" "${HEAD_CPUS:-2}" --head --port "$RAY_PORT" --dashboard-host 127.0.0.1 \
        --dashboard-port "$DASHBOARD_PORT" --ray-client-server-port "$RAY_CLIENT_PORT"
    wait_for gcs
    launch_worker 1
    wait_for s3 mlflow head worker-1
    trap - EXIT INT TERM
    status
}

status() {
    local part all=0
    echo "dashboard  http://127.0.0.1:$DASHBOARD_PORT, asks for the token in $FOLDER/token"
    echo "MLflow     http://127.0.0.1:$MLFLOW_PORT"
    echo "S3         http://127.0.0.1:$S3_PORT, bucket s3://$BUCKET"
    for part in $(parts); do
        if alive "$part"; then
            echo "$part runs"
        else
            echo "$part has ended; see $FOLDER/logs/$part.log"
            all=1
        fi
    done
    return $all
}

add_node() {
    local number
    number=$(($(cat "$FOLDER/workers") + 1)) # never that of a removed node
    echo "$number" >"$FOLDER/workers"
    node_environment
    launch_worker "$number"
    if ! wait_for "worker-$number"; then
        remove_node "worker-$number"
        exit 1
    fi
    echo "worker-$number"
}

remove_node() {
    [[ $1 =~ ^worker-[0-9]+$ && -f $FOLDER/pids/$1 ]] || fail "there is no worker node $1; \`status\` lists them"
    signal USR1 "$1"
    while alive "$1"; do sleep 0.05; done
    rm "$FOLDER/pids/$1"
}

signal() {
    if alive "$2"; then kill -s "$1" "$(cat "$FOLDER/pids/$2")"; fi
}

stop() {
    local part logs
    if ! load; then
        echo "no cluster runs in $FOLDER"
        return
    fi
    for part in $(parts); do signal TERM "$part"; done
    while any_alive; do sleep 0.1; done
    for logs in "$TEMP"/*/session_latest/logs; do
        if [ -d "$logs" ]; then mv "$logs" "$FOLDER/logs/ray-$(basename "${logs%/session_latest/logs}")"; fi
    done
    rm -rf "${TEMP:?}" "$FOLDER/pids" "$FOLDER/state" "$FOLDER/workers" "$FOLDER/token"
    echo "stopped; logs and MLflow's runs are in $FOLDER"
}

main "$@"
