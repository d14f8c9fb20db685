package key

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Tailnet takes the caller's identity from the tailnet that the connection came
// by: WireGuard has proven which machine it is, and the tailnet's control server
// says whose. The zero Tailnet lets nobody in.
type Tailnet struct {
	WhoIs WhoIs
	// Terms by the first of these that has any, else nobody enters:
	//   - of a user's machine: the login, such as ada@example.com, then its domain
	//     as *@example.com, then "*";
	//   - of a tagged machine, which has no user: its tags, such as tag:ci, in
	//     alphabetical order;
	//   - of a machine of another tailnet that this one is shared with: shared: and
	//     the login, and nothing else.
	Terms map[string]Terms
}

// WhoIs says whose a machine of the tailnet is.
type WhoIs interface {
	// WhoIs returns ErrNoPeer for an address that is no machine's own, such as
	// one behind a subnet router.
	WhoIs(ctx context.Context, addr netip.Addr) (Peer, error)
}

// ErrNoPeer says that the tailnet knows no machine by an address.
var ErrNoPeer = errors.New("no machine of the tailnet has this address")

// Peer is a machine of a tailnet.
type Peer struct {
	ID     string   // of the machine, which never changes
	Name   string   // of the machine, for people
	Login  string   // of its user; without meaning when there are tags
	Tags   []string // such as tag:ci; a tagged machine has no user
	Shared bool     // it belongs to another tailnet
}

const (
	peerTime    = 2 * time.Second // to learn whose a machine is: this process knows, or nobody
	maxPeerName = 256             // bytes of a login, a tag or a machine's name
	maxPeerTags = 64
)

func (t *Tailnet) identify(ctx context.Context, from netip.Addr) (Identity, *Refusal) {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	peer, err := Peer{}, ErrNoPeer
	if t.WhoIs != nil {
		peer, err = t.WhoIs.WhoIs(ctx, from)
	}
	switch {
	case errors.Is(err, ErrNoPeer):
		return Identity{}, &Refusal{Reason: UnknownPeer, Message: "the tailnet does not know this address as a machine's own; one behind a subnet router needs a key"}
	case err != nil:
		return Identity{}, &Refusal{Reason: PeerUnsure, Message: "the tailnet cannot be asked who this is at the moment", RetryAfter: peerTime}
	case !peer.plain():
		return Identity{}, &Refusal{Reason: UnknownPeer, Message: "what the tailnet calls this machine or its user is no name"}
	}
	id, name, rules := peer.known()
	for _, rule := range rules {
		if terms, ok := t.Terms[rule]; ok {
			return Identity{Kind: ByTailnet, ID: id, Name: name, Terms: terms}, nil
		}
	}
	return Identity{}, &Refusal{Reason: NoPolicy, Message: "this machine and its user are given nothing here", KeyID: id}
}

// plain reports whether p is named by texts that may stand in a ledger and mean
// what they look like. A login has no colon, so that none reads as a rule for
// something else.
func (p Peer) plain() bool {
	if p.ID == "" || p.Login == "" && len(p.Tags) == 0 || strings.ContainsAny(p.Login, ":*") || len(p.Tags) > maxPeerTags {
		return false
	}
	for _, word := range append([]string{p.ID, p.Login}, p.Tags...) {
		if !printed(word) || strings.Contains(word, " ") {
			return false
		}
	}
	return printed(p.Name) && !slices.ContainsFunc(p.Tags, func(tag string) bool { return !strings.HasPrefix(tag, "tag:") })
}

// printed leaves out what has no shape of its own, such as the marks that turn
// the direction of writing.
func printed(text string) bool {
	return len(text) <= maxPeerName && utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// known is what the ledger and limits know p by, its name for people, and the
// rules that may be for it, the nearest first.
func (p Peer) known() (id, name string, rules []string) {
	switch {
	case len(p.Tags) > 0:
		id, name = "tailnet:node:"+p.ID, strings.Join(p.Tags, ",")+" on "+p.Name
		if !p.Shared { // another tailnet gives its tags as it likes
			rules = slices.Sorted(slices.Values(p.Tags))
		}
	case p.Shared:
		id, name = "tailnet:shared:"+p.Login, p.Login+" on "+p.Name
		rules = []string{"shared:" + p.Login}
	default:
		id, name = "tailnet:"+p.Login, p.Login+" on "+p.Name
		rules = []string{p.Login}
		if at := strings.LastIndexByte(p.Login, '@'); at >= 0 {
			rules = append(rules, "*"+p.Login[at:])
		}
		rules = append(rules, "*")
	}
	return id, name, rules
}
