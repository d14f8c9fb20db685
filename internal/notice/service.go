package notice

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/nicholas-fedor/shoutrrr"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"
)

// Services are the other channels, as shoutrrr names them: those that reach a
// person. Its own webhook, mail and log are left out for ours.
var Services = []string{
	"bark", "discord", "googlechat", "gotify", "ifttt", "join", "lark", "matrix", "mattermost", "notifiarr", "ntfy",
	"opsgenie", "pagerduty", "pushbullet", "pushover", "rocketchat", "signal", "teams", "telegram", "wecom", "zulip",
}

// newService makes a channel to one of shoutrrr's services. The library takes no
// context and puts addresses into its errors, so a try that hangs is left behind,
// one at a time, and of an error only what is known to be harmless is told.
func newService(address, scheme string) (*Channel, error) {
	kind, _, _ := strings.Cut(strings.ToLower(scheme), "+")
	if !slices.Contains(Services, kind) {
		return nil, fmt.Errorf("%w: %q", ErrScheme, shortScheme(scheme))
	}
	u, err := parseURL(address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	router, err := shoutrrr.CreateSender(address)
	if err != nil {
		return nil, fmt.Errorf("%s: this is no address as shoutrrr has it", kind)
	}
	router.Timeout = timeout
	var hanging atomic.Bool
	return &Channel{
		Name: nameOf(kind, "", address),
		send: func(ctx context.Context, m Message) error {
			if !hanging.CompareAndSwap(false, true) {
				return errors.New("an earlier try still hangs")
			}
			params := types.Params{}
			params.SetTitle(m.Title)
			answer := make(chan error, 1)
			go func() {
				defer hanging.Store(false)
				answer <- errors.Join(router.Send(m.Text, &params)...)
			}()
			select {
			case err := <-answer:
				if err == nil {
					return nil
				}
				return errors.New(redact(err.Error(), u))
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		},
	}, nil
}

// shortScheme is what may be shown of a scheme that nobody knows: somebody may
// have put a token in its place.
func shortScheme(s string) string {
	if len(s) > 16 {
		return s[:16] + "…"
	}
	return s
}

// redact takes every part of an address out of text, and what may be a URL.
func redact(text string, u *url.URL) string {
	parts := []string{u.User.Username(), u.Host, u.Hostname(), u.Opaque}
	if password, ok := u.User.Password(); ok {
		parts = append(parts, password)
	}
	parts = append(parts, strings.FieldsFunc(u.Path, func(r rune) bool { return strings.ContainsRune("/:-,@", r) })...)
	parts = append(parts, strings.FieldsFunc(u.Host+":"+u.Opaque, func(r rune) bool { return strings.ContainsRune("/:-,@", r) })...)
	for _, values := range u.Query() {
		parts = append(parts, values...)
	}
	slices.SortFunc(parts, func(a, b string) int { return len(b) - len(a) })
	for _, p := range parts {
		for _, form := range []string{p, url.PathEscape(p), url.QueryEscape(p)} {
			if len(form) >= 4 {
				text = strings.ReplaceAll(text, form, "…")
			}
		}
	}
	words := strings.Fields(text)
	for i, w := range words {
		if strings.Contains(w, "://") || strings.Count(w, "/") > 1 {
			words[i] = "…"
		}
	}
	text = strings.Join(words, " ")
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return text
}
