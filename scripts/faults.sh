#!/usr/bin/env bash
# Runs the tests that make faults with as many of them as the promises name, where
# an ordinary run of the tests makes a few. Arguments go to go test. What they
# measured is in their logs, so no race detector slows them down here.
#   PGKEEL_FAULT_RUNS   how many faults each test makes, instead
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"
scripts/setup.sh

status=0
say 'a failover and a switchover of Patroni, 20 times each'
PGKEEL_FAULT_RUNS=${PGKEEL_FAULT_RUNS:-20} guarded go test -count=1 -v -timeout 30m -run '^TestPatroni$' "$@" . || status=$?
say 'a hundred faults of every kind'
PGKEEL_FAULT_RUNS=${PGKEEL_FAULT_RUNS:-100} guarded go test -count=1 -v -timeout 90m "$@" ./faulttests/... || status=$?
exit "$status"
