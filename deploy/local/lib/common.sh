# shellcheck shell=bash
# Folders, ports, messages, and processes that are known to be ours.

say() { printf '%s\n' "$*" >&2; }

# die WHAT [LOG] [NEXT STEP]
die() {
  say "error: $1"
  if [ -n "${2:-}" ]; then
    if [ -s "$2" ]; then tail -n 15 "$2" | sed 's/^/    | /' >&2; fi
    say "  log:  $2"
  fi
  if [ -n "${3:-}" ]; then say "  next: $3"; fi
  exit 1
}

# Runs a step with its output in a log: step LOG WHAT NEXT COMMAND...
step() {
  local log=$1 what=$2 next=$3
  shift 3
  "$@" >>"$log" 2>&1 || die "$what failed" "$log" "$next"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this step needs root: $*" "" "run it as root, or install sudo"
  fi
}

have() { command -v "$1" >/dev/null 2>&1; }

# ---------------------------------------------------------------- ports

# Offsets from FLEET_PORT_BASE, in one place so that no two services meet.
port_of() {
  case $1 in
    amqp) echo $((PORT_BASE + 0)) ;;
    management) echo $((PORT_BASE + 1)) ;;
    distribution) echo $((PORT_BASE + 2)) ;;
    epmd) echo $((PORT_BASE + 3)) ;;
    clickhouse-1) echo $((PORT_BASE + 5)) ;;
    clickhouse-2) echo $((PORT_BASE + 6)) ;;
    elasticsearch) echo $((PORT_BASE + 8)) ;;
    transport) echo $((PORT_BASE + 9)) ;;
    *) die "no port is known for $1" ;;
  esac
}

port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

require_free_port() {
  local port=$1 service=$2 holder=""
  port_answers "$port" || return 0
  if have ss; then
    holder=$(ss -Hltnp "sport = :$port" 2>/dev/null | grep -o 'users:.*' | head -n 1 || true)
  fi
  die "port $port, which $service needs, is taken by another program ${holder:+($holder)}" "" \
    "stop that program, or choose other ports: FLEET_PORT_BASE=22000 $SELF up"
}

# wait_until SECONDS PID_FILE COMMAND...: fails early when the process is gone.
wait_until() {
  local deadline=$((SECONDS + $1)) pid_file=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    [ -z "$(our_pid "$pid_file")" ] && return 1
    sleep 0.2
  done
}

# A service of this machine is asked directly, whatever http_proxy says.
http_ok() { curl --noproxy '*' -fsS -o /dev/null --max-time 5 "$@" 2>/dev/null; }

# ------------------------------------------------------------ processes

# When a process started, in ticks since the machine did: with the number this
# names one process for certain, also after the number has been used again.
started_at() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  stat=${stat##*) }
  # shellcheck disable=SC2086 # the fields are to be split
  set -- $stat
  [ "$1" != Z ] || return 1
  echo "${20}"
}

remember() { # PID_FILE PID
  local started
  started=$(started_at "$2") || return 1
  echo "$2 $started" >"$1.new" && mv "$1.new" "$1"
}

# The process of a pid file if it is still the one that we started.
our_pid() {
  local pid started now
  [ -s "$1" ] || return 0
  read -r pid started <"$1" || return 0
  now=$(started_at "$pid") || return 0
  if [ "$now" = "$started" ]; then echo "$pid"; fi
}

# launch PID_FILE LOG COMMAND...: a process of its own session, no lock inherited.
launch() {
  local pid_file=$1 log=$2
  shift 2
  setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
  local pid=$! _
  # setsid replaces itself when it need not fork; remember what it became.
  for _ in 1 2 3 4 5; do
    remember "$pid_file" "$pid" && return 0
    sleep 0.1
  done
  return 0
}

# stop_ours PID_FILE NAME SECONDS: asks first, and kills after so many seconds.
stop_ours() {
  local pid deadline=$((SECONDS + $3))
  pid=$(our_pid "$1")
  if [ -n "$pid" ]; then
    kill -TERM "$pid" 2>/dev/null || true
    while [ -n "$(our_pid "$1")" ]; do
      if [ "$SECONDS" -ge "$deadline" ]; then
        # It leads a session of its own: take its children too.
        kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
      fi
      sleep 0.1
    done
  fi
  rm -f "$1"
}

# ----------------------------------------------------------- privileges

# The user for programs that refuse to run as root.
UNPRIVILEGED=nobody

# What to put before a command to run it as that user.
UNPRIVILEGED_PREFIX=()
if [ "$(id -u)" = 0 ]; then
  UNPRIVILEGED_PREFIX=(setpriv "--reuid=$UNPRIVILEGED" "--regid=$(id -g "$UNPRIVILEGED")" --clear-groups)
fi

# A folder that the unprivileged user can reach: the wished one, or one under
# /var/tmp when, say, the repository lies in root's home.
reachable_dir() {
  local wished=$1 other
  mkdir -p "$wished"
  if "${UNPRIVILEGED_PREFIX[@]}" test -x "$wished" 2>/dev/null; then
    echo "$wished"
    return
  fi
  other=/var/tmp/fleet-services-$(printf %s "$wished" | sha256sum | cut -c1-12)
  mkdir -p "$other"
  chmod 755 "$other"
  echo "$other"
}
