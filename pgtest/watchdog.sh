# The watchdog of one cluster. $1 is the cluster's folder. Standard input is a
# pipe whose other end only the test process holds: it ends when that process
# does, however it does. Then whatever is listed in $1/run is ended, and $1
# removed. After an orderly end $1 is gone already and nothing is left to do.
trap '' HUP INT TERM QUIT PIPE TSTP
cd /
while read -r _; do :; done
dir=$1

# children PID prints the pids of the children of PID.
children() {
	if [ -r /proc/1/stat ]; then
		for stat in /proc/[0-9]*/stat; do
			{ read -r line <"$stat"; } 2>/dev/null || continue
			# The name before the last bracket may contain anything.
			line=${line##*) }
			line=${line#* }
			[ "${line%% *}" = "$1" ] || continue
			stat=${stat#/proc/}
			echo "${stat%/stat}"
		done
	else
		ps -A -o pid=,ppid= | while read -r pid parent; do
			[ "$parent" = "$1" ] && echo "$pid"
		done
	fi
}

listed() {
	for file in "$dir"/run/*; do
		case ${file##*/} in *[!0-9]*) ;; *) echo "${file##*/}" ;; esac
	done
}

# A server that Patroni started is nobody's child; its data folder, in its
# command line, is $dir/node0 or the like. The pattern comes by standard input so
# that grep does not find itself.
strays() {
	if [ -r /proc/1/stat ]; then
		for file in $(echo "$dir/node" | grep -lFs -f - /proc/[0-9]*/cmdline); do
			file=${file#/proc/}
			echo "${file%/cmdline}"
		done
	else
		ps -A -o pid=,args= | while read -r pid args; do
			case $args in *"$dir/node"*) echo "$pid" ;; esac
		done
	fi
}

alive() {
	for pid in $*; do kill -0 "$pid" 2>/dev/null && return 0; done
	return 1
}

# A postmaster that is told to quit frees its shared memory; one that was
# paused must be woken to hear it.
finish() {
	roots="$(listed) $(strays)"
	roots=${roots# }
	all=$roots
	for pid in $roots; do all="$all $(children "$pid")"; done
	[ -z "$roots" ] || kill -CONT $all 2>/dev/null
	[ -z "$roots" ] || kill -QUIT $roots 2>/dev/null
	tries=0
	while alive $all && [ $tries -lt 30 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
	for pid in $roots; do
		kill -STOP "$pid" 2>/dev/null && all="$all $(children "$pid")"
	done
	[ -z "$roots" ] || kill -KILL $all 2>/dev/null
	for file in "$dir"/*/postmaster.pid; do
		[ -r "$file" ] || continue
		set -- $(sed -n 7p "$file")
		[ $# -eq 2 ] && ipcrm -m "$2" 2>/dev/null
	done
	rm -rf "$dir"
}

# Once more if something was just being started and wrote into the folder.
rounds=0
while [ -d "$dir" ] && [ $rounds -lt 20 ]; do
	rounds=$((rounds + 1))
	finish
done
