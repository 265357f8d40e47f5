# shellcheck shell=bash
# Services that run elsewhere: their addresses come from the variables that
# `env` prints otherwise.

external_up() { external_status; }
external_install() { require_curl; }
external_down() { say "external services are left alone"; }
external_restart() { die "external services cannot be restarted from here"; }
external_wipe() { die "external services cannot be wiped from here"; }
external_rabbitmqctl() { die "use rabbitmqctl where the broker runs"; }

external_env() {
  local name values=()
  for name in "${VARIABLES[@]}"; do values+=("$(external_value "$name")"); done
  print_variables "${values[@]}"
}

external_value() {
  [ -n "${!1:-}" ] || die "$1 is not set" "" "FLEET_SERVICES=external needs: ${VARIABLES[*]}"
  echo "${!1}"
}

external_status() {
  local failed=0 url host
  host=$(external_value FLEET__BROKER__URL)
  host=${host#*://}
  host=${host##*@}
  host=${host%%/*}
  report_external rabbitmq "$host" tcp_answers "$host" || failed=1
  for url in $(external_value FLEET__SOURCE__CLUSTER | tr ',|' '  ') \
    $(external_value FLEET__CLICKHOUSE__CLUSTER | tr ',|' '  '); do
    report_external clickhouse "$url" http_ok "$url/ping" || failed=1
  done
  for url in $(external_value FLEET__ELASTICSEARCH__URLS | tr ',' ' '); do
    report_external elasticsearch "$url" http_ok "$url/_cluster/health" || failed=1
  done
  return "$failed"
}

tcp_answers() {
  local host=${1%:*} port=${1##*:}
  [ "$host" != "$1" ] || port=5672
  timeout 5 bash -c "exec 3<>/dev/tcp/$host/$port" 2>/dev/null
}

report_external() {
  local name=$1 address=$2 state="answers"
  shift 2
  "$@" || state="does not answer"
  printf '%-14s %-28s %s\n' "$name" "${address##*@}" "$state"
  [ "$state" = answers ]
}
