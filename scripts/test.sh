#!/usr/bin/env bash
# Runs every test of every module under the race detector. Arguments go to go
# test (-run, -v, -count, ...); patterns replace the default, which is everything.
#   COVER=1   also prints statement coverage, by package and in total; a line
#             counts whichever package's tests ran it. Generated code is left out.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"
scripts/setup.sh

mapfile -t patterns < <(scripts/modules.sh --patterns)
for arg in "$@"; do
	case $arg in ./* | github.com/*) patterns=() ;; esac
done
profile=$root/.build/cover.out
cover=()
if [ -n "${COVER:-}" ]; then
	mkdir -p .build
	mapfile -t all < <(scripts/modules.sh --patterns)
	cover=(-covermode=atomic -coverprofile="$profile" -coverpkg="$(IFS=,; echo "${all[*]}")")
fi

# Two packages at a time: each starts clusters of its own. Their servers have
# sessions of their own, and a watchdog that ends them with the test program.
status=0
guarded go test -race -p "${PARALLEL:-2}" -timeout 15m "${cover[@]}" "$@" "${patterns[@]}" || status=$?

[ -z "${COVER:-}" ] || scripts/coverage.sh "$profile"
exit "$status"
