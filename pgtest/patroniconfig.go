package pgtest

import (
	"encoding/json"
	"fmt"
)

const (
	// patroniScope is the name of the cluster, which has an etcd to itself.
	patroniScope = "pgtest"

	replicator = "replicator"
)

// object is one of JSON, which is YAML as well.
type object = map[string]any

// configuration returns the node's, for Patroni.
func (n *PatroniNode) configuration() (string, error) {
	p := n.cluster
	text, err := json.MarshalIndent(object{
		"scope":   patroniScope,
		"name":    n.name,
		"restapi": object{"listen": loopback(n.api), "connect_address": loopback(n.api)},
		"etcd3":   object{"hosts": []string{loopback(p.etcd.port)}},
		"bootstrap": object{
			"dcs":    p.dynamicConfiguration(),
			"initdb": []any{object{"encoding": "UTF8"}, object{"locale": "C"}, "data-checksums", "no-sync"},
		},
		"postgresql": object{
			"listen":          n.address(),
			"connect_address": n.address(),
			"data_dir":        n.data,
			"bin_dir":         p.site.bin,
			"pgpass":          n.data + ".pgpass",
			"use_unix_socket": true,
			"parameters":      object{"unix_socket_directories": p.site.socketDir()},
			"pg_hba":          p.access(),
			"authentication":  object{"superuser": p.login(superuser), "replication": p.login(replicator)},
			"basebackup":      []any{object{"checkpoint": "fast"}, "no-sync"},
			// It always comes back, by a new base backup if need be.
			"remove_data_directory_on_rewind_failure":     true,
			"remove_data_directory_on_diverged_timelines": true,
		},
		"watchdog": object{"mode": "off"},
	}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("pgtest: configuration of Patroni: %w", err)
	}
	return string(text), nil
}

// dynamicConfiguration is what the nodes have in common; it is kept in etcd.
func (p *Patroni) dynamicConfiguration() object {
	parameters := p.opts.settings()
	if _, asked := p.opts.Settings["full_page_writes"]; !asked {
		// pg_rewind copies pages from a server that is writing them.
		parameters["full_page_writes"] = "on"
	}
	return object{
		"loop_wait":               1,
		"ttl":                     20,
		"retry_timeout":           3,
		"maximum_lag_on_failover": 1 << 20,
		"synchronous_mode":        p.opts.SynchronousStandbys > 0,
		"synchronous_node_count":  max(1, p.opts.SynchronousStandbys),
		"postgresql":              object{"use_pg_rewind": true, "use_slots": true, "parameters": parameters},
	}
}

func (p *Patroni) login(role string) object {
	login := object{"username": role}
	if p.opts.Password != "" {
		login["password"] = p.opts.Password
	}
	return login
}

// access is pg_hba.conf: as with [Cluster], a password counts over TCP.
func (p *Patroni) access() []string {
	method := "trust"
	if p.opts.Password != "" {
		method = "scram-sha-256"
	}
	return []string{
		"local all all trust",
		"host all all 127.0.0.1/32 " + method,
		"host replication all 127.0.0.1/32 " + method,
	}
}
