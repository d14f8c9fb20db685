// Package notice tells people and programs what a watch found: by webhook, Slack,
// mail, and the services that shoutrrr knows. It never decides what is news, and
// nothing that it returns or logs holds a secret out of a channel's address.
package notice

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Message is what is told.
type Message struct {
	ID    string         // the same at every try, so that a receiver can drop what it has
	Made  time.Time      // when there was something to tell
	Type  string         // for programs, such as "wave.changed"
	Title string         // one line
	Text  string         // lines of at most 80 columns
	Data  jsontext.Value // the same for programs
}

// Options are what channels need beside their addresses.
type Options struct {
	Secret    []byte // that webhooks are signed with; nil signs none
	UserAgent string
	Mail      Mail
}

// Channel is one way to somebody.
type Channel struct {
	// Name says which channel it is without giving its secret away. It is the same
	// in every run, and another where the address is another.
	Name string
	send func(context.Context, Message) error
}

// timeout bounds one try to deliver.
const timeout = 20 * time.Second

// Send tries once to deliver. What it returns nil for was taken by the receiver.
func (c *Channel) Send(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	return c.send(ctx, m)
}

var errTimeout = fmt.Errorf("no answer within %s", timeout)

// ErrScheme says that an address is of no kind of channel that is known.
var ErrScheme = errors.New("no kind of channel")

// Parse makes a channel of its address: webhook:https://…, slack://…, mailto:…, or
// an address as shoutrrr has it. It asks nobody.
func Parse(address string, o Options) (*Channel, error) {
	scheme, rest, ok := strings.Cut(address, ":")
	if !ok || rest == "" {
		return nil, fmt.Errorf("%w: an address such as webhook:https://example.org/hook is expected", ErrScheme)
	}
	switch strings.ToLower(scheme) {
	case "webhook":
		return newWebhook(rest, o)
	case "slack":
		return newSlack(rest, o)
	case "mailto":
		return newMail(address, o)
	}
	return newService(address, scheme)
}

// parseURL is url.Parse without the address in its error, for that may hold a
// secret.
func parseURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if err != nil {
		// What url.Parse quotes is a part of the address.
		return nil, errors.New("not a URL")
	}
	return u, nil
}

// nameOf tells a channel from others of its kind without telling its address.
func nameOf(kind, where, address string) string {
	sum := sha256.Sum256([]byte(address))
	name := kind + " "
	if where != "" {
		name += where + " "
	}
	return name + hex.EncodeToString(sum[:4])
}

// trouble is why a try came to nothing.
type trouble struct {
	error
	after time.Duration // how long the receiver asks to be left alone
	final bool          // it says that no try will ever do
}

func (t *trouble) Unwrap() error { return t.error }

// because is the reason for which ctx ended, if it did, else err.
func because(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
