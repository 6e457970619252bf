package bench

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// proxy puts the server further away: what goes through it arrives later by
// delay, in each direction, as on a long line. It takes in as much as before and
// keeps the order.
type proxy struct {
	delay           time.Duration
	network, target string
	listener        net.Listener
	// line is what is under way, in the order in which it is due.
	line    chan *chunk
	taking  sync.WaitGroup
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  []net.Conn
}

// chunk is what was read at once, and when it is due where. Without data it is the
// end of what comes that way.
type chunk struct {
	due  time.Time
	to   chan<- *chunk
	size int
	data [16 << 10]byte
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// lineLength is how many chunks are on the way at most. It is far more than
// arrive within the delay, or the line would limit the throughput.
const lineLength = 4096

// newProxy listens on the loopback and passes on to the server of the DSN.
func newProxy(dsn string, delay time.Duration) (*proxy, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	p := &proxy{delay: delay, line: make(chan *chunk, lineLength)}
	p.network, p.target = pgconn.NetworkAddress(config.ConnConfig.Host, config.ConnConfig.Port)
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	alarm, err := newAlarm()
	if err != nil {
		_ = p.listener.Close()
		return nil, err
	}
	p.taking.Go(p.accept)
	p.running.Go(func() { p.carry(alarm) })
	return p, nil
}

// through is the DSN with the proxy's address instead of the server's. A DSN
// that has the server's certificate checked for its host name does not work
// through a proxy.
func (p *proxy) through(dsn string) (string, error) {
	addr := p.listener.Addr().(*net.TCPAddr)
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return fmt.Sprintf("%s host=%s port=%d", dsn, addr.IP, addr.Port), nil // the last one counts
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", err
	}
	u.Host = net.JoinHostPort(addr.IP.String(), strconv.Itoa(addr.Port))
	q := u.Query()
	q.Del("host")
	q.Del("port")
	u.RawQuery = q.Encode()
	return u.String(), nil
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // it was closed
		}
		p.taking.Go(func() { p.connect(client) })
	}
}

// connect makes the connection to the server that belongs to a client's. On an
// error the client sees its connection end.
func (p *proxy) connect(client net.Conn) {
	server, err := net.DialTimeout(p.network, p.target, connectTimeout)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_, _ = client.Close(), server.Close()
		return
	}
	p.conns = append(p.conns, client, server)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		arrived := make(chan *chunk, lineLength)
		p.taking.Go(func() { p.take(way[0], arrived) })
		p.running.Go(func() { deliver(arrived, way[0], way[1]) })
	}
}

// take reads what comes in and notes when it is due at the other end.
func (p *proxy) take(from net.Conn, to chan<- *chunk) {
	for size := 1; size > 0; {
		c := chunks.Get().(*chunk)
		size, _ = from.Read(c.data[:])
		c.size, c.to, c.due = size, to, time.Now().Add(p.delay)
		p.line <- c
	}
}

// carry brings everything to the other end when it is due. As the delay is the same
// for all, what comes first is due first.
func (p *proxy) carry(alarm *alarm) {
	defer alarm.close()
	for c := range p.line {
		alarm.sleep(time.Until(c.due))
		if c.size == 0 {
			close(c.to)
			continue
		}
		c.to <- c
	}
}

// deliver writes what has arrived. The end of one way ends the connection, after
// what was on the way.
func deliver(arrived <-chan *chunk, from, to net.Conn) {
	defer to.Close()
	for c := range arrived {
		if _, err := to.Write(c.data[:c.size]); err != nil {
			_ = from.Close() // ends the reading, and so the line
		}
		chunks.Put(c)
	}
}

// close ends every connection.
func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	again := p.closed
	p.closed = true
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.taking.Wait()
	if !again {
		close(p.line)
	}
	p.running.Wait()
}

// faraway opens a side for which the server is far away, behind a proxy of its
// own.
func faraway(open Opener) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		p, err := newProxy(site.DSN, oneWay)
		if err != nil {
			return Side{}, err
		}
		if site.DSN, err = p.through(site.DSN); err != nil {
			p.close()
			return Side{}, err
		}
		side, err := open(ctx, site)
		if err != nil {
			p.close()
			return Side{}, err
		}
		closeSide := side.Close
		side.Close = func(ctx context.Context) error {
			defer p.close()
			return closeSide(ctx)
		}
		return side, nil
	}
}
