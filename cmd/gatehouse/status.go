package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/term"

	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/report"
)

type statusCmd struct {
	Admin string `help:"Where the gate's admin listener is." default:"127.0.0.1:9643" placeholder:"ADDR"`
	JSON  bool   `name:"json" help:"As JSON."`
}

// Run asks the running gate. Exit code 3 says that Ollama can be reached around
// it.
func (c *statusCmd) Run(ctx context.Context, s streams) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Admin+"/status", nil)
	if err != nil {
		return usage(fmt.Errorf("--admin %s: not an address with a port", c.Admin), "such as --admin 127.0.0.1:9643")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no gate answers on %s; gatehouse gate starts one", c.Admin)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var st gateStatus
	if err := json.Unmarshal(body, &st); err != nil {
		return fmt.Errorf("what answers on %s is no gate", c.Admin)
	}
	if c.JSON {
		if err := printJSON(s, st); err != nil {
			return err
		}
	} else if err := printStatus(s.out, &st); err != nil {
		return err
	}
	if len(st.Bypass) > 0 {
		return codeError(exitFindings)
	}
	return nil
}

func printStatus(w io.Writer, st *gateStatus) error {
	shut := "no way round it was found"
	if len(st.Bypass) > 0 {
		shut = "OLLAMA CAN BE REACHED AROUND IT on " + strings.Join(st.Bypass, ", ")
	}
	fmt.Fprintf(w, "\n Gate %s on %s, TLS %s, %d keys; %s\n", report.Clean(st.Version), report.Clean(strings.Join(st.Listen, " ")), st.TLS, st.Keys, shut)
	fmt.Fprintf(w, " %d being answered, %d waiting; ledger %s\n\n", st.Inside, st.Waiting, report.Clean(st.Ledger))
	rows := make([][]string, 0, len(st.Upstreams))
	for _, u := range st.Upstreams {
		health := "healthy"
		if !u.Healthy {
			health = "away"
			if u.Error != "" {
				health += ": " + u.Error
			}
		}
		rows = append(rows, []string{u.URL, u.Version, fmt.Sprintf("%d/%d", u.InFlight, u.Slots), fmt.Sprint(len(u.Models)), strings.Join(u.Loaded, " "), health})
	}
	return report.List(w, []string{"OLLAMA", "VERSION", "BUSY", "MODELS", "LOADED", "HEALTH"}, rows, options(w))
}

type trustCmd struct {
	URL         string `arg:"" help:"The gate's address, such as https://box:8443."`
	Fingerprint string `required:"" help:"As the gate printed it at its start." placeholder:"SHA256:…"`
}

func (trustCmd) Help() string {
	return `Fetches the gate's own certificate authority, holds it against the fingerprint that the gate printed, and prints it for clients to trust:

  gatehouse trust https://box:8443 --fingerprint SHA256:… > gatehouse-ca.pem
  SSL_CERT_FILE=gatehouse-ca.pem ollama list
  curl --cacert gatehouse-ca.pem …

Node takes the file by NODE_EXTRA_CA_CERTS, Python by REQUESTS_CA_BUNDLE.`
}

func (c *trustCmd) Run(ctx context.Context, s streams) error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return usage(fmt.Errorf("%q is no https URL", c.URL), "such as https://box:8443")
	}
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), "443")
	}
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 10 * time.Second},
		Config: &tls.Config{
			ServerName: u.Hostname(), MinVersion: tls.VersionTLS12,
			InsecureSkipVerify: true, // the fingerprint decides, just below
		},
	}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("reach %s: %w", addr, err)
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	i := slices.IndexFunc(chain, func(cert *x509.Certificate) bool { return cert.IsCA && fingerprint(cert) == c.Fingerprint })
	if i < 0 {
		return fmt.Errorf("%s shows no authority with that fingerprint: it is another gate, or somebody is in between", addr)
	}
	roots := x509.NewCertPool()
	roots.AddCert(chain[i])
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		return errors.New("the authority is right, and did not sign what this server shows: somebody is in between")
	}
	return pem.Encode(s.out, &pem.Block{Type: "CERTIFICATE", Bytes: chain[i].Raw})
}

// drawUsage shows what each key used as a chart: tokens by day.
func drawUsage(w io.Writer, days []ledger.DayUsage, since time.Time, n int, o report.Options) error {
	type sum struct {
		report.Bars
		requests, denied int64
	}
	var order []string
	byID := make(map[string]*sum)
	for _, d := range days {
		s := byID[d.ID]
		if s == nil {
			s = &sum{Bars: report.Bars{Days: make([]uint64, n)}}
			byID[d.ID] = s
			order = append(order, d.ID)
		}
		s.Name = d.Name
		if s.Name == "" {
			s.Name = d.ID
		}
		day, err := time.Parse(time.DateOnly, d.Day)
		if i := int(day.Sub(since).Hours() / 24); err == nil && i >= 0 && i < n {
			s.Days[i] += uint64(d.TokensIn + d.TokensOut)
		}
		s.Total += uint64(d.TokensIn + d.TokensOut)
		s.requests += d.Requests
		s.denied += d.Denied
	}
	bars := make([]report.Bars, 0, len(order))
	for _, id := range order {
		s := byID[id]
		s.Note = fmt.Sprintf("tokens, %d requests", s.requests)
		if s.denied > 0 {
			s.Note += fmt.Sprintf(", %d denied", s.denied)
		}
		bars = append(bars, s.Bars)
	}
	slices.SortStableFunc(bars, func(a, b report.Bars) int { return int(min(b.Total, 1<<62)) - int(min(a.Total, 1<<62)) })
	title := fmt.Sprintf("Tokens a day, the last %d days (UTC)", n)
	return report.Chart(w, title, since.Format("01-02"), since.AddDate(0, 0, n-1).Format("01-02"), bars, o)
}

// String is the window as it is given on the command line.
func (w window) String() string {
	var days []string
	for _, d := range w.Days {
		days = append(days, strings.ToLower(d.String()[:3]))
	}
	clock := func(d time.Duration) string { return fmt.Sprintf("%02d:%02d", int(d.Hours()), int(d.Minutes())%60) }
	parts := []string{strings.Join(days, ",")}
	if w.From != w.To {
		parts = append(parts, clock(w.From)+"-"+clock(w.To))
	}
	return strings.TrimSpace(strings.Join(append(parts, w.Zone), " "))
}

var _ key.Window = key.Window(window{})

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
