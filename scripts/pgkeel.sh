#!/usr/bin/env bash
# Builds the command and becomes it, so that a signal reaches the command itself.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"
scripts/setup.sh

mkdir -p .build
go build -o .build/pgkeel ./cmd/pgkeel
exec .build/pgkeel "$@"
