#!/usr/bin/env bash
# Runs go generate over every module, with the pinned mockgen on PATH.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

PATH=$(dirname "$(scripts/tools.sh mockgen)"):$PATH
export PATH
mapfile -t patterns < <(scripts/modules.sh --patterns)
go generate "${patterns[@]}"
