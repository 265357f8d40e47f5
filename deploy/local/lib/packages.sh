# shellcheck shell=bash
# Installs what is missing, and nothing else.

require_apt() {
  have apt-get || die "$1 is missing, and this is neither Debian nor Ubuntu" "" \
    "install $1 yourself, or use FLEET_SERVICES=docker or external"
}

apt_updated=""

# apt_install WHAT PACKAGE...
apt_install() {
  local what=$1 log=$LOG_DIR/install.log
  shift
  require_apt "$what"
  say "installing $* (log: $log)"
  apt_update
  step "$log" "apt-get install $*" "read the log, then run: $SELF install" \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

apt_update() {
  [ -z "$apt_updated" ] || return 0
  step "$LOG_DIR/install.log" "apt-get update" "check the network and /etc/apt/sources.list" \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
  apt_updated=yes
}

# Debian starts and enables the services of a new package. Ours run as nodes of
# their own, so the system's stay stopped: a policy denies the start during the
# installation, and what the packages enabled is disabled again.
apt_install_without_services() {
  local policy=/usr/sbin/policy-rc.d saved="" unit before
  before=$(enabled_units)
  if [ -e "$policy" ]; then
    saved=$(mktemp)
    as_root cp -p "$policy" "$saved"
  fi
  restore_policy() {
    if [ -n "$saved" ]; then
      as_root cp -p "$saved" "$policy"
      rm -f "$saved"
    else
      as_root rm -f "$policy"
    fi
    trap - EXIT
  }
  trap restore_policy EXIT
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
  apt_install "$@"
  restore_policy
  comm -13 <(echo "$before") <(enabled_units) | while read -r unit; do
    disable_unit "$unit" >>"$LOG_DIR/install.log" 2>&1 || true
  done
}

# Containers often have the links but not the tool.
disable_unit() {
  if have systemctl; then
    as_root systemctl disable "$1"
  else
    as_root find /etc/systemd/system -mindepth 2 -type l -name "$1" -delete
    as_root update-rc.d "${1%.*}" disable
  fi
}

enabled_units() {
  find /etc/systemd/system -mindepth 2 -type l -path '*.wants/*' -printf '%f\n' 2>/dev/null | sort -u
}

require_curl() { have curl || apt_install curl curl ca-certificates; }

require_java() {
  JAVA_HOME_FOUND=$(java_home)
  if [ -z "$JAVA_HOME_FOUND" ]; then
    require_apt "Java $JAVA_MINIMUM"
    apt_update
    apt_install "Java $JAVA_MINIMUM" "$(java_package)"
    JAVA_HOME_FOUND=$(java_home)
    [ -n "$JAVA_HOME_FOUND" ] || die "no Java $JAVA_MINIMUM or newer was found" "" \
      "install one and set JAVA_HOME"
  fi
}

# Each release of a distribution carries some of these.
java_package() {
  local package
  for package in openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless; do
    if apt-cache show "$package" >/dev/null 2>&1; then break; fi
  done
  echo "$package"
}

java_home() {
  local home java major
  for home in "${JAVA_HOME:-}" "$(readlink -f "$(command -v java || true)" 2>/dev/null | sed 's,/bin/java$,,')" \
    /usr/lib/jvm/*; do
    java=$home/bin/java
    if [ -z "$home" ] || [ ! -x "$java" ]; then continue; fi
    major=$("$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
    if [ "${major:-0}" -ge "$JAVA_MINIMUM" ]; then
      echo "$home"
      return
    fi
  done
}

require_maven() {
  require_java
  have mvn || apt_install mvn maven
}

# fetch_maven ARTIFACT FOLDER: one artifact without what it depends on.
fetch_maven() {
  local log=$LOG_DIR/install.log
  require_maven
  mkdir -p "$2"
  step "$log" "fetching $1 from Maven Central" "check the network or Maven's settings, then try again" \
    env JAVA_HOME="$JAVA_HOME_FOUND" mvn -q -B \
    "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN_VERSION:get" \
    -Dtransitive=false "-Dartifact=$1"
  step "$log" "copying $1" "read the log" \
    env JAVA_HOME="$JAVA_HOME_FOUND" mvn -q -B \
    "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN_VERSION:copy" \
    "-Dartifact=$1" "-DoutputDirectory=$2"
}

# A Python that can make virtual environments; the system's own first, because a
# shim of a version manager may vanish under an environment.
require_python() {
  PYTHON=$(find_python)
  if [ -z "$PYTHON" ]; then
    apt_install "Python 3 with venv" python3 python3-venv
    PYTHON=$(find_python)
    [ -n "$PYTHON" ] || die "no Python 3.10 or newer with venv was found" "" "install python3-venv"
  fi
}

find_python() {
  local candidate
  for candidate in /usr/bin/python3 "$(command -v python3 || true)"; do
    if [ -x "$candidate" ] && "$candidate" -c \
      'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}
