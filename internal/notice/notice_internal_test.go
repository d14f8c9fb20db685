package notice

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	gomail "github.com/wneessen/go-mail"
)

// TestSlack: what a message says is text to Slack, and calls nobody.
func TestSlack(t *testing.T) {
	got := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m struct{ Text string }
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &m) != nil {
			t.Errorf("%s, %v", body, err)
		}
		got <- r.URL.Path + " " + m.Text
	}))
	defer srv.Close()
	c, err := slackAt(srv.URL+"/services/", "//T1/B2/s3cr3t", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(c.Name, "s3cr3t") {
		t.Errorf("the name %q tells the secret", c.Name)
	}
	if err := c.Send(t.Context(), Message{Title: "1 new", Text: "<!channel> & ```\n", Made: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if text := <-got; text != "/services/T1/B2/s3cr3t *1 new*\n```\n&lt;!channel&gt; &amp; '''\n```" {
		t.Errorf("Slack gets %q", text)
	}
}

func TestRedact(t *testing.T) {
	u, err := url.Parse("telegram://110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw@telegram?chats=@secretchat")
	if err != nil {
		t.Fatal(err)
	}
	got := redact(`posting to "https://api.telegram.org/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/sendMessage": dial tcp: no route to host, chat @secretchat`, u)
	for _, secret := range []string{"110201543", "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw", "secretchat"} {
		if strings.Contains(got, secret) {
			t.Errorf("%q tells %q", got, secret)
		}
	}
	if !strings.Contains(got, "no route to host") {
		t.Errorf("%q does not say what went wrong", got)
	}
}

func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{"": 0, "120": 2 * time.Minute, "-1": 0, "nonsense": 0, "Thu, 01 Jan 1970 00:00:00 GMT": 0} {
		if got := retryAfter(header); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

// TestSubmission: what leaves this machine is never sent in the clear.
func TestSubmission(t *testing.T) {
	for server, want := range map[string]string{
		"mail.example.org":     "TLSMandatory",
		"mail.example.org:25":  "TLSMandatory",
		"[2001:db8::25]:587":   "TLSMandatory",
		"localhost:25":         "TLSOpportunistic",
		"[::1]:587":            "TLSOpportunistic",
		"mail.example.org:465": "", // TLS from the first byte
	} {
		host, port, secure, err := submission(server)
		if err != nil {
			t.Errorf("%s: %v", server, err)
			continue
		}
		c, err := gomail.NewClient(host, gomail.WithPort(port), secure)
		if err != nil {
			t.Errorf("%s: %v", server, err)
			continue
		}
		if got := c.TLSPolicy(); want != "" && got != want {
			t.Errorf("%s: %s, want %s", server, got, want)
		}
	}
}
