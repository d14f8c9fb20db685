package upstream

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"gatehouse/internal/ollama"
)

// Bypass looks for ways around the gate. The zero Bypass dials.
type Bypass struct {
	Dial func(context.Context, netip.AddrPort) (net.Conn, error)
}

// bypassTime bounds one request to one address.
const bypassTime = time.Second

// Find returns those of the addresses, which are this machine's own, on which
// an Ollama answers a request for its banner or its version at port.
func (b Bypass) Find(ctx context.Context, addrs []netip.Addr, port uint16) []netip.Addr {
	found := make([]bool, len(addrs))
	var wg sync.WaitGroup
	for i, a := range addrs {
		wg.Go(func() { found[i] = b.answers(ctx, netip.AddrPortFrom(a, port)) })
	}
	wg.Wait()
	var list []netip.Addr
	for i, a := range addrs {
		if found[i] {
			list = append(list, a)
		}
	}
	return list
}

// answers reports whether an Ollama answers to the one Host that each of them
// takes.
func (b Bypass) answers(ctx context.Context, at netip.AddrPort) bool {
	dial := b.Dial
	if dial == nil {
		dial = func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", at.String())
		}
	}
	for _, path := range []string{"/api/version", "/"} {
		is, err := ask(ctx, dial, at, path)
		if is || err != nil {
			return is
		}
	}
	return false
}

// ask asks for one path, and fails when there is nobody to ask.
func ask(ctx context.Context, dial func(context.Context, netip.AddrPort) (net.Conn, error), at netip.AddrPort, path string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, bypassTime)
	defer cancel()
	conn, err := dial(ctx, at)
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if stop() {
			_ = conn.Close()
		}
	}()
	return isOllama(conn, path), nil
}

func isOllama(conn net.Conn, path string) bool {
	if _, err := conn.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")); err != nil {
		return false
	}
	limited := http.MaxBytesReader(nil, conn, 64<<10)
	resp, err := http.ReadResponse(bufio.NewReader(limited), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		return false
	}
	defer resp.Body.Close()
	var body strings.Builder
	if _, err := bufio.NewReader(http.MaxBytesReader(nil, resp.Body, 4096)).WriteTo(&body); err != nil {
		return false
	}
	if path == "/" {
		return body.String() == ollama.Banner
	}
	_, err = ollama.ParseVersion([]byte(body.String()))
	return err == nil
}
