# shellcheck shell=bash
# Elasticsearch from Maven Central, run by a user without privileges.

ELASTICSEARCH_HEAP=${FLEET_ELASTICSEARCH_HEAP:-1g}

elasticsearch_home() { echo "$(reachable_dir "$CACHE_DIR")/elasticsearch-$ELASTICSEARCH_VERSION"; }
elasticsearch_dir() {
  local dir
  dir=$(reachable_dir "$SERVICES_DIR")
  echo "$dir/elasticsearch"
}

elasticsearch_install() {
  local home unpacked log=$LOG_DIR/install.log
  require_java
  home=$(elasticsearch_home)
  [ ! -e "$home/complete" ] || return 0
  say "installing Elasticsearch $ELASTICSEARCH_VERSION, about 110 MB to fetch (log: $log)"
  fetch_maven "$ELASTICSEARCH_ARTIFACT" "$CACHE_DIR/download"
  require_python
  unpacked=$home.unpacking
  rm -rf "$home" "$unpacked"
  step "$log" "unpacking Elasticsearch" "is the disk full?" "$PYTHON" -m zipfile -e \
    "$CACHE_DIR/download/elasticsearch-$ELASTICSEARCH_VERSION.zip" "$unpacked"
  mv "$unpacked/elasticsearch-$ELASTICSEARCH_VERSION" "$home"
  rmdir "$unpacked"
  rm -f "$CACHE_DIR/download/elasticsearch-$ELASTICSEARCH_VERSION.zip"
  chmod -R a+rX "$home"
  chmod a+x "$home"/bin/*
  touch "$home/complete"
}

elasticsearch_configure() {
  local dir
  dir=$(elasticsearch_dir)
  mkdir -p "$dir/config" "$dir/data" "$dir/tmp" "$dir/log"
  cp "$(elasticsearch_home)/config/log4j2.properties" "$dir/config/"
  cat >"$dir/config/elasticsearch.yml" <<CONF
cluster.name: fleet-local
node.name: fleet-local
network.host: 127.0.0.1
http.port: $(port_of elasticsearch)
transport.port: $(port_of transport)
discovery.type: single-node
xpack.security.enabled: false
# An index must come from a configuration, not from a misspelt name.
action.auto_create_index: false
# The share of a disk that is full says nothing about a development machine.
cluster.routing.allocation.disk.threshold_enabled: false
path.data: $dir/data
path.logs: $dir/log
${FLEET_ELASTICSEARCH_SETTINGS:-}
CONF
  # No log of garbage collections: it would go below the installation.
  cat >"$dir/config/jvm.options" <<CONF
-Xms$ELASTICSEARCH_HEAP
-Xmx$ELASTICSEARCH_HEAP
-XX:+UseG1GC
-Djava.io.tmpdir=$dir/tmp
-XX:-HeapDumpOnOutOfMemoryError
-XX:+ExitOnOutOfMemoryError
-XX:ErrorFile=$dir/log/hs_err_pid%p.log
CONF
  if [ "$(id -u)" = 0 ]; then chown -R "$UNPRIVILEGED:" "$dir"; fi
}

elasticsearch_start() {
  local dir
  require_java
  require_free_port "$(port_of elasticsearch)" elasticsearch
  require_free_port "$(port_of transport)" "elasticsearch's transport"
  elasticsearch_configure
  dir=$(elasticsearch_dir)
  (
    cd "$dir" || exit
    export ES_JAVA_HOME=$JAVA_HOME_FOUND ES_PATH_CONF=$dir/config ES_TMPDIR=$dir/tmp HOME=$dir
    unset ES_JAVA_OPTS JAVA_HOME
    launch "$RUN_DIR/elasticsearch.pid" "$LOG_DIR/elasticsearch.log" \
      "${UNPRIVILEGED_PREFIX[@]}" "$(elasticsearch_home)/bin/elasticsearch"
  )
}

elasticsearch_answers() {
  http_ok "http://127.0.0.1:$(port_of elasticsearch)/_cluster/health?wait_for_status=yellow&timeout=1s"
}

elasticsearch_wait() {
  wait_until 120 "$RUN_DIR/elasticsearch.pid" elasticsearch_answers || die "elasticsearch does not answer" \
    "$LOG_DIR/elasticsearch.log" "if its data is no longer wanted: $SELF wipe elasticsearch && $SELF up elasticsearch"
}

elasticsearch_stop() { stop_ours "$RUN_DIR/elasticsearch.pid" elasticsearch 60; }
