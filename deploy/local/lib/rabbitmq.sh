# shellcheck shell=bash
# RabbitMQ from the distribution's package, as a node of its own.

RABBITMQ_BIN=/usr/lib/rabbitmq/bin
RABBITMQ_USER=fleet
# It listens on 127.0.0.1 alone.
RABBITMQ_PASSWORD=${FLEET_RABBITMQ_PASSWORD:-fleet}
# Room for full queues of the tests, and still well under the 4 GB of a small
# machine that runs the other services too.
RABBITMQ_MEMORY=${FLEET_RABBITMQ_MEMORY:-2GB}

rabbitmq_install() {
  [ -x "$RABBITMQ_BIN/rabbitmq-server" ] || apt_install_without_services RabbitMQ rabbitmq-server
}

# Everything by which a node, its epmd and the command-line tools find each
# other. Folder and port are in the name, so that several nodes live side by side.
rabbitmq_environment() {
  local dir=$SERVICES_DIR/rabbitmq mark
  mark=$(printf %s "$dir" | sha256sum | cut -c1-8)
  export HOME=$dir/home
  export ERL_EPMD_PORT ERL_EPMD_ADDRESS=127.0.0.1
  ERL_EPMD_PORT=$(port_of epmd)
  RABBITMQ_DIST_PORT=$(port_of distribution)
  RABBITMQ_NODENAME=fleet-$mark-$(port_of amqp)@localhost
  export RABBITMQ_DIST_PORT RABBITMQ_NODENAME
  export RABBITMQ_CTL_DIST_PORT_MIN=$((PORT_BASE + 50)) RABBITMQ_CTL_DIST_PORT_MAX=$((PORT_BASE + 69))
  export RABBITMQ_CONF_ENV_FILE=$dir/rabbitmq-env.conf
  export RABBITMQ_CONFIG_FILE=$dir/rabbitmq.conf RABBITMQ_ADVANCED_CONFIG_FILE=$dir/advanced.config
  export RABBITMQ_ENABLED_PLUGINS_FILE=$dir/enabled_plugins
  export RABBITMQ_MNESIA_BASE=$dir/data RABBITMQ_MNESIA_DIR=$dir/data/node
  export RABBITMQ_LOG_BASE=$LOG_DIR RABBITMQ_LOGS=$LOG_DIR/rabbitmq.log
  export ERL_CRASH_DUMP=$LOG_DIR/rabbitmq-crash.dump
  # Makes the start script become the node, in place of waiting for it.
  export RUNNING_UNDER_SYSTEMD=true
  export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
}

rabbitmq_configure() {
  local dir=$SERVICES_DIR/rabbitmq
  mkdir -p "$dir/home" "$dir/data"
  if [ ! -s "$dir/home/.erlang.cookie" ]; then
    (umask 277 && od -An -N20 -tx1 /dev/urandom | tr -d ' \n' >"$dir/home/.erlang.cookie")
  fi
  : >"$dir/rabbitmq-env.conf"
  echo '[].' >"$dir/advanced.config"
  echo '[rabbitmq_management].' >"$dir/enabled_plugins"
  cat >"$dir/rabbitmq.conf" <<CONF
listeners.tcp.local = 127.0.0.1:$(port_of amqp)
management.tcp.ip = 127.0.0.1
management.tcp.port = $(port_of management)
# Made when the node first starts.
default_user = $RABBITMQ_USER
default_pass = $RABBITMQ_PASSWORD
default_user_tags.administrator = true
default_permissions.configure = .*
default_permissions.read = .*
default_permissions.write = .*
loopback_users = none
vm_memory_high_watermark.absolute = $RABBITMQ_MEMORY
# The default is 50 MB; one segment file of a quorum queue is larger.
disk_free_limit.absolute = 500MB
log.file.level = info
${FLEET_RABBITMQ_SETTINGS:-}
CONF
}

rabbitmq_start() {
  local dir=$SERVICES_DIR/rabbitmq
  require_free_port "$(port_of amqp)" rabbitmq
  require_free_port "$(port_of management)" "rabbitmq's management"
  require_free_port "$(port_of distribution)" "rabbitmq's distribution"
  rabbitmq_configure
  (
    rabbitmq_environment
    cd "$dir" || exit
    if [ -z "$(our_pid "$RUN_DIR/epmd.pid")" ]; then
      require_free_port "$ERL_EPMD_PORT" "rabbitmq's epmd"
      launch "$RUN_DIR/epmd.pid" "$LOG_DIR/epmd.log" epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1
    fi
    launch "$RUN_DIR/rabbitmq.pid" "$LOG_DIR/rabbitmq-start.log" "$RABBITMQ_BIN/rabbitmq-server"
  )
}

rabbitmq_answers() {
  http_ok -u "$RABBITMQ_USER:$RABBITMQ_PASSWORD" "http://127.0.0.1:$(port_of management)/api/health/checks/virtual-hosts" &&
    port_answers "$(port_of amqp)"
}

rabbitmq_wait() {
  local log=$LOG_DIR/rabbitmq.log
  wait_until 60 "$RUN_DIR/rabbitmq.pid" rabbitmq_answers && return
  # What ends a node before it is up stands in the output of the start.
  [ -n "$(our_pid "$RUN_DIR/rabbitmq.pid")" ] || log=$LOG_DIR/rabbitmq-start.log
  die "rabbitmq does not answer" "$log" \
    "if its data is no longer wanted: $SELF wipe rabbitmq && $SELF up rabbitmq"
}

# A node closes its queues at once on SIGTERM, but its management plugin then
# waits six seconds for nothing. A restart does not wait along with it: what was
# confirmed is on disk.
rabbitmq_stop() { stop_ours "$RUN_DIR/rabbitmq.pid" rabbitmq "${RABBITMQ_STOP_SECONDS:-60}"; }

rabbitmq_stop_helpers() { stop_ours "$RUN_DIR/epmd.pid" epmd 5; }

rabbitmq_tool() {
  rabbitmq_environment
  exec "$RABBITMQ_BIN/$1" -n "$RABBITMQ_NODENAME" "${@:2}"
}
