# shellcheck shell=bash
# ClickHouse: the engine from PyPI behind its HTTP interface, one process a shard.

clickhouse_install() {
  local venv log=$LOG_DIR/install.log wanted
  venv=$(clickhouse_venv)
  wanted="$CHDB_CORE_VERSION $PYTHON_LZ4_VERSION $PYTHON_ZSTANDARD_VERSION $PYTHON_CITYHASH_VERSION"
  [ "$(cat "$venv/complete" 2>/dev/null || true)" != "$wanted" ] || return 0
  require_python
  say "installing ClickHouse's engine, about 600 MB (log: $log)"
  rm -rf "$venv"
  step "$log" "making a virtual environment" "install python3-venv" "$PYTHON" -m venv "$venv"
  step "$log" "pip install chdb-core" "check the network or pip's index, then run: $SELF install" \
    "$venv/bin/pip" install --quiet --no-deps --disable-pip-version-check \
    "chdb-core==$CHDB_CORE_VERSION" "lz4==$PYTHON_LZ4_VERSION" \
    "zstandard==$PYTHON_ZSTANDARD_VERSION" "clickhouse-cityhash==$PYTHON_CITYHASH_VERSION"
  echo "$wanted" >"$venv/complete"
}

clickhouse_venv() { echo "$CACHE_DIR/clickhouse-$CHDB_CORE_VERSION"; }

clickhouse_start() {
  local name=$1 port
  port=$(port_of "$name")
  require_free_port "$port" "$name"
  mkdir -p "$SERVICES_DIR/$name"
  launch "$RUN_DIR/$name.pid" "$LOG_DIR/$name.log" env PYTHONDONTWRITEBYTECODE=1 \
    "$(clickhouse_venv)/bin/python" "$HERE/clickhouse_http.py" \
    --port "$port" --data "$SERVICES_DIR/$name/data"
}

clickhouse_answers() { http_ok "http://127.0.0.1:$(port_of "$1")/?query=SELECT+1"; }

clickhouse_wait() {
  wait_until 60 "$RUN_DIR/$1.pid" clickhouse_answers "$1" || die "$1 does not answer" \
    "$LOG_DIR/$1.log" "if its data is no longer wanted: $SELF wipe $1 && $SELF up $1"
}

clickhouse_stop() { stop_ours "$RUN_DIR/$1.pid" "$1" 30; }
