package notice_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/go-json-experiment/json/jsontext"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"gatehouse/internal/notice"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

func message() notice.Message {
	return notice.Message{
		ID: "gatehouse-1", Made: time.Now().UTC(), Type: "wave.changed", Title: "Gatehouse: 2 new in acme",
		Text: "192.0.2.7:11434  Ollama 0.17.4\n", Data: jsontext.Value(`{"open":2}`),
	}
}

func parse(t *testing.T, address string, o notice.Options) *notice.Channel {
	t.Helper()
	c, err := notice.Parse(address, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestWebhook has the signature checked by the specification's own library.
func TestWebhook(t *testing.T) {
	check, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString(secret))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = check.Verify(body, r.Header)
		}
		if err == nil && (r.Header.Get("webhook-id") != "gatehouse-1" || !strings.Contains(string(body), `"data":{"open":2}`)) {
			err = errors.New(string(body))
		}
		if check.Verify(append(body, ' '), r.Header) == nil {
			err = errors.New("a body that was changed passes")
		}
		got <- err
		w.WriteHeader(http.StatusNoContent)
	}))
	defer srv.Close()
	c := parse(t, "webhook:"+srv.URL+"/hook-4f9a", notice.Options{Secret: secret})
	if err := c.Send(t.Context(), message()); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	if strings.Contains(c.Name, "hook-4f9a") {
		t.Errorf("the name %q has the path, which may be a secret", c.Name)
	}
}

// TestRefused holds what is no delivery to be none, and no secret into what is
// said of it.
func TestRefused(t *testing.T) {
	followed := make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { followed <- struct{}{} })
	mux.Handle("/redirect-s3cr3t", http.RedirectHandler("/elsewhere", http.StatusTemporaryRedirect))
	mux.HandleFunc("/error-s3cr3t", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		chunk := make([]byte, 1<<16)
		for range 64 { // more than is read
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/cut-s3cr3t", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for path, want := range map[string]string{"redirect": "not followed", "error": "answered 500", "cut": "EOF"} {
		err := parse(t, "webhook:"+srv.URL+"/"+path+"-s3cr3t", notice.Options{Secret: secret}).Send(t.Context(), message())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v, want %q and no secret", path, err, want)
		}
	}
	select {
	case <-followed:
		t.Error("a redirect was followed")
	default:
	}
}

// TestHanging: a receiver that says nothing does not keep a sender that is told
// to end.
func TestHanging(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reached := make(chan net.Conn, 4)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			reached <- conn
		}
	}()
	o := notice.Options{Secret: secret, Mail: notice.Mail{Server: l.Addr().String(), From: "gatehouse@example.org"}}
	for _, address := range []string{"webhook:http://" + l.Addr().String(), "mailto:ops@example.org"} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		c := parse(t, address, o)
		go func() { ended <- c.Send(ctx, message()) }()
		conn := <-reached
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want %v", address, err, context.Canceled)
		}
		_ = conn.Close()
	}
}

func TestParse(t *testing.T) {
	o := notice.Options{Secret: secret, Mail: notice.Mail{Server: "127.0.0.1:2525", From: "gatehouse@example.org"}}
	for address, wrong := range map[string]string{
		"":                                   "no kind of channel",
		"s3cr3t":                             "no kind of channel",
		"webhook:":                           "no kind of channel",
		"webhook:example.org/s3cr3t":         "an https URL is expected",
		"webhook:http://example.org/s3cr3t":  "has to be https",
		"webhook:https://u:s3cr3t@a.example": "no name or password",
		"webhook:https://a.example/%zz":      "not a URL",
		"slack://T1/B1":                      "slack://T…/B…/… is expected",
		"slack://T1/B1/../s3cr3t":            "is expected",
		"slack://T1/B1/s3cr3t?x":             "letters and digits",
		"mailto:":                            "no kind of channel",
		"mailto:nobody":                      "no e-mail address",
		"mailto:a@example.org?bcc=b@c.d":     "only addresses",
		"gopher://s3cr3t":                    `no kind of channel: "gopher"`,
		"logger://":                          `no kind of channel: "logger"`,
		"generic://example.org/s3cr3t":       `no kind of channel: "generic"`,
		"discord://s3cr3t":                   "discord: this is no address as shoutrrr has it",
	} {
		_, err := notice.Parse(address, o)
		if err == nil || !strings.Contains(err.Error(), wrong) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: %v, want %q and no secret", address, err, wrong)
		}
	}
	for _, address := range []string{
		"webhook:https://example.org/hook", "slack://T1/B1/abc", "mailto:a@example.org,b@example.org",
		"discord://token@1234", "ntfy://ntfy.sh/topic", "gotify://gotify.example.org/AzyoeNS.D4iJLVa",
	} {
		if _, err := notice.Parse(address, o); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
}

type inbox struct {
	mu    sync.Mutex
	mails []string
	fail  error // what the next DATA is answered
}

type session struct{ in *inbox }

func (i *inbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{i}, nil }
func (s *session) Mail(string, *smtp.MailOptions) error      { return nil }
func (s *session) Rcpt(string, *smtp.RcptOptions) error      { return nil }
func (s *session) Reset()                                    {}
func (s *session) Logout() error                             { return nil }
func (s *session) Data(r io.Reader) error {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	if err := s.in.fail; err != nil {
		return err
	}
	text, err := io.ReadAll(r)
	s.in.mails = append(s.in.mails, string(text))
	return err
}

// TestMail sends through a real server on loopback, and reads the mail back.
func TestMail(t *testing.T) {
	in := &inbox{}
	srv := smtp.NewServer(in)
	srv.Domain = "localhost"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-done }()
	c := parse(t, "mailto:ops@example.org", notice.Options{Mail: notice.Mail{Server: l.Addr().String(), From: "gatehouse@example.org"}})
	if err := c.Send(t.Context(), message()); err != nil {
		t.Fatal(err)
	}
	m, err := mail.ReadMessage(strings.NewReader(in.mails[0]))
	if err != nil {
		t.Fatal(err)
	}
	if id := m.Header.Get("Message-ID"); id != "<gatehouse-1@example.org>" {
		t.Errorf("Message-ID %q", id)
	}
	to, err := m.Header.AddressList("To")
	if err != nil || len(to) != 1 || to[0].Address != "ops@example.org" {
		t.Errorf("To %v, %v", to, err)
	}
	body, err := io.ReadAll(m.Body)
	if err != nil || !strings.Contains(string(body), "192.0.2.7:11434") {
		t.Errorf("body %q, %v", body, err)
	}
	if _, err := m.Header.Date(); err != nil {
		t.Error(err)
	}
	in.mu.Lock()
	in.fail = &smtp.SMTPError{Code: 451, Message: "try later"}
	in.mu.Unlock()
	if err := c.Send(t.Context(), message()); err == nil {
		t.Error("a mail that was not taken counts as delivered")
	}
}

// login is a session of a server that wants TLS and a password.
type login struct{ *session }

func (login) AuthMechanisms() []string { return []string{sasl.Plain} }
func (login) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "gatehouse" || password != "right" {
			return smtp.ErrAuthFailed
		}
		return nil
	}), nil
}

// TestMailLogin: a mail server on this machine, with the certificate that its
// package made up, takes a password after STARTTLS and not before.
func TestMailLogin(t *testing.T) {
	in := &inbox{}
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		if _, secure := c.TLSConnectionState(); !secure {
			return &session{in}, nil // which knows no login
		}
		return login{&session{in}}, nil
	}))
	made := httptest.NewUnstartedServer(nil) // for its certificate, which nobody trusts
	made.StartTLS()
	defer made.Close()
	srv.Domain, srv.TLSConfig = "localhost", &tls.Config{Certificates: made.TLS.Certificates}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-done }()
	o := notice.Options{Mail: notice.Mail{Server: l.Addr().String(), From: "gatehouse@example.org", User: "gatehouse", Password: "wrong"}}
	if err := parse(t, "mailto:ops@example.org", o).Send(t.Context(), message()); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong password: %v", err)
	}
	o.Mail.Password = "right"
	if err := parse(t, "mailto:ops@example.org", o).Send(t.Context(), message()); err != nil {
		t.Error(err)
	}
	if len(in.mails) != 1 {
		t.Errorf("%d mails came, want 1", len(in.mails))
	}
}

// box is a Box in memory.
type box struct {
	mu      sync.Mutex
	letters []notice.Letter
}

func (b *box) Waiting() (list []notice.Letter, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.letters {
		if l.State == notice.Waiting {
			list = append(list, l)
		}
	}
	return list, nil
}

func (b *box) Keep(l notice.Letter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.letters {
		if b.letters[i].ID == l.ID && b.letters[i].Channel == l.Channel {
			b.letters[i] = l
		}
	}
	return nil
}

// TestCourier: what is refused is tried again later, what is gone is given up,
// and one channel's trouble is no other's.
func TestCourier(t *testing.T) {
	var mu sync.Mutex
	status := map[string]int{"/a": 500, "/b": 200, "/c": 410}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(status[r.URL.Path])
	}))
	defer srv.Close()
	b := &box{}
	c := notice.Courier{Box: b}
	for _, path := range []string{"/a", "/b", "/c"} {
		ch := parse(t, "webhook:"+srv.URL+path, notice.Options{Secret: secret})
		c.Channels = append(c.Channels, ch)
		b.letters = append(b.letters, notice.Letter{Message: message(), Channel: ch.Name, State: notice.Waiting})
	}
	old := notice.Letter{Message: message(), Channel: "nobody's", State: notice.Waiting}
	old.Made = old.Made.Add(-100 * time.Hour)
	b.letters = append(b.letters, old)
	next, err := c.Round(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []notice.State{notice.Waiting, notice.Delivered, notice.GivenUp, notice.GivenUp} {
		if got := b.letters[i].State; got != want {
			t.Errorf("letter %d is %s, want %s (%s)", i, got, want, b.letters[i].Said)
		}
	}
	if l := b.letters[0]; l.Tries != 1 || !l.Next.Equal(next) || !next.After(time.Now().Add(-time.Minute)) {
		t.Errorf("the letter that is refused is %+v, the next round at %s", l, next)
	}
	mu.Lock()
	status["/a"] = 200
	mu.Unlock()
	b.letters[0].Next = time.Now().Add(-time.Second)
	if next, err = c.Round(t.Context()); err != nil || !next.IsZero() || b.letters[0].State != notice.Delivered || b.letters[0].Tries != 2 {
		t.Errorf("after the second round: %+v, next %s, %v", b.letters[0], next, err)
	}
}

func TestPause(t *testing.T) {
	for tries, want := range map[int]time.Duration{1: 5 * time.Second, 2: 10 * time.Second, 5: 80 * time.Second, 11: time.Hour, 1000: time.Hour} {
		for range 100 {
			if got := notice.Pause(tries); got < want*8/10 || got > want*12/10 {
				t.Fatalf("after %d tries %s, want about %s", tries, got, want)
			}
		}
	}
}

func TestParseSecret(t *testing.T) {
	for text, ok := range map[string]bool{
		"whsec_" + base64.StdEncoding.EncodeToString(secret) + "\n": true,
		base64.StdEncoding.EncodeToString(secret):                   false,
		"whsec_c2hvcnQ=": false,
		"whsec_!":        false,
	} {
		if _, err := notice.ParseSecret(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}
