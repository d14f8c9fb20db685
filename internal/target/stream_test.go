package target_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"gatehouse/internal/scope"
	"gatehouse/internal/target"
)

// tools is what other programs write, and what is in it.
var tools = []struct{ name, text, want string }{
	{"plain", "# hosts\n10.0.0.1\r\n10.0.0.2:80 # web\n  [fd00::1]:81  10.0.0.3:82\n\nb.example:83\nhttp://b.example/x", "10.0.0.1:1 10.0.0.1:80(b.example,http,/x) 10.0.0.1:83(b.example,,) 10.0.0.2:80 10.0.0.3:82 [fd00::1]:81"},
	{"zmap", "saddr\n10.0.0.1\n10.0.0.2\n", "10.0.0.1:1 10.0.0.2:1"},
	{"zmap without a header", "10.0.0.1,80\n10.0.0.2,8080\n", "10.0.0.1:80 10.0.0.2:8080"},
	{"zmap, many columns", "\ufeffclassification,saddr,sport,note,success\nsynack,10.0.0.1,80,\"a, b\",1\nrst,10.0.0.2,80,,0\nsynack,10.0.0.3,,,1\n", "10.0.0.1:80 10.0.0.3:1"},
	{"masscan list", "#masscan\nopen tcp 80 10.0.0.1 1393930\nopen udp 53 10.0.0.1 1393930\nclosed tcp 81 10.0.0.1 1393930\nbanner tcp 80 10.0.0.1 1393930 http hello\nopen tcp 11434 fd00::1 1393931\n# end\n", "10.0.0.1:80 [fd00::1]:11434"},
	{"masscan", "Discovered open port 80/tcp on 10.0.0.1                                    \nDiscovered open port 53/udp on 10.0.0.1\nDiscovered open port 443/tcp on fd00::1\n", "10.0.0.1:80 [fd00::1]:443"},
	{
		"nmap", "# Nmap 7.95 scan initiated as: nmap -oG - 10.0.0.0/30\nHost: 10.0.0.1 ()\tStatus: Up\n" +
			"Host: 10.0.0.1 (b.example)\tPorts: 22/closed/tcp//ssh///, 80/open/tcp//http//nginx 1.2 (x, y)/, 81/filtered/tcp/////, 53/open/udp//domain///, 8080/open/tcp//http-proxy///\tIgnored State: closed (995)\n" +
			"Host: 10.0.0.2 ()\tStatus: Down\n# Nmap done\n", "10.0.0.1:80 10.0.0.1:8080",
	},
	{"masscan greppable", "Timestamp: 1393930\tHost: 10.0.0.1 ()\tPorts: 80/open/tcp//http//\n", "10.0.0.1:80"},
}

func stream(t testing.TB, text string, opt target.Options, o target.Order) (*target.Stream, []target.Place, []string) {
	t.Helper()
	var bad []string
	s, err := target.NewStream(strings.NewReader(text), opt, o, func(line int, err error) {
		bad = append(bad, fmt.Sprintf("%d: %v", line, err))
	})
	if err != nil {
		t.Fatal(err)
	}
	places := slices.Collect(s.Places(t.Context()))
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	return s, places, bad
}

func TestLinesOfOtherTools(t *testing.T) {
	for _, tc := range tools {
		set, err := target.Parse(t.Context(), nil, []target.List{{Name: tc.name, R: strings.NewReader(tc.text)}}, options(local, 1))
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got := shown(collect(t, set, target.Order{})); got != tc.want {
			t.Errorf("%s, as a list:\ngot  %s\nwant %s", tc.name, got, tc.want)
		}
		_, places, bad := stream(t, tc.text, options(local, 1), target.Order{})
		if got := shown(places); got != tc.want || len(bad) > 0 {
			t.Errorf("%s, as a stream:\ngot  %s\nwant %s\nbad %q", tc.name, got, tc.want, bad)
		}
	}
}

func TestStreamKeepsItsOrder(t *testing.T) {
	s, places, bad := stream(t, "10.0.0.9:80\nnot!\n10.0.0.1\n8.8.8.8\n10.0.0.9:80\n10.0.0.300,80\n"+strings.Repeat("x", 70<<10)+"\na.example:5\nnowhere.example\nopen tcp 0 10.0.0.1 1\n127.0.0.1:1",
		options(local, 1, 2), target.Order{})
	var got []string
	for i, p := range places {
		if p.Pos != uint64(i) {
			t.Errorf("%v has position %d", p, p.Pos)
		}
		got = append(got, show(p))
	}
	// A line with several places has them permuted.
	slices.Sort(got[1:3])
	slices.Sort(got[3:6])
	if want := "10.0.0.9:80 10.0.0.1:1 10.0.0.1:2 10.0.0.1:5(a.example,,) 10.0.0.2:5(a.example,,) [fd00::1]:5(a.example,,) 127.0.0.1:1"; strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	want := []string{
		`2: "not!" is no address, network, range, host name or URL: not a host name`,
		`4: 8.8.8.8 is a public address: no scope permits it`,
		`6: "10.0.0.300" is no address`,
		`7: longer than 65536 bytes`,
		`9: look up nowhere.example: no such host`,
		`10: "0" is no port from 1 to 65535`,
	}
	if !slices.Equal(bad, want) {
		t.Errorf("bad lines:\n%s", strings.Join(bad, "\n"))
	}
	if s.Bad.Load() != 6 || s.Denied.Load() != 2 || s.Repeated.Load() != 1 {
		t.Errorf("%d bad, %d denied, %d repeated", s.Bad.Load(), s.Denied.Load(), s.Repeated.Load())
	}
}

func TestStreamHoldsTheScope(t *testing.T) {
	sc := permit(t, "8.8.0.0/16", "8.8.8.0/24")
	s, places, bad := stream(t, "8.8.8.8\n8.8.1.1\n9.9.9.9:80\n8.8.7.255-8.8.8.9\n192.0.2.1\nout.example:1\n10.0.0.0/8\n", options(sc, 1, 2), target.Order{})
	if got := shown(places); got != "8.8.1.1:1 8.8.1.1:2 8.8.7.255:1 8.8.7.255:2" {
		t.Error(got)
	}
	if len(bad) != 5 || s.Denied.Load() != 2+1+20+2+2+2<<24 {
		t.Errorf("%d denied; %s", s.Denied.Load(), strings.Join(bad, "\n"))
	}
}

func TestStreamShardsAndSamples(t *testing.T) {
	var lines []string
	for i := range 20_000 {
		lines = append(lines, fmt.Sprintf("10.0.%d.%d:%d", i>>8, i&255, 80+i%3))
	}
	text := strings.Join(lines, "\n")
	slices.Reverse(lines)
	backwards := strings.Join(lines, "\n")

	for _, sample := range []target.Sample{0, 0.1} {
		_, part, _ := stream(t, text, options(local), target.Order{Seed: 4, Sample: sample})
		if n := len(part); sample > 0 && (n < 1830 || n > 2170) { // 4 standard deviations
			t.Errorf("sample of a tenth has %d of 20000", n)
		}
		var together []target.Place
		for i := uint64(1); i <= 3; i++ {
			o := target.Order{Seed: 4, Sample: sample, Shard: target.Shard{I: i, N: 3}}
			_, one, _ := stream(t, text, options(local), o)
			if _, other, _ := stream(t, backwards, options(local), o); shown(other) != shown(one) {
				t.Errorf("shard %d depends on the order of the lines", i)
			}
			if n, want := len(one), len(part)/3; n < want*8/10 || n > want*12/10 {
				t.Errorf("shard %d has %d of %d", i, n, len(part))
			}
			together = append(together, one...)

			o.From = 100
			if _, rest, _ := stream(t, text, options(local), o); !slices.Equal(rest, one[100:]) {
				t.Errorf("resuming at 100 yields %d places, want %d", len(rest), len(one)-100)
			}
		}
		if shown(together) != shown(part) {
			t.Errorf("3 shards of sample %v have %d places together, want %d", sample, len(together), len(part))
		}
	}
	if _, err := target.NewStream(strings.NewReader(""), options(local), target.Order{Sample: 2}, nil); err == nil {
		t.Error("sample 2 is taken")
	}
}

func TestStreamForgetsWhatIsLongAgo(t *testing.T) {
	if testing.Short() {
		t.Skip("walks more than a million places")
	}
	// 2^20 places later a place is new again, and before that it is not.
	s, err := target.NewStream(strings.NewReader("127.0.0.1:9\n10.0.0.0/12:9\n127.0.0.1:9\n10.16.0.0:9\n127.0.0.1:9\n"), options(local), target.Order{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[netip.Addr]int{}
	for p := range s.Places(t.Context()) {
		if p.Addr.IsLoopback() {
			counts[p.Addr]++
		}
	}
	if got := counts[netip.MustParseAddr("127.0.0.1")]; got != 2 || s.Repeated.Load() != 1 {
		t.Errorf("yielded %d times, %d repeated", got, s.Repeated.Load())
	}
}

func TestStreamEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in, out := io.Pipe()
		s, err := target.NewStream(in, options(local, 1), target.Order{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = io.WriteString(out, "10.0.0.1\n10.0.0.2\n")
			synctest.Wait() // both are yielded while the writer is still there
			cancel()
		}()
		n := 0
		for range s.Places(ctx) {
			n++
		}
		if n != 2 || !errors.Is(s.Err(), context.Canceled) {
			t.Errorf("%d places, %v", n, s.Err())
		}
		_ = out.Close() // lets the last Read return; synctest sees that nothing stays behind
	})

	s, err := target.NewStream(io.MultiReader(strings.NewReader("10.0.0.1\n"), failing{}), options(local, 1), target.Order{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(s.Places(t.Context())); len(got) != 1 || !errors.Is(s.Err(), errRead) {
		t.Errorf("%v, %v", got, s.Err())
	}

	s, _ = target.NewStream(strings.NewReader("10.0.0.0/8\n10.0.0.1\n"), options(local, 1), target.Order{}, nil)
	for range s.Places(t.Context()) {
		break // a range is not walked to its end
	}
}

// TestStreamLooksNamesUpAhead: slow names cost their time together, and the
// places still come in the order of the lines.
func TestStreamLooksNamesUpAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := options(local)
		slow := &slowNames{}
		opt.Resolver = slow
		var text strings.Builder
		for i := range 100 {
			fmt.Fprintf(&text, "h%d.example:80\n", i)
		}
		_, places, _ := stream(t, text.String(), opt, target.Order{})
		for i, p := range places {
			if want := fmt.Sprintf("h%d.example", i); p.Name != want {
				t.Fatalf("place %d is %s, want %s", i, p.Name, want)
			}
		}
		if len(places) != 100 || slow.most > 16 || slow.most < 8 {
			t.Errorf("%d places, %d names at once", len(places), slow.most)
		}
	})
}

func FuzzStream(f *testing.F) {
	for _, tc := range tools {
		f.Add(tc.text)
	}
	f.Add("b.example/\x00\x1b")
	f.Add("saddr\n\"10.0.0.1\n,\nHost: \tPorts: 1/open/tcp\n10.0.0.0/24,80")
	f.Fuzz(func(t *testing.T, text string) {
		sc := permit(t, "10.0.0.0/8 fd00::/8 8.8.8.0/24", "10.0.0.128/25")
		opt := options(sc, 1)
		s, err := target.NewStream(strings.NewReader(text), opt, target.Order{}, func(line int, err error) {
			if line < 1 || line > strings.Count(text, "\n")+1 {
				t.Fatalf("line %d of %q", line, text)
			}
			if strings.ContainsAny(err.Error(), "\x1b\r\x00") {
				t.Fatalf("%q reaches the terminal", err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for p := range s.Places(t.Context()) {
			if p.Port == 0 || opt.Scope.Allows(p.Addr, now) != nil || p.Addr.Zone() != "" || p.Addr.Is4In6() {
				t.Fatalf("%+v", p)
			}
			if p.Path != "" && p.Path[0] != '/' || strings.ContainsAny(p.Path+p.Name, " \r\n\x00\x1b") {
				t.Fatalf("%+v", p)
			}
			if n++; n == 1000 {
				break
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"10.0.0.1", "10.0.0.0/8:80", "10.0.0.1-50", "[fd00::1]:80", "b.example:80", "https://[::1]:443/ollama", "http://u@b.example/%2e",
		"::ffff:10.0.0.1", "8.8.8.8", "fe80::1%eth0", "[::/0]:1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		set, err := target.Parse(t.Context(), []string{s}, nil, options(local, 1))
		if err != nil {
			if len(err.Error()) > 12<<10 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		// What is understood is understood the same way when it is shown.
		w := walk(t, set, target.Order{Seed: 3})
		for pos := range min(set.Count(), 50) {
			p := w.At(pos)
			if p.Port == 0 || p.Pos != pos || (&scope.Scope{Local: true}).Allows(p.Addr, now) != nil {
				t.Fatalf("%q: %+v", s, p)
			}
			if p.Name == "" && p.Scheme == "" {
				again := parse(t, options(local, 1), p.AddrPort().String())
				if again.Count() != 1 || walk(t, again, target.Order{}).At(0).AddrPort() != p.AddrPort() {
					t.Fatalf("%q: %+v", s, p)
				}
			}
		}
	})
}

func BenchmarkStream(b *testing.B) {
	var text strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&text, "10.%d.%d.%d:80\n", i>>16&255, i>>8&255, i&255)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		s, _ := target.NewStream(strings.NewReader(text.String()), options(local), target.Order{}, nil)
		for range s.Places(b.Context()) {
			n++
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "places/s")
}
