package vantage_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gatehouse/internal/finding"
	"gatehouse/internal/ollama/ollamatest"
	"gatehouse/internal/vantage"
)

const token = "gv_token"

// dialed records where a vantage would connect to, and refuses.
type dialed struct {
	mu    sync.Mutex
	to    []netip.AddrPort
	dials func(netip.AddrPort) (net.Conn, error)
}

func (d *dialed) dial(_ context.Context, ap netip.AddrPort) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to = append(d.to, ap)
	if d.dials != nil {
		return d.dials(ap)
	}
	return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
}

// ask puts a question to s as if from peer.
func ask(s *vantage.Server, peer, authorization, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr = peer
	r.Header.Set("Authorization", authorization)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// TestOnlyTheAsker: whatever a question says, connections go to the address that
// it came from, and to the ports that it names.
func TestOnlyTheAsker(t *testing.T) {
	for _, c := range []struct {
		peer, body string
		header     []string
		want       []string
	}{
		{"203.0.113.7:5000", `{}`, nil, []string{"203.0.113.7:11434"}},
		{"203.0.113.7:5000", `{"ports":[8080,11434,8080]}`, nil, []string{"203.0.113.7:11434", "203.0.113.7:8080"}},
		{"[::ffff:203.0.113.7]:5000", `{}`, nil, []string{"203.0.113.7:11434"}},
		{"[2001:db8::7]:5000", `{}`, nil, []string{"[2001:db8::7]:11434"}},
		{"[fe80::7%eth0]:5000", `{}`, nil, []string{"[fe80::7%eth0]:11434"}},
		{"203.0.113.7:5000", `{}`, []string{
			"X-Forwarded-For", "198.51.100.1", "Forwarded", "for=198.51.100.1", "X-Real-Ip", "198.51.100.1", "Host", "198.51.100.1",
		}, []string{"203.0.113.7:11434"}},
	} {
		d := new(dialed)
		s := &vantage.Server{Token: sha256.Sum256([]byte(token)), Dial: d.dial, UserAgent: "test"}
		w := ask(s, c.peer, "Bearer "+token, "POST", vantage.Path, c.body, c.header...)
		if w.Code != 200 {
			t.Errorf("%s %s: %d %s", c.peer, c.body, w.Code, w.Body)
			continue
		}
		var got []string
		for _, ap := range d.to {
			got = append(got, ap.String())
		}
		slices.Sort(got)
		if !slices.Equal(slices.Compact(got), c.want) {
			t.Errorf("%s %s %q: dialed %q, want %q", c.peer, c.body, c.header, got, c.want)
		}
		var a vantage.Answer
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || a.Ports[0].Outcome != finding.Refused {
			t.Errorf("%s: %s %v", c.peer, w.Body, err)
		}
	}
}

// TestNobodyElse: without the token, and with a question that is none, nothing
// is dialed.
func TestNobodyElse(t *testing.T) {
	d := new(dialed)
	s := &vantage.Server{Token: sha256.Sum256([]byte(token)), Dial: d.dial}
	good := "Bearer " + token
	for i, c := range []struct {
		authorization, method, path, body string
		want                              int
	}{
		{"", "POST", vantage.Path, `{}`, 401},
		{"Bearer ", "POST", vantage.Path, `{}`, 401},
		{"Bearer gv_other", "POST", vantage.Path, `{}`, 401},
		{"Basic " + token, "POST", vantage.Path, `{}`, 401},
		{token, "POST", vantage.Path, `{}`, 401},
		{"", "GET", "/", "", 401},
		{good, "GET", vantage.Path, `{}`, 404},
		{good, "POST", "/", `{}`, 404},
		{good, "POST", vantage.Path + "/x", `{}`, 404},
		{good, "CONNECT", vantage.Path, ``, 404},
		{good, "POST", vantage.Path, ``, 400},
		{good, "POST", vantage.Path, `null null`, 400},
		{good, "POST", vantage.Path, `{"address":"198.51.100.1"}`, 400},
		{good, "POST", vantage.Path, `{"ports":[0]}`, 400},
		{good, "POST", vantage.Path, `{"ports":[65536]}`, 400},
		{good, "POST", vantage.Path, `{"ports":[-1]}`, 400},
		{good, "POST", vantage.Path, `{"ports":["198.51.100.1:80"]}`, 400},
		{good, "POST", vantage.Path, `{"ports":[1,2,3,4,5,6,7,8,9]}`, 400},
		{good, "POST", vantage.Path, `{"ports":[` + strings.Repeat("1,", 4096) + `1]}`, 400},
		{good, "POST", vantage.Path, strings.Repeat("[", 4000), 400},
	} {
		peer := fmt.Sprintf("203.0.113.%d:5000", i) // each with a rate of its own
		if w := ask(s, peer, c.authorization, c.method, c.path, c.body); w.Code != c.want {
			t.Errorf("%q %s %s %.60s: %d %s, want %d", c.authorization, c.method, c.path, c.body, w.Code, w.Body, c.want)
		}
	}
	if w := ask(s, "nonsense", good, "POST", vantage.Path, `{}`); w.Code != 400 {
		t.Errorf("a caller without an address: %d", w.Code)
	}
	if w := ask(&vantage.Server{Dial: d.dial}, "203.0.113.1:1", "Bearer ", "POST", vantage.Path, `{}`); w.Code != 401 {
		t.Errorf("a vantage without a token: %d", w.Code)
	}
	if len(d.to) > 0 {
		t.Errorf("dialed %v", d.to)
	}
}

// TestRate: an address, or an IPv6 /64, has its looks counted, guesses of the
// token among them; another is not held up by that.
func TestRate(t *testing.T) {
	d := new(dialed)
	s := &vantage.Server{Token: sha256.Sum256([]byte(token)), Dial: d.dial}
	last := 0
	for i := range 20 {
		last = ask(s, fmt.Sprintf("[2001:db8::%x]:5000", i), "Bearer guess", "POST", vantage.Path, `{}`).Code
	}
	if last != 429 {
		t.Errorf("the twentieth guess of one network: %d", last)
	}
	if w := ask(s, "[2001:db8:0:1::1]:5000", "Bearer "+token, "POST", vantage.Path, `{}`); w.Code != 200 {
		t.Errorf("another network: %d", w.Code)
	}
}

// TestManyAsk: at most so many looks are under way, whoever asks.
func TestManyAsk(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	s := &vantage.Server{Token: sha256.Sum256([]byte(token)), Dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
		begun <- struct{}{}
		<-end
		return nil, errors.New("closed")
	}}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() { ask(s, fmt.Sprintf("203.0.113.%d:1", i), "Bearer "+token, "POST", vantage.Path, `{}`) })
		<-begun
	}
	if w := ask(s, "203.0.113.200:1", "Bearer "+token, "POST", vantage.Path, `{}`); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("one too many: %d", w.Code)
	}
	go func() {
		for range begun { // whatever the probes try again
		}
	}()
	close(end)
	wg.Wait()
	close(begun)
}

// TestSees: over TLS, and from a real connection, an Ollama is seen.
func TestSees(t *testing.T) {
	street, err := ollamatest.One(ollamatest.Ollama{}.Server("box"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(street.Close)
	port := street.Houses[0].Addr.Port()
	s := &vantage.Server{Token: sha256.Sum256([]byte(token)), UserAgent: "test"}
	srv := httptest.NewTLSServer(s)
	t.Cleanup(srv.Close)
	config := srv.Client().Transport.(*http.Transport).TLSClientConfig
	hostport := srv.Listener.Addr().String()
	a, err := vantage.Ask(t.Context(), "tcp4", hostport, token, config, []uint16{port})
	if err != nil || a.Address != netip.MustParseAddr("127.0.0.1") || len(a.Ports) != 1 || a.Ports[0].Outcome != finding.Open {
		t.Errorf("seen: %+v %v", a, err)
	}
	if _, err := vantage.Ask(t.Context(), "tcp6", hostport, token, config, nil); err == nil {
		t.Error("asked an IPv4 address by IPv6")
	}
	if _, err := vantage.Ask(t.Context(), "tcp4", hostport, "wrong", config, nil); err == nil || !strings.Contains(err.Error(), "not this vantage's token") {
		t.Errorf("with a wrong token: %v", err)
	}
	if harm := street.Harm(); len(harm) > 0 {
		t.Errorf("the look did more than read: %q", harm)
	}
}

// FuzzQuestion: whatever is asked, connections go to the asker and are few.
func FuzzQuestion(f *testing.F) {
	for _, seed := range []string{``, `{}`, `{"ports":[]}`, `{"ports":[11434,80]}`, `{"ports":null}`, `{"ports":[1e3]}`, `{"address":"::1"}`, `[`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		d := new(dialed)
		s := &vantage.Server{Token: sha256.Sum256([]byte(token)), Dial: d.dial}
		w := ask(s, "203.0.113.7:5000", "Bearer "+token, "POST", vantage.Path, body)
		ports := make(map[uint16]bool)
		for _, ap := range d.to {
			ports[ap.Port()] = true
			if ap.Addr() != netip.MustParseAddr("203.0.113.7") || ap.Port() == 0 {
				t.Errorf("%q: dialed %s", body, ap)
			}
		}
		if len(ports) > vantage.MaxPorts || (w.Code == 200) != (len(ports) > 0) || w.Code != 200 && w.Code != 400 {
			t.Errorf("%q: %d, dialed %d ports", body, w.Code, len(ports))
		}
	})
}
