package pgtest

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Options describe a cluster. The zero value is a single server with the
// defaults of the package documentation.
type Options struct {
	// BinDir is the folder of PostgreSQL's programs. Empty, the machine is
	// searched; see the package documentation.
	BinDir string

	// Dir is the folder in which the cluster makes its own. Empty, that is TMPDIR
	// if it is set, else /dev/shm if 2 GiB are free there, else /tmp.
	Dir string

	// Settings are lines of postgresql.conf for every node, by name, in place
	// of the kit's defaults. Values are written as they would be in SET, without
	// quotes: {"wal_level": "logical", "work_mem": "64MB"}. What the kit itself
	// needs (port, addresses, folders, cluster_name, logging_collector) is refused.
	Settings map[string]string

	// Standbys is the number of streaming standbys to start, 0 by default.
	// [Cluster.AddStandby] adds more.
	Standbys int

	// SynchronousStandbys is the number of standbys, any of them, that must
	// confirm a commit; 0 by default, at most Standbys.
	SynchronousStandbys int

	// Password is the password of the superuser postgres. With one, connections
	// over TCP must prove it by SCRAM-SHA-256, and it is part of [Node.DSN].
	// Empty, everybody on this machine is trusted.
	Password string
}

// ownSettings are those without which the kit would lose its servers.
var ownSettings = []string{
	"cluster_name", "config_file", "data_directory", "external_pid_file", "hba_file",
	"ident_file", "listen_addresses", "logging_collector", "port", "unix_socket_directories",
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$`)

func (o Options) validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("pgtest: Options."+format, args...))
	}
	if o.Standbys < 0 {
		bad("Standbys: %d is negative", o.Standbys)
	}
	if o.SynchronousStandbys < 0 {
		bad("SynchronousStandbys: %d is negative", o.SynchronousStandbys)
	}
	if o.Standbys >= 0 && o.SynchronousStandbys > o.Standbys {
		bad("SynchronousStandbys: %d, but there are only %d standbys, so that no commit would ever return", o.SynchronousStandbys, o.Standbys)
	}
	if strings.ContainsAny(o.Password, "\x00\r\n") {
		bad("Password: contains a line break or NUL")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Settings)) {
		switch {
		case !settingName.MatchString(name):
			bad("Settings: %q is not the name of a setting", name)
		case slices.Contains(ownSettings, strings.ToLower(name)):
			bad("Settings: %s is set by the kit", name)
		case strings.ContainsAny(o.Settings[name], "\x00\r\n"):
			bad("Settings: the value of %s contains a line break or NUL", name)
		}
	}
	return errors.Join(errs...)
}

// defaultSettings trade durability against a crash of the machine for speed.
// Slots, not wal_keep_size, let a standby lag.
var defaultSettings = map[string]string{
	"fsync":            "off",
	"full_page_writes": "off",
	"shared_buffers":   "32MB",
	"max_connections":  "200",
	"max_wal_size":     "256MB", // the folder may be in memory
	"timezone":         "UTC",
	"log_timezone":     "UTC",
	"lc_messages":      "C",
	"log_line_prefix":  "%m [%p] ",
	// A killed server cannot remove segments in /dev/shm; those that are files
	// in its folder go with the folder.
	"dynamic_shared_memory_type": "mmap",
	// A standby asks again at once for what it misses, rather than in 5 seconds.
	"wal_retrieve_retry_interval": "100ms",
}

// settings are the kit's defaults with those of the user in their place.
func (o Options) settings() map[string]string {
	settings := maps.Clone(defaultSettings)
	for name, value := range o.Settings {
		settings[strings.ToLower(name)] = value
	}
	return settings
}

// configuration returns the lines to add to postgresql.conf.
func (o Options) configuration() string {
	settings := o.settings()
	var b strings.Builder
	b.WriteString("\n# pgtest\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = %s\n", name, quoteSetting(settings[name]))
	}
	return b.String()
}

// quoteSetting quotes a value for postgresql.conf, where a backslash escapes.
func quoteSetting(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value) + "'"
}
