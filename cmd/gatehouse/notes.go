package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gatehouse/internal/report"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

type noteCmd struct {
	StateDir string `help:"Where waves are kept." placeholder:"DIR"`
	Stores   `embed:""`

	Add    noteAddCmd    `cmd:"" help:"Say of a host that it is accepted, is a false positive, or has a ticket."`
	List   noteListCmd   `cmd:"" help:"List the notes."`
	Remove noteRemoveCmd `cmd:"" help:"Delete notes."`
}

type noteAddCmd struct {
	Address       string   `arg:"" help:"The address, with a port if the note is of that port alone."`
	Text          []string `arg:"" optional:"" help:"What there is to say."`
	Accepted      bool     `help:"Somebody answers for leaving it as it is; say who in the text." xor:"kind"`
	FalsePositive bool     `help:"It is not what it was taken for." xor:"kind"`
	Ticket        string   `help:"Where it is being seen to." placeholder:"ID" xor:"kind"`
	Until         string   `help:"Last day on which the note counts, or for how long from now." placeholder:"DATE|TIME"`
}

func (noteAddCmd) Help() string {
	return `A note belongs to the host, whichever wave sees it. It stands beside the host in reports. What is accepted or a false positive decides no exit code (--fail-on), is suppressed in SARIF and DefectDojo, and is not told of by notifications; counts hold it as before, for what was seen was seen.

Examples:
  gatehouse note add 192.0.2.7 --accepted --until 90d "test bench of J. Doe"
  gatehouse note add 192.0.2.9:11434 --false-positive "our own decoy"
  gatehouse note add 192.0.2.11 --ticket SEC-112`
}

// maxNote bounds the text of a note, in characters.
const maxNote = 500

func (c *noteAddCmd) Run(s streams, parent *noteCmd) error {
	n := wave.Note{Kind: wave.Comment, Text: strings.Join(c.Text, " "), Made: time.Now().UTC()}
	var err error
	if n.Address, n.Port, err = addressOf(c.Address); err != nil {
		return err
	}
	switch {
	case c.Accepted:
		n.Kind = wave.Accepted
	case c.FalsePositive:
		n.Kind = wave.FalsePositive
	case c.Ticket != "":
		n.Kind, n.Text = wave.Ticket, strings.TrimSpace(c.Ticket+" "+n.Text)
	}
	switch {
	case n.Text == "" && n.Kind == wave.Comment:
		return usage(errors.New("the note says nothing"), "gatehouse note add ADDRESS TEXT, or --accepted, --false-positive, --ticket")
	case n.Text == "" && n.Kind == wave.Accepted:
		return usage(errors.New("nobody answers for it"), `--accepted needs a text that says who, such as "J. Doe, test bench"`)
	case utf8.RuneCountInString(n.Text) > maxNote:
		return usage(fmt.Errorf("the text is longer than %d characters", maxNote), "a ticket has more room: --ticket ID")
	}
	if n.Until, err = untilOf(c.Until, n.Made); err != nil {
		return err
	}
	return withStore(parent.StateDir, &parent.Stores, func(st *store.Store) error {
		if err := st.AddNote(&n); err != nil {
			return err
		}
		_, err := fmt.Fprintf(s.out, "Note %d: %s\n", n.Number, report.NoteLine(&n))
		return err
	})
}

// addressOf reads ADDRESS or ADDRESS:PORT; the port is 0 when there is none.
func addressOf(text string) (netip.Addr, uint16, error) {
	if at, err := netip.ParseAddrPort(text); err == nil && at.Port() != 0 {
		return at.Addr().Unmap(), at.Port(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return a, 0, usage(fmt.Errorf("%q is no address", text), "such as 192.0.2.7, 192.0.2.7:11434 or [2001:db8::7]:11434")
	}
	return a.Unmap(), 0, nil
}

// untilOf reads a day, whose end it is, or how long from now; zero for "".
func untilOf(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	until, err := time.Parse(time.DateOnly, text)
	if err == nil {
		until = until.AddDate(0, 0, 1)
	} else {
		var long span
		if err := long.UnmarshalText([]byte(text)); err != nil {
			return until, usage(fmt.Errorf("--until %q is no day and no duration", text), "try --until 2027-01-31 or --until 90d")
		}
		until = now.Add(time.Duration(long)).Truncate(time.Second)
	}
	if !until.After(now) {
		return until, usage(fmt.Errorf("--until %s is over", text), "try --until 90d")
	}
	return until, nil
}

type noteListCmd struct {
	Address string `arg:"" optional:"" help:"Only those on this address."`
	JSON    bool   `name:"json" help:"As JSON."`
}

func (c *noteListCmd) Run(s streams, parent *noteCmd) error {
	var only netip.Addr
	if c.Address != "" {
		var err error
		if only, _, err = addressOf(c.Address); err != nil {
			return err
		}
	}
	return withStore(parent.StateDir, &parent.Stores, func(st *store.Store) error {
		list, err := st.Notes()
		if err != nil {
			return err
		}
		if only.IsValid() {
			list = slices.DeleteFunc(list, func(n wave.Note) bool { return n.Address != only })
		}
		switch {
		case c.JSON:
			return writeJSON(s.out, list)
		case len(list) == 0:
			_, err := fmt.Fprintln(s.out, "There are no notes.")
			return err
		}
		return report.Notes(s.out, list, time.Now(), options(s.out))
	})
}

type noteRemoveCmd struct {
	Number []string `arg:"" help:"Their numbers."`
}

func (c *noteRemoveCmd) Run(_ context.Context, s streams, parent *noteCmd) error {
	var numbers []int64
	for _, text := range c.Number {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return usage(fmt.Errorf("%q is no number of a note", text), "gatehouse note list shows them")
		}
		numbers = append(numbers, n)
	}
	return withStore(parent.StateDir, &parent.Stores, func(st *store.Store) error {
		for _, n := range numbers {
			err := st.RemoveNote(n)
			if errors.Is(err, store.ErrNoNote) {
				return usage(fmt.Errorf("there is no note %d", n), "gatehouse note list shows them")
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(s.out, "Note %d is deleted.\n", n)
		}
		return nil
	})
}
