package notice

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"strconv"
	"strings"

	gomail "github.com/wneessen/go-mail"
)

// Mail is how mail is sent.
type Mail struct {
	Server   string // host:port of the submission server
	From     string
	User     string // "" sends without credentials
	Password string
}

// newMail makes the channel to one or more mailboxes (RFC 6068).
func newMail(address string, o Options) (*Channel, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("mailto: %q is no mailto: address", address)
	}
	text, err := url.PathUnescape(u.Opaque)
	if err != nil {
		return nil, fmt.Errorf("mailto: %q is no mailto: address", address)
	}
	if u.RawQuery != "" {
		return nil, errors.New("mailto: only addresses are taken, no ?subject= and the like")
	}
	list, err := mail.ParseAddressList(text)
	if err != nil {
		return nil, fmt.Errorf("mailto: %q is no e-mail address", text)
	}
	var to []string
	for _, a := range list {
		to = append(to, a.Address)
	}
	from, err := mail.ParseAddress(o.Mail.From)
	if err != nil {
		return nil, fmt.Errorf("mailto: %w: %q is no e-mail address to send from", ErrSender, o.Mail.From)
	}
	host, port, secure, err := submission(o.Mail.Server)
	if err != nil {
		return nil, err
	}
	return &Channel{
		Name: "mailto " + strings.Join(to, ","),
		send: func(ctx context.Context, m Message) error {
			msg, err := compose(from, to, m)
			if err != nil {
				return err
			}
			client, err := gomail.NewClient(host, append(o.Mail.options(ctx, host, port), gomail.WithPort(port), secure)...)
			if err != nil {
				return err
			}
			return because(ctx, mailTrouble(client.DialAndSendWithContext(ctx, msg)))
		},
	}, nil
}

// Errors that a caller has a hint for.
var (
	ErrSender = errors.New("no sender")
	ErrServer = errors.New("no mail server")
)

const tlsPort = 465

// submission reads host:port. Port 465 is TLS from the first byte; elsewhere
// STARTTLS is asked for, and needed but on this machine.
func submission(server string) (host string, port int, secure gomail.Option, err error) {
	if server == "" {
		return "", 0, nil, fmt.Errorf("mailto: %w", ErrServer)
	}
	host, text, err := net.SplitHostPort(server)
	if err != nil {
		host, text = strings.Trim(server, "[]"), "587"
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 || host == "" {
		return "", 0, nil, fmt.Errorf("mailto: %w: %q is no host:port", ErrServer, server)
	}
	switch {
	case port == tlsPort:
		return host, port, gomail.WithSSL(), nil
	case here(host):
		return host, port, opportunistic, nil
	}
	return host, port, gomail.WithTLSPolicy(gomail.TLSMandatory), nil
}

// opportunistic takes TLS where it is offered, whatever the certificate says (RFC
// 7435): a mail server on this machine has the one that its package made up, and
// may want TLS before a password.
func opportunistic(c *gomail.Client) error {
	if err := gomail.WithTLSConfig(&tls.Config{InsecureSkipVerify: true})(c); err != nil {
		return err
	}
	return gomail.WithTLSPolicy(gomail.TLSOpportunistic)(c)
}

func (m *Mail) options(ctx context.Context, host string, port int) []gomail.Option {
	options := []gomail.Option{gomail.WithTimeout(timeout), gomail.WithoutNoop(), gomail.WithoutRset()}
	if port != tlsPort {
		// The library heeds ctx while it dials, and deadlines after that: a server
		// that hangs would keep us from ending.
		options = append(options, gomail.WithDialContextFunc(func(dial context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(dial, network, address)
			if err == nil {
				context.AfterFunc(ctx, func() { _ = conn.Close() })
			}
			return conn, err
		}))
	}
	if m.User != "" {
		auth := gomail.SMTPAuthAutoDiscover
		if here(host) { // where nobody listens in between
			auth = gomail.SMTPAuthPlainNoEnc
		}
		options = append(options, gomail.WithSMTPAuth(auth), gomail.WithUsername(m.User), gomail.WithPassword(m.Password))
	}
	return options
}

// compose makes the mail. Its Message-ID is that of the message, so that a second
// copy can be told for one.
func compose(from *mail.Address, to []string, m Message) (*gomail.Msg, error) {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	if err := msg.From(from.String()); err != nil {
		return nil, err
	}
	if err := msg.To(to...); err != nil {
		return nil, err
	}
	_, domain, _ := strings.Cut(from.Address, "@")
	msg.SetMessageIDWithValue(m.ID + "@" + domain)
	msg.SetDateWithValue(m.Made)
	msg.Subject(m.Title)
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no absence notes
	msg.SetBodyString(gomail.TypeTextPlain, m.Text)
	return msg, nil
}

// mailTrouble tells a refusal for good (RFC 5321, section 4.2.1) from what may
// pass. A refused password may: somebody corrects it.
func mailTrouble(err error) error {
	e, ok := errors.AsType[*gomail.SendError](err)
	if !ok {
		return err
	}
	text, _, _ := strings.Cut(e.Error(), ", affected message ID")
	return &trouble{error: errors.New(text), final: e.ErrorCode()/100 == 5}
}
