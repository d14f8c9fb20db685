package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/connect"
	"gatehouse/internal/harden"
	"gatehouse/internal/ollama/ollamatest"
	"gatehouse/internal/vantage"
)

// TestVantageUsage holds mistakes to their message, hint and exit code.
func TestVantageUsage(t *testing.T) {
	dir := t.TempDir()
	open, odd := filepath.Join(dir, "open"), filepath.Join(dir, "odd")
	for name, mode := range map[string]os.FileMode{open: 0o644, odd: 0o600} {
		if err := os.WriteFile(name, []byte("gv_x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	good := filepath.Join(dir, "good")
	if err := os.WriteFile(good, []byte("gv_y@SHA256:"+strings.Repeat("A", 43)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad")
	if err := os.MkdirAll(filepath.Join(bad, "vantage"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bad, "vantage", "token.sha256"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, wrong, hint string }{
		{"vantage --listen 7443", "not an address with a port", "such as --listen :7443"},
		{"vantage --listen 127.0.0.1:0 --state-dir /dev/null", "state folder", "--state-dir"},
		{"vantage --listen 127.0.0.1:0 --state-dir " + bad, "holds no hash", "--new-token"},
		{"check --from there.example", "not a host with a port", "such as --from there.example:7443"},
		{"check --from :7443", "not a host with a port", "such as --from there.example:7443"},
		{"check --from there.example:7443", "--from without a token", "--from-token"},
		{"harden --from there.example:7443", "--from without a token", "--from-token"},
		{"harden --root " + dir + " --from there.example:7443 --from-token " + good, "nobody can look at an image", "leave out --from"},
		{"check --from-token " + odd, "--from-token without a vantage", "--from there.example:7443"},
		{"check --from there.example:7443 --from-token /nonexistent", "no such file", "yours alone"},
		{"check --from there.example:7443 --from-token " + open, "chmod 600 " + open, "yours alone"},
		{"check --from there.example:7443 --from-token " + odd, "not a token as gatehouse vantage prints it", "gv_…@SHA256:…"},
	} {
		code, out, errOut := gatehouse(t, "", strings.Fields(c.args)...)
		wrong, hint, _ := strings.Cut(errOut, "\nhint: ")
		if code != exitUsage || out != "" || !strings.Contains(wrong, c.wrong) || !strings.Contains(hint, c.hint) || strings.Contains(errOut, "gv_x") {
			t.Errorf("gatehouse %s: exit code %d\n%s%s", c.args, code, out, errOut)
		}
	}
}

// beyond starts a vantage that takes whoever asks it for address, and to which
// there looks like the server at house; one that is not valid refuses.
func beyond(t *testing.T, address string, house netip.AddrPort) *viewpoint {
	t.Helper()
	server := &vantage.Server{Token: sha256.Sum256([]byte("gv_token")), UserAgent: "test", Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		if to.Addr() != netip.MustParseAddr(address) {
			t.Errorf("the vantage connects to %s", to)
		}
		if !house.IsValid() {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		return new(net.Dialer).DialContext(ctx, "tcp", house.String())
	}}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = net.JoinHostPort(address, "50000")
		server.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return &viewpoint{srv.Listener.Addr().String(), "gv_token", connect.Pin(sha256.Sum256(srv.Certificate().RawSubjectPublicKeyInfo))}
}

// TestCheckFrom joins what shows from inside with what a vantage sees: an Ollama
// on loopback that somebody outside reaches all the same, one that is shut from
// there, and a vantage that cannot be asked.
func TestCheckFrom(t *testing.T) {
	st, err := ollamatest.One(ollamatest.Variant("ollama/0.17.4"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	house := st.Houses[0].Addr
	away := beyond(t, "203.0.113.5", house)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away.at = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		from *viewpoint
		code int
		says []string
	}{
		{"reached", beyond(t, "203.0.113.5", house), exitFindings, []string{"\n OPEN TO THE INTERNET: Ollama answers 127.0.0.1:", "\n   203.0.113.5:", "answers 127.0.0.1:", "is no address of this machine", "To close it", "IPv4  open"}},
		{"shut", beyond(t, "203.0.113.5", netip.AddrPort{}), exitOK, []string{"\n LOCAL ONLY: ", "IPv4  refused    203.0.113.5:", "IPv6  not looked at: the vantage has no such address"}},
		{"away", away, exitFailed, []string{"\n LOCAL ONLY: ", "\n Not tested from outside: the vantage at " + away.at + ": nothing listens there.\n"}},
	} {
		look := func(format string) (int, string, string) {
			var out, errOut strings.Builder
			check := checkCmd{Ports: []uint16{house.Port()}, Format: format}
			check.seen = c.from.look(t.Context(), check.ports())
			s := streams{out: &out, err: &errOut}
			code := complain(&errOut, check.seen.join(s, check.check(t.Context(), s, []netip.Addr{netip.MustParseAddr("127.0.0.1")})))
			return code, out.String(), errOut.String()
		}
		code, out, errOut := look("table")
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d", c.name, code, c.code)
		}
		for _, want := range c.says {
			if !strings.Contains(out, want) {
				t.Errorf("%s: check does not say %q:\n%s", c.name, want, out)
			}
		}
		if line, columns := widest(out); columns > 80 {
			t.Errorf("%s: a line of %d columns: %q", c.name, columns, line)
		}
		if hint := strings.Contains(errOut, "gatehouse: not tested from outside: ") && strings.Contains(errOut, "\nhint: start gatehouse vantage there, or name another with --from "); hint != (c.code == exitFailed) {
			t.Errorf("%s: check complains %q", c.name, errOut)
		}
		var seen []string
		code, out, _ = look("jsonl")
		for line := range strings.Lines(out) {
			var r struct{ From, Address, Outcome string }
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			if r.From != "" {
				seen = append(seen, r.Address+" "+r.Outcome)
			}
		}
		want := map[string]string{"reached": "203.0.113.5 open", "shut": "203.0.113.5 refused"}[c.name]
		if code != c.code || strings.Join(seen, ", ") != want {
			t.Errorf("%s as JSON Lines: exit code %d, the vantage saw %q, want %q", c.name, code, seen, want)
		}
	}
	if harm := st.Harm(); len(harm) > 0 {
		t.Errorf("check harms: %q", harm)
	}
}

// TestHardenFrom: what a vantage still gets into after the changes is not closed,
// and changes that cut off this machine's own programs are taken back.
func TestHardenFrom(t *testing.T) {
	st, err := ollamatest.One(ollamatest.Variant("ollama/0.17.4"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	house := st.Houses[0].Addr
	file := filepath.Join(t.TempDir(), "conf")
	apply := func(from *viewpoint, do func()) (int, string, string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("old\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		k := &harden.Keeper{
			Machine: harden.Machine{OS: "none", Root: "/"}, Dir: t.TempDir(),
			Do: func(context.Context, []string, bool) error { do(); return nil },
		}
		plan := &harden.Plan{Steps: []harden.Step{
			{File: &harden.Change{Path: filepath.ToSlash(file), Before: []byte("old\n"), After: []byte("new\n"), Is: true, Mode: 0o600}},
			{Run: &harden.Command{Do: []string{"restart"}}},
		}}
		var out, errOut strings.Builder
		code := complain(&errOut, (&hardenCmd{pause: time.Nanosecond, patience: time.Second}).apply(t.Context(), streams{out: &out, err: &errOut}, k, plan, []uint16{house.Port()}, from))
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if line, columns := widest(out.String()); columns > 80 {
			t.Errorf("a line of %d columns: %q", columns, line)
		}
		return code, out.String() + errOut.String(), string(text)
	}
	nothing := func() {}
	away := beyond(t, "203.0.113.5", house)
	away.token = "gv_other"
	for _, c := range []struct {
		from *viewpoint
		code int
		says string
	}{
		{beyond(t, "203.0.113.5", netip.AddrPort{}), exitOK, "Done. Now it is "},
		{away, exitFailed, "Not tested from outside: "},
	} {
		if code, out, text := apply(c.from, nothing); code != c.code || !strings.Contains(out, c.says) || text != "new\n" {
			t.Errorf("exit code %d, want %d and %q; the file is %q:\n%s", code, c.code, c.says, text, out)
		}
	}
	if code, out, text := apply(beyond(t, "203.0.113.5", house), nothing); code != exitFindings || !strings.Contains(out, "\n Done, and it is not closed. It is OPEN TO THE INTERNET: Ollama answers\n 127.0.0.1:") || text != "new\n" {
		t.Errorf("what is open from outside: exit code %d; the file is %q:\n%s", code, text, out)
	}
	if code, out, text := apply(nil, st.Close); code != exitFailed || !strings.Contains(out, "no Ollama answers on "+house.String()+" any more") || text != "old\n" {
		t.Errorf("cut off: exit code %d; the file is %q:\n%s", code, text, out)
	}
}
