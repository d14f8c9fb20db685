package main

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/report"
	"gatehouse/internal/store"
)

type keyCmd struct {
	StateDir string `help:"Where keys are kept." placeholder:"DIR"`
	Stores   `embed:""`

	Add    keyAddCmd    `cmd:"" help:"Make a key; its secret is shown once."`
	List   keyListCmd   `cmd:"" help:"List the keys."`
	Show   keyShowCmd   `cmd:"" help:"Show what one key may do."`
	Rotate keyRotateCmd `cmd:"" help:"Give a key a new secret."`
	Revoke keyRevokeCmd `cmd:"" help:"End a key; a running gate follows within a second."`
	Usage  keyUsageCmd  `cmd:"" help:"Show what each key used, day by day."`
}

// keys opens the store, gives it to what, and closes it.
func (c *keyCmd) keys(what func(*store.Store) error) error {
	return withStore(c.StateDir, &c.Stores, what)
}

// find finds a key by its name or id.
func find(st *store.Store, nameOrID string) (key.Key, error) {
	k, err := st.FindKey(nameOrID)
	if errors.Is(err, store.ErrNotFound) {
		return k, usage(fmt.Errorf("there is no key %q", nameOrID), "gatehouse key list shows them")
	}
	return k, err
}

type keyAddCmd struct {
	Name      string `arg:"" help:"Whose it is, such as laptop or ci."`
	Allowance `embed:""`
	Expires   span   `help:"How long it is good for, such as 90d (default: until it is revoked)." placeholder:"TIME"`
	IfNone    bool   `help:"Only where there is no key that is good."`
	SSH       string `name:"ssh" help:"Public key file of a stock ollama CLI (~/.ollama/id_ed25519.pub): it gets in by its signature, and no secret is made." placeholder:"FILE"`
}

func (c *keyAddCmd) Run(s streams, parent *keyCmd) error {
	now := time.Now().UTC()
	if !plainName(c.Name) {
		return usage(fmt.Errorf("%q is no name for a key", c.Name), "letters, digits, - _ . @ and at most 64 of them")
	}
	terms, err := c.terms()
	if err != nil {
		return usage(err, "see gatehouse key add --help")
	}
	token, k := key.Mint(now)
	k.Name, k.Terms = c.Name, terms
	if c.Expires > 0 {
		k.Expires = now.Add(time.Duration(c.Expires))
	}
	if c.SSH != "" {
		text, err := readFile(c.SSH)
		if err != nil {
			return usage(err, "--ssh takes a public key file")
		}
		if k.Ed25519, err = key.ParseSSH(text); err != nil {
			return usage(fmt.Errorf("--ssh %s: %w", c.SSH, err), "the ollama CLI keeps its own in ~/.ollama/id_ed25519.pub")
		}
		token, k.Secrets = "", nil
	}
	return parent.keys(func(st *store.Store) error {
		if c.IfNone {
			keys, err := st.Keys()
			if err != nil {
				return err
			}
			for i := range keys {
				if keys[i].State(now) == key.Active {
					_, err := fmt.Fprintf(s.out, "The key %q is good as it was; gatehouse key rotate %[1]s gives it a new secret.\n", keys[i].Name)
					return err
				}
			}
		}
		err := st.AddKey(k)
		if errors.Is(err, store.ErrDuplicate) {
			return duplicate(st, &k, now)
		}
		if err != nil {
			return err
		}
		if token == "" {
			_, err = fmt.Fprintf(s.out, "\n %s gets in by its signature:\n\n   OLLAMA_AUTH=1 OLLAMA_HOST=https://<this machine>:8443 ollama list\n\n", c.Name)
			return err
		}
		return printToken(s, c.Name, token)
	})
}

// duplicate says which key stands in the way of a new one.
func duplicate(st *store.Store, k *key.Key, now time.Time) error {
	keys, err := st.Keys()
	if err != nil && !errors.Is(err, store.ErrDamaged) {
		return err
	}
	for _, old := range keys {
		if old.Name != k.Name {
			continue
		}
		hint := "gatehouse key rotate gives it a new secret"
		switch state := old.State(now); {
		case state != key.Active:
			return usage(fmt.Errorf("the key %q is %s, and the ledger knows it by that name", k.Name, state), "choose another name")
		case len(old.Secrets) == 0:
			hint = "choose another name"
		}
		return usage(fmt.Errorf("there is a key %q already", k.Name), hint)
	}
	for _, old := range keys {
		if k.Ed25519 != nil && old.Ed25519.Equal(k.Ed25519) && old.Revoked.IsZero() {
			return usage(fmt.Errorf("the key %q has this public key already", old.Name), "gatehouse key revoke "+old.Name+" first")
		}
	}
	return store.ErrDuplicate
}

// printToken shows a secret, this once: to a person with what to do with it, to
// a pipe bare.
func printToken(s streams, name, token string) error {
	if !isTerminal(s.out) {
		_, err := fmt.Fprintln(s.out, token)
		return err
	}
	_, err := fmt.Fprintf(s.out, "\n The key of %s, shown this once:\n\n   %s\n\n   curl -H \"Authorization: Bearer $KEY\" https://<this machine>:8443/api/tags\n\n", name, token)
	return err
}

func plainName(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.@", r))
	})
}

type keyListCmd struct {
	JSON bool `name:"json" help:"As JSON Lines."`
}

func (c *keyListCmd) Run(s streams, parent *keyCmd) error {
	return parent.keys(func(st *store.Store) error {
		keys, err := st.Keys()
		if err != nil {
			return err
		}
		now := time.Now()
		if c.JSON {
			for i := range keys {
				if err := printJSON(s, describeKey(&keys[i], now)); err != nil {
					return err
				}
			}
			return nil
		}
		if len(keys) == 0 {
			_, err := fmt.Fprintln(s.out, "no keys, so nobody enters; gatehouse key add NAME makes one")
			return err
		}
		rows := make([][]string, 0, len(keys))
		for i := range keys {
			d := describeKey(&keys[i], now)
			rows = append(rows, []string{d.Name, d.ID, d.State, strings.Join(d.Powers, ","), strings.Join(d.Models, ","), d.until(now)})
		}
		return report.List(s.out, []string{"NAME", "ID", "STATE", "POWERS", "MODELS", "EXPIRES"}, rows, options(s.out))
	})
}

// keyView is what is shown of a key: all but its secret, which nobody has.
type keyView struct {
	Name    string   `json:"name"`
	ID      string   `json:"id"`
	State   string   `json:"state"`
	By      []string `json:"by"` // secret, ed25519
	Created string   `json:"created"`
	Expires string   `json:"expires,omitzero"`
	Revoked string   `json:"revoked,omitzero"`
	Powers  []string `json:"powers"`
	Models  []string `json:"models"`
	Sources []string `json:"sources,omitzero"`
	Hours   []string `json:"hours,omitzero"`
	Caps    []string `json:"caps,omitzero"`
	Limits  []string `json:"limits,omitzero"`
	Strict  bool     `json:"strict,omitzero"`
}

func (v *keyView) until(now time.Time) string {
	t, err := time.Parse(time.RFC3339, v.Expires)
	switch {
	case err != nil:
		return "never"
	case v.State != "active":
		return t.Format(time.DateOnly)
	}
	days := int(t.Sub(now).Hours() / 24)
	return fmt.Sprintf("%s (%d days)", t.Format(time.DateOnly), days)
}

func describeKey(k *key.Key, now time.Time) *keyView {
	v := &keyView{Name: k.Name, ID: k.ID, State: k.State(now).String(), Created: stamp(k.Created), Expires: stamp(k.Expires), Revoked: stamp(k.Revoked), Strict: k.Terms.Strict}
	if len(k.Secrets) > 0 {
		v.By = append(v.By, "secret")
	}
	if k.Ed25519 != nil {
		v.By = append(v.By, "ed25519")
	}
	t := &k.Terms
	v.Models = t.Models
	for _, p := range t.Powers {
		v.Powers = append(v.Powers, string(p))
	}
	for _, p := range t.Sources {
		v.Sources = append(v.Sources, p.String())
	}
	for _, w := range t.Hours {
		v.Hours = append(v.Hours, window(w).String())
	}
	add := func(list *[]string, name string, n int64) {
		if n != 0 {
			*list = append(*list, fmt.Sprintf("%s %d", name, n))
		}
	}
	add(&v.Caps, "num_ctx", t.Caps.NumCtx)
	add(&v.Caps, "max_tokens", t.Caps.MaxTokens)
	if t.Caps.KeepAlive != 0 {
		v.Caps = append(v.Caps, "keep_alive "+t.Caps.KeepAlive.String())
	}
	add(&v.Caps, "images", int64(max(t.Caps.Images, 0)))
	if t.Caps.Images < 0 {
		v.Caps = append(v.Caps, "no images")
	}
	add(&v.Caps, "request_bytes", t.Caps.RequestBytes)
	add(&v.Limits, "rpm", t.Limits.PerMinute)
	add(&v.Limits, "tokens_minute", t.Limits.TokensMinute)
	add(&v.Limits, "tokens_day", t.Limits.TokensDay)
	add(&v.Limits, "streams", int64(t.Limits.Streams))
	add(&v.Limits, "weight", int64(t.Limits.Weight))
	return v
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func printJSON(s streams, v any) error {
	if err := json.MarshalWrite(s.out, v); err != nil {
		return err
	}
	_, err := fmt.Fprintln(s.out)
	return err
}

type keyShowCmd struct {
	Key  string `arg:"" help:"Name or id."`
	JSON bool   `name:"json" help:"As JSON."`
}

func (c *keyShowCmd) Run(s streams, parent *keyCmd) error {
	return parent.keys(func(st *store.Store) error {
		k, err := find(st, c.Key)
		if err != nil {
			return err
		}
		v := describeKey(&k, time.Now())
		if c.JSON {
			return printJSON(s, v)
		}
		var b bytes.Buffer
		if err := json.MarshalWrite(&b, v, jsontext.WithIndent("  ")); err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s\n", b.Bytes())
		return err
	})
}

type keyRotateCmd struct {
	Key     string `arg:"" help:"Name or id."`
	Overlap span   `help:"How long the old secret stays good." default:"24h" placeholder:"TIME"`
}

func (c *keyRotateCmd) Run(s streams, parent *keyCmd) error {
	return parent.keys(func(st *store.Store) error {
		k, err := find(st, c.Key)
		if err != nil {
			return err
		}
		token := ""
		err = st.UpdateKey(k.ID, func(k *key.Key) error {
			if len(k.Secrets) == 0 {
				return usage(fmt.Errorf("%s has no secret, it gets in by its signature", k.Name), "gatehouse key revoke ends it")
			}
			if state := k.State(time.Now()); state != key.Active {
				return usage(fmt.Errorf("%s is %s", k.Name, state), "gatehouse key add makes a new one, under another name")
			}
			token = k.Rotate(time.Now().UTC(), time.Duration(c.Overlap))
			return nil
		})
		if err != nil {
			return err
		}
		return printToken(s, k.Name, token)
	})
}

type keyRevokeCmd struct {
	Key []string `arg:"" help:"Names or ids."`
}

func (c *keyRevokeCmd) Run(s streams, parent *keyCmd) error {
	return parent.keys(func(st *store.Store) error {
		for _, name := range c.Key {
			k, err := find(st, name)
			if err != nil {
				return err
			}
			err = st.UpdateKey(k.ID, func(k *key.Key) error {
				if k.Revoked.IsZero() {
					k.Revoked = time.Now().UTC()
				}
				return nil
			})
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(s.out, "%s is revoked\n", report.Clean(k.Name)); err != nil {
				return err
			}
		}
		return nil
	})
}

type keyUsageCmd struct {
	Key  string `arg:"" optional:"" help:"Name or id (default: all)."`
	Days int    `help:"How many days back." default:"14"`
	JSON bool   `name:"json" help:"As JSON Lines."`
}

func (c *keyUsageCmd) Run(s streams, parent *keyCmd) error {
	if c.Days < 1 || c.Days > 3660 {
		return usage(fmt.Errorf("--days %d is not between 1 and 3660", c.Days), "such as --days 30")
	}
	dir, err := stateDir(parent.StateDir)
	if err != nil {
		return err
	}
	until := time.Now().UTC()
	since := until.Truncate(24*time.Hour).AddDate(0, 0, 1-c.Days)
	days, err := ledger.Usage(filepath.Join(dir, "ledger"), since, until)
	if err != nil {
		return err
	}
	if c.Key != "" {
		days = slices.DeleteFunc(days, func(d ledger.DayUsage) bool { return d.Name != c.Key && d.ID != c.Key })
	}
	if c.JSON {
		for _, d := range days {
			if err := printJSON(s, d); err != nil {
				return err
			}
		}
		return nil
	}
	if len(days) == 0 {
		_, err := fmt.Fprintf(s.out, "nothing in the last %d days\n", c.Days)
		return err
	}
	return drawUsage(s.out, days, since, c.Days, options(s.out))
}
