package notice

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// newWebhook makes the channel to a program that takes signed posts, by the
// Standard Webhooks specification: https://www.standardwebhooks.com.
func newWebhook(address string, o Options) (*Channel, error) {
	u, err := parseURL(address)
	if err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	switch {
	case u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("webhook: an https URL is expected")
	case u.Scheme == "http" && !here(u.Hostname()):
		return nil, errors.New("webhook: http is for this machine only; elsewhere it has to be https")
	case u.User != nil:
		return nil, errors.New("webhook: no name or password in the URL; the signature says who sends")
	}
	p := poster{url: address, agent: o.UserAgent, client: newClient()}
	return &Channel{
		Name: nameOf("webhook", u.Hostname(), address),
		send: func(ctx context.Context, m Message) error {
			body, err := json.Marshal(struct {
				Type      string         `json:"type"`
				Timestamp time.Time      `json:"timestamp"`
				Data      jsontext.Value `json:"data"`
			}{m.Type, m.Made.UTC(), m.Data})
			if err != nil {
				return err
			}
			return p.post(ctx, body, signature(o.Secret, m.ID, time.Now(), body))
		},
	}, nil
}

// here reports whether a host is this machine.
func here(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// signature is the headers that say which message this is, and that it is ours.
func signature(secret []byte, id string, now time.Time, body []byte) http.Header {
	at := strconv.FormatInt(now.Unix(), 10)
	h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {at}}
	if secret != nil {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(id + "." + at + "."))
		mac.Write(body)
		h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return h
}

// Secret bounds, in bytes, by the specification.
const (
	leastSecret = 24
	mostSecret  = 64
)

// ParseSecret reads the secret that webhooks are signed with, in the form that
// the specification gives it: whsec_ and base64.
func ParseSecret(text string) ([]byte, error) {
	coded, ok := strings.CutPrefix(strings.TrimSpace(text), "whsec_")
	if !ok {
		return nil, errors.New("a secret begins with whsec_")
	}
	secret, err := base64.StdEncoding.DecodeString(coded)
	switch {
	case err != nil:
		return nil, errors.New("what follows whsec_ is no base64")
	case len(secret) < leastSecret || len(secret) > mostSecret:
		return nil, fmt.Errorf("a secret is of %d to %d bytes, this one of %d", leastSecret, mostSecret, len(secret))
	}
	return secret, nil
}

// newSlack makes the channel to an incoming webhook of Slack: slack://T…/B…/…,
// what follows https://hooks.slack.com/services/ in its URL.
func newSlack(rest string, o Options) (*Channel, error) {
	return slackAt("https://hooks.slack.com/services/", rest, o)
}

func slackAt(base, rest string, o Options) (*Channel, error) {
	path, ok := strings.CutPrefix(rest, "//")
	parts := strings.Split(path, "/")
	if !ok || len(parts) != 3 {
		return nil, errors.New("slack: slack://T…/B…/… is expected: the three parts at the end of the incoming webhook's URL")
	}
	for _, part := range parts {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
			return nil, errors.New("slack: the three parts are of letters and digits")
		}
	}
	p := poster{url: base + path, agent: o.UserAgent, client: newClient()}
	return &Channel{
		Name: nameOf("slack", "", path),
		send: func(ctx context.Context, m Message) error {
			body, err := json.Marshal(struct {
				Text string `json:"text"`
			}{"*" + slackText(m.Title) + "*\n```\n" + slackText(strings.Trim(m.Text, "\n")) + "\n```"})
			if err != nil {
				return err
			}
			return p.post(ctx, body, nil)
		},
	}, nil
}

// slackText is text that Slack takes for nothing but text.
func slackText(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "'").Replace(s)
}

// poster posts JSON to one place.
type poster struct {
	url, agent string
	client     *http.Client
}

// maxAnswer bounds what is read of an answer; nothing of it is shown.
const maxAnswer = 64 << 10

// newClient is a client that follows nobody anywhere and keeps no connection:
// messages are rare.
func newClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true
	t.MaxResponseHeaderBytes = maxAnswer
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (p *poster) post(ctx context.Context, body []byte, headers http.Header) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("no request can be made of the address")
	}
	for name, values := range headers {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", cmp.Or(p.agent, "Gatehouse"))
	resp, err := p.client.Do(req)
	if err != nil {
		return because(ctx, withoutURL(err))
	}
	defer resp.Body.Close()
	// Whether all of the answer comes says nothing; it is read so that the
	// receiver sees it taken.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 == 2 {
		return nil
	}
	t := &trouble{error: fmt.Errorf("answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)), after: retryAfter(resp.Header.Get("Retry-After"))}
	switch resp.StatusCode {
	case http.StatusGone: // by the specification: never again
		t.final = true
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		t.error = fmt.Errorf("answered %d, a redirect, which is not followed", resp.StatusCode)
	}
	return t
}

// withoutURL is err without the URL that net/http puts into it.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return fmt.Errorf("no connection: %w", e.Err)
	}
	return err
}

func retryAfter(header string) time.Duration {
	seconds, err := strconv.ParseUint(header, 10, 31)
	if err != nil {
		at, err := http.ParseTime(header)
		if err != nil {
			return 0
		}
		return max(time.Until(at), 0)
	}
	return time.Duration(seconds) * time.Second
}
