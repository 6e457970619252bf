package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// The types of records that the server knows.
const (
	typeA    = 1
	typeAAAA = 28
	typeSRV  = 33
)

// nameServer is a DNS server on a socket, with records that can be changed.
type nameServer struct {
	conn net.PacketConn
	done chan struct{}

	mu      sync.Mutex
	records map[string][][]byte // by type and name
	broken  bool
}

func newNameServer(t *testing.T) (*nameServer, *net.Resolver) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn, done: make(chan struct{}), records: map[string][][]byte{}}
	go s.serve()
	t.Cleanup(func() { _ = conn.Close(); <-s.done })
	return s, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func recordKey(kind uint16, name string) string {
	return string(binary.BigEndian.AppendUint16(nil, kind)) + strings.ToLower(name)
}

// set replaces all records.
func (s *nameServer) set(records ...map[string][][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records, s.broken = map[string][][]byte{}, false
	for _, r := range records {
		maps.Copy(s.records, r)
	}
}

func (s *nameServer) breakDown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
}

// hostRecords are the addresses of a name.
func hostRecords(name string, addresses ...string) map[string][][]byte {
	records := map[string][][]byte{}
	for _, a := range addresses {
		ip := netip.MustParseAddr(a)
		kind := uint16(typeA)
		if ip.Is6() {
			kind = typeAAAA
		}
		key := recordKey(kind, name)
		records[key] = append(records[key], ip.AsSlice())
	}
	return records
}

type target struct {
	name                   string
	port, weight, priority uint16
}

func serviceRecords(name string, targets ...target) map[string][][]byte {
	var data [][]byte
	for _, to := range targets {
		d := binary.BigEndian.AppendUint16(nil, to.priority)
		d = binary.BigEndian.AppendUint16(d, to.weight)
		d = binary.BigEndian.AppendUint16(d, to.port)
		data = append(data, appendName(d, to.name))
	}
	return map[string][][]byte{recordKey(typeSRV, name): data}
}

func appendName(b []byte, name string) []byte {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label != "" {
			b = append(append(b, byte(len(label))), label...)
		}
	}
	return append(b, 0)
}

func (s *nameServer) serve() {
	defer close(s.done)
	buf := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && n > 12 {
			_, _ = s.conn.WriteTo(s.answer(buf[:n]), from)
		}
	}
}

// answer is the answer to a question, in the format of RFC 1035.
func (s *nameServer) answer(question []byte) []byte {
	end, labels := 12, []string{}
	for question[end] != 0 {
		length := int(question[end])
		labels = append(labels, string(question[end+1:end+1+length]))
		end += 1 + length
	}
	end++
	kind, name := binary.BigEndian.Uint16(question[end:]), strings.Join(labels, ".")
	s.mu.Lock()
	defer s.mu.Unlock()
	data, code := s.records[recordKey(kind, name)], 0
	known := false
	for key := range s.records {
		known = known || key[2:] == strings.ToLower(name)
	}
	if s.broken {
		data, code = nil, 2 // SERVFAIL
	} else if !known {
		code = 3 // NXDOMAIN
	}
	b := append([]byte{}, question[:2]...)
	b = append(b, 0x85, 0x80|byte(code), 0, 1, 0, byte(len(data)), 0, 0, 0, 0)
	b = append(b, question[12:end+4]...)
	for _, d := range data {
		b = append(b, 0xc0, 12) // the name of the question
		b = binary.BigEndian.AppendUint16(b, kind)
		b = append(b, 0, 1, 0, 0, 0, 0)
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(d))), d...)
	}
	return b
}

func TestDNSAddresses(t *testing.T) {
	s, r := newNameServer(t)
	const name = "standbys.db.test"
	s.set(hostRecords(name, "10.0.0.2", "10.0.0.1", "2001:db8::1"))
	d, withPort := DNS(name, r), DNS(name+":5433", r)
	wantHosts(t, d, "10.0.0.1 10.0.0.2 2001:db8::1")
	wantHosts(t, withPort, "10.0.0.1:5433 10.0.0.2:5433 [2001:db8::1]:5433")
	// Each time afresh.
	s.set(hostRecords(name, "10.0.0.3"))
	wantHosts(t, d, "10.0.0.3")
	wantHosts(t, DNS("10.0.0.9:1", r), "10.0.0.9:1")
}

func TestDNSServices(t *testing.T) {
	s, r := newNameServer(t)
	const name = "_postgresql._tcp.db.test"
	d := DNS(name, r)
	s.set(serviceRecords(name, target{"b.db.test", 5433, 3, 2}, target{"a.db.test", 5432, 0, 1}))
	wantHosts(t, d, "a.db.test:5432 b.db.test:5433( 3)")
	s.set(serviceRecords(name, target{"c.db.test.", 1, 0, 0}))
	wantHosts(t, d, "c.db.test:1")
	s.set(serviceRecords(name, target{".", 1, 0, 0}))
	if hosts, err := d.Discover(t.Context(), nil); len(hosts) > 0 || err == nil {
		t.Errorf("a service that there is not: %v, %v", hosts, err)
	}
}

func TestDNSThatFails(t *testing.T) {
	s, r := newNameServer(t)
	for _, name := range []string{"standbys.db.test", "_postgresql._tcp.db.test"} {
		d := DNS(name, r)
		s.set()
		hosts, err := d.Discover(t.Context(), nil)
		var fault *net.DNSError
		if len(hosts) > 0 || !errors.As(err, &fault) || !fault.IsNotFound || !strings.HasPrefix(err.Error(), "pgkeel: cluster: ") {
			t.Errorf("%s: %v, %v", name, hosts, err)
		}
		s.breakDown()
		if hosts, err := d.Discover(t.Context(), nil); len(hosts) > 0 || !errors.As(err, &fault) || fault.IsNotFound {
			t.Errorf("%s: %v, %v", name, hosts, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.Discover(ended, nil); err == nil {
			t.Errorf("%s: found in no time", name)
		}
	}
}
