package key

import (
	"net/netip"
	"time"

	"gatehouse/internal/ollama"
)

// Terms say what the holder of a key may do. The zero Terms allow nothing:
// powers and models are given by name only.
type Terms struct {
	Powers  []ollama.Power // just these; Manage does not include Infer
	Models  []string       // globs such as "llama3.2:*"; "*" is every model
	Sources []netip.Prefix // where the caller may come from; none: anywhere
	Hours   []Window       // when; none: always
	Caps    Caps
	Limits  Limits
	Strict  bool // refuse what passes a cap, instead of clamping it
}

// Window is a time of day on some days of the week. From equal to To is the
// whole day; To before From runs past midnight.
type Window struct {
	Days     []time.Weekday // none: every day
	From, To time.Duration  // since midnight in Zone
	Zone     string         // IANA name; "" is UTC
}

// Caps bound one request. A zero field is no cap of the key's own.
type Caps struct {
	NumCtx       int64         // tokens of context
	MaxTokens    int64         // tokens of answer: num_predict, max_tokens
	KeepAlive    time.Duration // how long the model may stay loaded after
	Images       int           // in one request; -1 allows none
	RequestBytes int64         // length of the body
}

// Limits bound a key over time. A zero field is no limit of the key's own.
type Limits struct {
	PerMinute    int64 // requests a minute
	TokensMinute int64 // tokens a minute, of prompts and answers
	TokensDay    int64 // tokens a UTC day, of prompts and answers
	Streams      int   // requests under way at the same time
	Weight       int   // share of a busy upstream; 0 is 1
}

// Identity is who the gate decided a caller is.
type Identity struct {
	Kind  Kind
	ID    string // what limits and the ledger know the caller by; unique among kinds
	Name  string // for people
	Terms Terms
}

// Kind is how a caller showed who it is.
type Kind string

// The kinds.
const (
	ByKey         Kind = "key"         // a bearer key of ours
	BySignature   Kind = "ed25519"     // the stock ollama CLI's signature
	ByToken       Kind = "oidc"        // a JWT of a known issuer
	ByCertificate Kind = "certificate" // a client certificate
	ByTailnet     Kind = "tailnet"     // the tailnet that the connection came by
	ByHeader      Kind = "header"      // a header set by a trusted proxy
)
