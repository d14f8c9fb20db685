#!/usr/bin/env bash
# Start the PostgreSQL and the Redis that the tests are run with, and print where they are. Both are
# ours alone: data in a folder of their own, a socket there and a port on loopback, nothing that
# starts by itself. What runs already is left as it is.
#
#   scripts/services.sh [start]   start what is not running, and print the addresses
#   scripts/services.sh stop      stop both; the data stays
#   scripts/services.sh clear     stop both and delete the data
#
#   GATEHOUSE_SERVICES   the folder (default: /var/tmp/gatehouse-services-<uid>)
set -euo pipefail

dir=${GATEHOUSE_SERVICES:-/var/tmp/gatehouse-services-$(id -u)}

say() { printf 'services: %s\n' "$*" >&2; }
die() {
	say "$*"
	exit 1
}

# postgres prints the path of one of PostgreSQL's programs. Debian keeps them out of PATH.
postgres() {
	local at
	for at in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -Vr) $(dirname "$(command -v "$1" || echo /)"); do
		[ ! -x "$at/$1" ] || { echo "$at/$1" && return; }
	done
	return 1
}

install_packages() {
	local want=()
	postgres initdb >/dev/null || want+=(postgresql)
	command -v redis-server >/dev/null || want+=(redis-server)
	[ ${#want[@]} -gt 0 ] || return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		die "these are missing: ${want[*]}. Install them (Debian: sudo apt-get install ${want[*]}) and call this again"
	fi
	say "apt-get install ${want[*]}"
	export DEBIAN_FRONTEND=noninteractive
	# Debian starts what it installs, and makes a cluster; we asked for the programs alone.
	local policy=/usr/sbin/policy-rc.d ours= failed=
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		ours=1
	fi
	mkdir -p /etc/postgresql-common
	[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${want[@]}"; } >"$dir/apt.log" 2>&1 || failed=1
	[ -z "$ours" ] || rm -f "$policy"
	[ -z "$failed" ] || { tail -n 20 "$dir/apt.log" >&2; die "apt-get failed; the whole log is $dir/apt.log"; }
	if [ -d /run/systemd/system ]; then systemctl disable --now --quiet postgresql redis-server || true; fi
}

# as runs a program as somebody who may: PostgreSQL refuses to be run by root.
as() {
	if [ "$(id -u)" = 0 ]; then
		setpriv --reuid "$user" --regid "$group" --clear-groups env HOME="$dir" "$@"
	else
		"$@"
	fi
}

# port prints one that nobody listens on.
port() {
	local p
	for _ in $(seq 100); do
		p=$((20000 + RANDOM % 10000))
		(: <"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p" && return; }
	done
	die "no port is free"
}

running() { as "$(postgres pg_ctl)" -D "$dir/postgres" status >/dev/null 2>&1; }

start_postgres() {
	if [ ! -e "$dir/postgres/ready" ]; then
		rm -rf "$dir/postgres"
		mkdir -m 700 "$dir/postgres"
		[ "$(id -u)" != 0 ] || chown "$user:$group" "$dir/postgres"
		as "$(postgres initdb)" -D "$dir/postgres" -U gatehouse -A trust -E UTF8 --locale=C.UTF-8 >"$dir/initdb.log" 2>&1 ||
			{ tail -n 20 "$dir/initdb.log" >&2; die "initdb failed"; }
		# As it comes, fsync and all: what is tested is what people run.
		as tee -a "$dir/postgres/postgresql.conf" >/dev/null <<-END
			listen_addresses = '127.0.0.1'
			port = $(port)
			unix_socket_directories = '$dir/postgres'
			max_connections = 300
			shared_buffers = 256MB
			# Not in /dev/shm, which systemd clears when a user of that name logs out.
			dynamic_shared_memory_type = mmap
		END
		as touch "$dir/postgres/ready"
	fi
	running || as "$(postgres pg_ctl)" -D "$dir/postgres" -w -t 60 -l "$dir/postgres/log" start 9>&- >/dev/null ||
		{ tail -n 20 "$dir/postgres/log" >&2; die "PostgreSQL did not start"; }
	local at
	at=$(awk -F ' = ' '$1 == "port" { print $2 }' "$dir/postgres/postgresql.conf" | tail -n 1)
	# Databases of tests that were killed. One that is in use stays.
	as "$(postgres psql)" -h "$dir/postgres" -p "$at" -U gatehouse -d postgres -Atqc "SELECT format('DROP DATABASE IF EXISTS %I;', datname) FROM pg_database d
		WHERE datname LIKE 'gatehouse\_test\_%' AND NOT EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.datname = d.datname) AND (pg_stat_file('base/' || oid || '/PG_VERSION')).modification < now() - interval '1 hour'" |
		as "$(postgres psql)" -h "$dir/postgres" -p "$at" -U gatehouse -d postgres -q >/dev/null 2>&1 || true
	echo "postgres://gatehouse@127.0.0.1:$at/postgres?sslmode=disable" >"$dir/postgres.dsn"
}

start_redis() {
	local at
	[ -s "$dir/redis.port" ] || port >"$dir/redis.port"
	at=$(cat "$dir/redis.port")
	if ! redis-cli -p "$at" ping >/dev/null 2>&1; then
		mkdir -p "$dir/redis"
		[ "$(id -u)" != 0 ] || chown "$user:$group" "$dir/redis"
		as redis-server --bind 127.0.0.1 --port "$at" --dir "$dir/redis" --appendonly yes --daemonize yes \
			--pidfile "$dir/redis/pid" --logfile "$dir/redis/log" 9>&- >/dev/null
		for _ in $(seq 100); do
			redis-cli -p "$at" ping >/dev/null 2>&1 && break
			sleep 0.1
		done
		redis-cli -p "$at" ping >/dev/null || die "Redis did not start: see $dir/redis/log"
	fi
	echo "redis://127.0.0.1:$at" >"$dir/redis.dsn"
}

stop() {
	if [ -e "$dir/postgres/postmaster.pid" ]; then as "$(postgres pg_ctl)" -D "$dir/postgres" -w -m fast stop >/dev/null || true; fi
	if [ -s "$dir/redis.port" ]; then redis-cli -p "$(cat "$dir/redis.port")" shutdown >/dev/null 2>&1 || true; fi
	rm -f "$dir/postgres.dsn" "$dir/redis.dsn"
}

# Whom to run as.
user=nobody
! id postgres >/dev/null 2>&1 || user=postgres
group=$(id -gn "$user")

mkdir -p "$dir"
chmod 755 "$dir"
# Two calls at once take turns; the second finds the work done.
if command -v flock >/dev/null; then
	exec 9>"$dir/lock"
	flock 9
fi
case ${1:-start} in
start)
	install_packages
	! id postgres >/dev/null 2>&1 || user=postgres
	group=$(id -gn "$user")
	start_postgres
	start_redis
	echo "GATEHOUSE_TEST_POSTGRES=$(cat "$dir/postgres.dsn")"
	echo "GATEHOUSE_TEST_REDIS=$(cat "$dir/redis.dsn")"
	;;
stop) stop ;;
clear)
	stop
	rm -rf "$dir/postgres" "$dir/redis" "$dir/redis.port"
	;;
*)
	echo "usage: scripts/services.sh [start | stop | clear]" >&2
	exit 2
	;;
esac
