# shellcheck shell=bash
# The same services as containers.

compose() {
  FLEET_PORT_BASE=$PORT_BASE FLEET_RABBITMQ_MEMORY=$RABBITMQ_MEMORY \
    FLEET_ELASTICSEARCH_HEAP=$ELASTICSEARCH_HEAP \
    RABBITMQ_IMAGE=$RABBITMQ_IMAGE CLICKHOUSE_IMAGE=$CLICKHOUSE_IMAGE \
    ELASTICSEARCH_IMAGE=$ELASTICSEARCH_IMAGE RABBITMQ_PASSWORD=$RABBITMQ_PASSWORD \
    AMQP_PORT=$(port_of amqp) MANAGEMENT_PORT=$(port_of management) \
    CLICKHOUSE_1_PORT=$(port_of clickhouse-1) CLICKHOUSE_2_PORT=$(port_of clickhouse-2) \
    ELASTICSEARCH_PORT=$(port_of elasticsearch) \
    docker compose -f "$ROOT/docker/compose.services.yml" -p "fleet-services-$PORT_BASE" "$@"
}

docker_usable() {
  have docker || return 1
  timeout 10 docker info >/dev/null 2>&1 || return 1
  timeout 10 docker compose version >/dev/null 2>&1 || return 1
  docker_install >/dev/null 2>&1
}

docker_install() {
  local image
  for image in "$RABBITMQ_IMAGE" "$CLICKHOUSE_IMAGE" "$ELASTICSEARCH_IMAGE"; do
    docker image inspect "$image" >/dev/null 2>&1 && continue
    say "pulling $image"
    timeout 900 docker pull -q "$image" >>"$LOG_DIR/docker.log" 2>&1 || {
      say "could not pull $image, log: $LOG_DIR/docker.log"
      return 1
    }
  done
}

docker_up() {
  require_curl
  docker_install || die "the images are not there" "$LOG_DIR/docker.log" "or run: FLEET_SERVICES=local $SELF up"
  compose up -d --wait "${NAMES[@]}" >>"$LOG_DIR/docker.log" 2>&1 ||
    die "docker compose up failed" "$LOG_DIR/docker.log" "see: $SELF logs ${NAMES[*]}"
  docker_status
}

docker_down() { compose stop "${NAMES[@]}"; }
docker_restart() {
  compose restart "${NAMES[@]}"
  docker_up
}
docker_wipe() { compose rm --stop --force --volumes "${NAMES[@]}"; }
docker_status() {
  local name failed=0
  compose ps "${NAMES[@]}"
  for name in "${NAMES[@]}"; do
    case $name in
      rabbitmq) rabbitmq_answers ;;
      *) "${name%-[12]}_answers" "$name" ;;
    esac || {
      say "$name does not answer"
      failed=1
    }
  done
  return "$failed"
}
docker_env() { print_local_env "$RABBITMQ_USER" "$RABBITMQ_PASSWORD"; }
docker_logs() { compose logs --tail 30 "$@" "${NAMES[@]}"; }
docker_rabbitmqctl() { compose exec rabbitmq rabbitmqctl "$@"; }
