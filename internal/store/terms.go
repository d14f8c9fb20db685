package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"gatehouse/internal/key"
	"gatehouse/internal/ollama"
)

// secretRow and termsRow are how a key's secrets and terms are written. They
// are apart from the rooms' own types, so that a renamed field there does not
// change what is on the disk. Reading is strict: terms that are only half
// understood must not let anybody in.
type secretRow struct {
	SHA256 string `json:"sha256"`
	Until  int64  `json:"until,omitzero"`
}

type termsRow struct {
	Version int `json:"version"` // termsVersion

	Powers  []string       `json:"powers,omitempty"`
	Models  []string       `json:"models,omitempty"`
	Sources []netip.Prefix `json:"sources,omitempty"`
	Hours   []windowRow    `json:"hours,omitempty"`

	NumCtx       int64 `json:"num_ctx,omitzero"`
	MaxTokens    int64 `json:"max_tokens,omitzero"`
	KeepAlive    int64 `json:"keep_alive_ns,omitzero"`
	Images       int   `json:"images,omitzero"`
	RequestBytes int64 `json:"request_bytes,omitzero"`

	PerMinute    int64 `json:"per_minute,omitzero"`
	TokensMinute int64 `json:"tokens_minute,omitzero"`
	TokensDay    int64 `json:"tokens_day,omitzero"`
	Streams      int   `json:"streams,omitzero"`
	Weight       int   `json:"weight,omitzero"`

	Strict bool `json:"strict,omitzero"`
}

type windowRow struct {
	Days []time.Weekday `json:"days,omitempty"`
	From int64          `json:"from_ns,omitzero"`
	To   int64          `json:"to_ns,omitzero"`
	Zone string         `json:"zone,omitzero"`
}

// termsVersion grows when a field changes its meaning. A new field needs none:
// a release that does not know it refuses the terms.
const termsVersion = 1

func encodeSecrets(secrets []key.Secret) (string, error) {
	rows := make([]secretRow, len(secrets))
	for i, s := range secrets {
		rows[i] = secretRow{hex.EncodeToString(s.Hash[:]), unix(s.Until)}
	}
	text, err := json.Marshal(rows)
	return string(text), err
}

func decodeSecrets(text string) ([]key.Secret, error) {
	var rows []secretRow
	if err := json.Unmarshal([]byte(text), &rows, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	var secrets []key.Secret
	for _, r := range rows {
		hash, err := hex.DecodeString(r.SHA256)
		if err != nil || len(hash) != 32 {
			return nil, errors.New("not a SHA-256")
		}
		secrets = append(secrets, key.Secret{Hash: [32]byte(hash), Until: at(r.Until)})
	}
	return secrets, nil
}

func encodeTerms(t *key.Terms) (string, error) {
	row := termsRow{
		Version: termsVersion,
		Models:  t.Models, Sources: t.Sources,
		NumCtx: t.Caps.NumCtx, MaxTokens: t.Caps.MaxTokens, KeepAlive: int64(t.Caps.KeepAlive), Images: t.Caps.Images, RequestBytes: t.Caps.RequestBytes,
		PerMinute: t.Limits.PerMinute, TokensMinute: t.Limits.TokensMinute, TokensDay: t.Limits.TokensDay, Streams: t.Limits.Streams, Weight: t.Limits.Weight,
		Strict: t.Strict,
	}
	for _, p := range t.Powers {
		row.Powers = append(row.Powers, string(p))
	}
	for _, w := range t.Hours {
		row.Hours = append(row.Hours, windowRow{w.Days, int64(w.From), int64(w.To), w.Zone})
	}
	text, err := json.Marshal(row)
	return string(text), err
}

func decodeTerms(text string) (key.Terms, error) {
	var row termsRow
	if err := json.Unmarshal([]byte(text), &row, json.RejectUnknownMembers(true)); err != nil {
		return key.Terms{}, err
	}
	if row.Version != termsVersion {
		return key.Terms{}, fmt.Errorf("version %d, this release knows %d", row.Version, termsVersion)
	}
	t := key.Terms{
		Models: row.Models, Sources: row.Sources,
		Caps:   key.Caps{NumCtx: row.NumCtx, MaxTokens: row.MaxTokens, KeepAlive: time.Duration(row.KeepAlive), Images: row.Images, RequestBytes: row.RequestBytes},
		Limits: key.Limits{PerMinute: row.PerMinute, TokensMinute: row.TokensMinute, TokensDay: row.TokensDay, Streams: row.Streams, Weight: row.Weight},
		Strict: row.Strict,
	}
	for _, name := range row.Powers {
		p := ollama.Power(name)
		if !slices.Contains(ollama.Powers, p) {
			return key.Terms{}, fmt.Errorf("unknown power %q", name)
		}
		t.Powers = append(t.Powers, p)
	}
	for _, w := range row.Hours {
		for _, d := range w.Days {
			if d < time.Sunday || d > time.Saturday {
				return key.Terms{}, fmt.Errorf("day %d of the week", d)
			}
		}
		t.Hours = append(t.Hours, key.Window{Days: w.Days, From: time.Duration(w.From), To: time.Duration(w.To), Zone: w.Zone})
	}
	return t, nil
}
