package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"os"
	"path/filepath"
	"strings"

	"gatehouse/internal/report"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

type notifyCmd struct {
	Wave     string `arg:"" help:"Its number, its id, or last."`
	Draft    string `required:"" help:"Folder that the drafts are written to." placeholder:"DIR"`
	Scope    string `help:"Scope file: who we are, and by whose authority." placeholder:"FILE"`
	From     string `help:"Who writes, such as 'Acme CERT <cert@acme.example>' (default: the scope's contact)." placeholder:"ADDRESS"`
	SeenFrom string `help:"The addresses that the looks came from, for the reader to find in logs." placeholder:"TEXT"`
	Force    bool   `help:"Write into a folder that is not empty."`
	StateDir string `help:"Where waves are kept." placeholder:"DIR"`
	Stores   `embed:""`
}

func (notifyCmd) Help() string {
	return `Writes one mail for each network that has open servers in the wave, to its abuse contact, with what was seen, how to close it, a list of hosts and a report in X-ARF form for each. It sends nothing: read them, then send them with your mail program. Who runs a network is known to waves that were made with --rdap.

Example:
  gatehouse notify last --draft out --scope acme.yaml --from cert@acme.example`
}

func (c *notifyCmd) Run(s streams) error {
	sender, name, err := c.sender()
	if err != nil {
		return err
	}
	return withStore(c.StateDir, &c.Stores, func(st *store.Store) error {
		i, err := finished(st, c.Wave)
		if err != nil {
			return err
		}
		if name != "" && name != i.Scope {
			return usage(fmt.Errorf("wave %d is of scope %q, and %s is of %q", i.Number, i.Scope, c.Scope, name), "--scope takes the file that the wave was made with")
		}
		left := 0
		drafts, err := report.Drafts(st.Records(i.Number), func(r *wave.Record) bool {
			if r.Settled() {
				left++
			}
			return r.Settled()
		})
		if err != nil {
			return err
		}
		if len(drafts) == 0 {
			_, err := fmt.Fprintf(s.out, "Wave %d has no open server to write about.\n", i.Number)
			return err
		}
		if err := c.folder(); err != nil {
			return err
		}
		var unknown []report.Draft
		for _, d := range drafts {
			file := filepath.Join(c.Draft, d.File)
			if err := report.WriteFile(file, func(w io.Writer) error { return d.Write(w, &i, &sender) }); err != nil {
				return err
			}
			if d.To == "" {
				unknown = append(unknown, d)
			}
			fmt.Fprintf(s.out, "%s\n  to %s: %d open\n", report.Clean(file), report.Clean(cmp.Or(d.To, "nobody yet")), len(d.Hosts))
		}
		if left > 0 {
			fmt.Fprintf(s.out, "\nLeft out, for a note says so: %d.\n", left)
		}
		if len(unknown) > 0 {
			fmt.Fprintf(s.out, "\nNo abuse contact is known for %d of them; fill in To: yourself:\n", len(unknown))
			for _, d := range unknown {
				fmt.Fprintf(s.out, "  %s  %s %s\n", d.File, d.Network, d.Web)
			}
		}
		_, err = fmt.Fprintln(s.out, "\nNothing was sent. Read them first: a claim about who runs a network may be wrong.")
		return err
	})
}

// sender is who writes, and the name of the scope that says so.
func (c *notifyCmd) sender() (sender report.Sender, scope string, err error) {
	contact := ""
	if c.Scope != "" {
		sc, err := readScope(c.Scope)
		if err != nil {
			return sender, "", err
		}
		sender.Authority, contact, scope = sc.Authority, sc.Contact, sc.Name
	}
	from := cmp.Or(c.From, strings.TrimPrefix(contact, "mailto:"))
	if from == "" {
		return sender, "", usage(errors.New("nobody writes"), "--from 'Acme CERT <cert@acme.example>' says who, or --scope with its contact")
	}
	a, err := mail.ParseAddress(from)
	if err != nil {
		return sender, "", usage(fmt.Errorf("--from %q is no e-mail address", from), "such as --from 'Acme CERT <cert@acme.example>'")
	}
	sender.From, sender.Source = *a, c.SeenFrom
	if contact != "" {
		sender.UserAgent = userAgent(contact)
	}
	return sender, scope, nil
}

// folder makes the folder, which has to be empty.
func (c *notifyCmd) folder() error {
	if err := os.MkdirAll(c.Draft, 0o700); err != nil {
		return usage(fmt.Errorf("--draft: %w", err), "--draft takes a folder, which is made if need be")
	}
	files, err := os.ReadDir(c.Draft)
	if err != nil {
		return usage(fmt.Errorf("--draft: %w", err), "--draft takes a folder")
	}
	if len(files) > 0 && !c.Force {
		return usage(fmt.Errorf("--draft %s: the folder is not empty", c.Draft), "name another, or add --force")
	}
	return nil
}
