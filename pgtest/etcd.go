package pgtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// etcd is the store in which the nodes of a [Patroni] agree.
type etcd struct {
	program string
	log     string
	port    int
	proc    *process // nil before the start and after the end
}

func (e *etcd) url() string { return "http://" + loopback(e.port) }

// start starts it in the site and returns when it answers.
func (e *etcd) start(ctx context.Context, s *site) error {
	peer, err := freePort()
	if err != nil {
		return err
	}
	if e.port, err = freePort(); err != nil {
		return err
	}
	peers, dir := "http://"+loopback(peer), filepath.Join(s.dir, "etcd")
	e.log = dir + ".log"
	if err := s.makeDir(dir); err != nil {
		return err
	}
	e.proc, err = s.spawn(e.log, e.program, "--name", "etcd", "--data-dir", dir, "--logger", "zap",
		"--listen-client-urls", e.url(), "--advertise-client-urls", e.url(),
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "etcd="+peers)
	if err != nil {
		return err
	}
	err = poll(ctx, "the start of etcd", func() (bool, error) {
		if e.proc.exited() {
			return false, errors.New("pgtest: etcd does not start")
		}
		return callJSON(ctx, "GET", e.url()+"/health", nil, nil) == nil, nil
	})
	if err != nil {
		return startError(err, readLog(e.log))
	}
	return nil
}

// revoke ends the lease of a key.
func (e *etcd) revoke(ctx context.Context, key string) error {
	// Its JSON has bytes in base64, as a []byte is here, and numbers of 64 bits as text.
	var found struct{ KVs []struct{ Lease string } }
	if err := callJSON(ctx, "POST", e.url()+"/v3/kv/range", map[string][]byte{"key": []byte(key)}, &found); err != nil {
		return fmt.Errorf("pgtest: etcd: %w", err)
	}
	if len(found.KVs) == 0 || found.KVs[0].Lease == "" {
		return errNoLeader
	}
	if err := callJSON(ctx, "POST", e.url()+"/v3/lease/revoke", map[string]string{"ID": found.KVs[0].Lease}, nil); err != nil {
		return fmt.Errorf("pgtest: etcd: %w", err)
	}
	return nil
}

func (e *etcd) end() {
	if e.proc != nil {
		e.proc.kill(nil)
		e.proc = nil
	}
}
