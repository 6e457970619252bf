# shellcheck shell=bash
# Sourced by every script: where the repository is, and an environment in which
# Go is found. A bare root shell or a cron job often has neither PATH nor HOME.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1

export HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
for dir in /usr/local/go/bin "$HOME/go/bin" /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
	case ":${PATH:-}:" in
	*":$dir:"*) ;;
	*) PATH=${PATH:+$PATH:}$dir ;;
	esac
done
export PATH

# A checkout that another user owns, or an export without .git, has no version
# to stamp; go would fail instead of leaving it out.
case " ${GOFLAGS:-} " in
*" -buildvcs="*) ;;
*) export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false" ;;
esac

say() { printf '==> %s\n' "$*" >&2; }
die() {
	printf '%s\n' "$*" >&2
	exit 1
}

# guarded COMMAND...: runs the command in a process group of its own and passes
# an interrupt, or the end of a CI job, to all of it. Killing go test alone, for
# one, would leave its test programs running. After the grace in seconds what is
# left of the group is killed.
guarded() {
	local status=0
	set -m
	"$@" </dev/null &
	guarded_pid=$!
	set +m
	trap guarded_stop INT TERM HUP
	wait "$guarded_pid" || status=$?
	trap - INT TERM HUP
	return "$status"
}

guarded_stop() {
	trap '' INT TERM HUP
	kill -INT -- "-$guarded_pid" 2>/dev/null || true
	local tenths=$((${grace:-10} * 10))
	while [ $((tenths--)) -gt 0 ] && kill -0 -- "-$guarded_pid" 2>/dev/null; do sleep 0.1; done
	kill -KILL -- "-$guarded_pid" 2>/dev/null || true
	wait "$guarded_pid" 2>/dev/null || true
	exit 130
}
