// Package policy decides what an identity may ask of Ollama: who, with which
// power, of which model, from where, when and how much at once.
// Pure: no clock and no network; of files only the time zones that Go reads.
package policy

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"gatehouse/internal/key"
	"gatehouse/internal/ollama"
)

// Request is what there is to decide on.
type Request struct {
	Route ollama.Route
	Known bool        // Route is in the route table
	Ask   *ollama.Ask // nil: the route takes none
	From  netip.Addr
	Now   time.Time
	Bytes int64 // length of the body; below 0: not known yet

	// Elsewhere reports whether a model, by its canonical name, computes on
	// another server, as the upstream's list of models says; nil: its name tells.
	Elsewhere func(model string) bool

	// Unseen is a request whose body stays with a proxy in front: Ask holds what
	// its path tells, and Bytes is not known.
	Unseen bool
	// CloudOff, of an unseen request: no model behind computes with an account.
	CloudOff bool
}

// Decision is what comes of it. The zero Decision denies.
type Decision struct {
	Allow   bool
	Status  int          // of the answer, when denied
	Reason  string       // when denied: one of the reasons below
	Message string       // when denied, for the caller
	Clamp   ollama.Clamp // for the body, when allowed
}

// Why a request is denied: a contract of the ledger and the metrics.
const (
	UnknownRoute  = "unknown-route"  // no route has the path: 404
	UnknownMethod = "unknown-method" // the path has other methods: 405
	Source        = "source"         // the caller is somewhere else than it may be
	Hours         = "hours"          // it is not the time
	Power         = "power"          // the key has not the route's power
	Size          = "size"           // the body is too long: 413, or has no length: 411
	NoModel       = "no-model"       // the request names no model: 400
	Model         = "model"          // it names one that is not the key's
	Cloud         = "cloud"          // it would use the server's ollama.com account
	Capped        = "capped"         // a strict key asks for more than its caps
	Images        = "images"         // it has more images than it may
	Unload        = "unload"         // it unloads a model that others may be using
	Uncounted     = "uncounted"      // the route cannot be held to bounds on tokens
	Unseen        = "unseen-body"    // only the body, which is not there, would tell whether it may
)

// Decide decides on a request of an identity. Zero terms deny everything.
//
// A route needs its own power and no other: infer gives no read. In a request
// that names several models, as a copy does, each has to be the key's.
//
// Caps become the Decision's Clamp, or, of strict terms, denials; what a request
// leaves out is filled in either way. Three things are always denied, for they
// cannot be clamped: too many images; too long a body; and, on the routes for
// images, bounds on tokens, since those routes run a text model unseen and
// uncounted.
//
// A keep_alive of 0 unloads the model for everybody, and a very short one soon
// after. So a key with a cap on keep_alive may not go below a minute either, or
// below its cap where that is less: shorter is clamped like longer, and a request
// that does nothing but unload is denied. Without that cap infer is power over
// what is in memory.
//
// A model of ollama.com's cloud computes in the name, and on the bill, of the
// account that the server is signed in to, and sends the prompt there. That is
// acting as the account, so besides its own power such a request needs account:
// to compute with the model, to copy it to another name, and to create one on
// another server. So does a request to /v1/messages that has the server search the web. Which models are
// of the cloud, their names tell, as Ollama's own code has it; Request.Elsewhere
// tells it of renamed ones too.
//
// Of an unseen request nothing is known but the route: it is denied to a key whose
// terms only the body, the answer or its end could be held to.
func Decide(id key.Identity, req Request) Decision {
	terms, route := id.Terms, req.Route
	if !req.Known || route.Power == ollama.Unknown {
		return unknown(route)
	}
	if !comesFrom(terms.Sources, req.From) {
		return deny(http.StatusForbidden, Source, "this key may not be used from your address")
	}
	if !open(terms.Hours, req.Now) {
		return deny(http.StatusForbidden, Hours, "this key may not be used at this time")
	}
	if !slices.Contains(terms.Powers, route.Power) {
		return deny(http.StatusForbidden, Power, fmt.Sprintf("this key has not the power %q that %s %s needs", route.Power, route.Method, route.Pattern))
	}
	if req.Unseen {
		if d, ok := unseen(terms, req); ok {
			return d
		}
	} else if limit := terms.Caps.RequestBytes; limit > 0 {
		length := req.Bytes
		if length < 0 && req.Ask != nil {
			length = int64(req.Ask.Bytes)
		}
		switch {
		case length > limit:
			return deny(http.StatusRequestEntityTooLarge, Size, fmt.Sprintf("this key's requests may have %d bytes, this one has %d", limit, length))
		case length < 0:
			return deny(http.StatusLengthRequired, Size, "this key's requests need a Content-Length")
		}
	}
	if d := models(terms, req); !d.Allow {
		return d
	}
	if route.Power == ollama.Infer {
		return compute(terms, req)
	}
	return Decision{Allow: true}
}

func deny(status int, reason, message string) Decision {
	return Decision{Status: status, Reason: reason, Message: message}
}

// unseen decides on a request without its body; ok is false where the body does
// not matter.
func unseen(terms key.Terms, req Request) (d Decision, ok bool) {
	route, caps, limits := req.Route, terms.Caps, terms.Limits
	no := func(what string) (Decision, bool) {
		return deny(http.StatusForbidden, Unseen, "this proxy shows the gate no bodies, so "+what), true
	}
	sends := route.Method == http.MethodPost || route.Method == http.MethodDelete
	switch {
	case (route.TakesJSON() || route.ListsModels()) && !slices.ContainsFunc(terms.Models, all):
		return no("a key that is for some models cannot be used for this")
	case sends && caps.RequestBytes > 0:
		return no("a key with a cap on the length of requests cannot be used for this")
	case !route.TakesJSON():
		return Decision{}, false
	case caps != (key.Caps{}) || limits.TokensMinute > 0 || limits.TokensDay > 0 || limits.Streams > 0:
		return no("a key with caps, or with limits on tokens or streams, cannot be used for this")
	case reuses(route) && !req.CloudOff && !slices.Contains(terms.Powers, ollama.Account):
		return no("it cannot tell cloud models from others: start Ollama with OLLAMA_NO_CLOUD=1, and say so with cloud_off under forward_auth")
	}
	return Decision{Allow: true}, true
}

// unknown denies what the route table does not have.
func unknown(route ollama.Route) Decision {
	methods := ollama.Methods(route.Pattern)
	if len(methods) == 0 || slices.Contains(methods, route.Method) {
		return deny(http.StatusNotFound, UnknownRoute, "there is nothing here")
	}
	return deny(http.StatusMethodNotAllowed, UnknownMethod, "this path takes "+strings.Join(methods, ", "))
}

// comesFrom reports whether an address is in one of the sources; none are all.
func comesFrom(sources []netip.Prefix, from netip.Addr) bool {
	from = from.Unmap().WithZone("")
	return len(sources) == 0 || slices.ContainsFunc(sources, func(p netip.Prefix) bool { return p.Contains(from) })
}

// models decides on the models that a request names.
func models(terms key.Terms, req Request) Decision {
	ask, route := req.Ask, req.Route
	everyModel := slices.ContainsFunc(terms.Models, all)
	switch {
	case route.Pattern == "/api/blobs/:digest":
		// Layers have no name: asking for one tells whether the server has it, of
		// whatever model it is. Who makes models has to ask.
		if route.Power != ollama.Manage && !everyModel && !slices.Contains(terms.Powers, ollama.Manage) {
			return deny(http.StatusForbidden, Model, "this key may not ask for layers of models")
		}
		return Decision{Allow: true}
	case !route.NamesModels() && route.Power != ollama.Infer:
		return Decision{Allow: true}
	case ask == nil || len(ask.Models) == 0 && !ask.EveryModel:
		return deny(http.StatusBadRequest, NoModel, "the request has to name a model")
	case ask.EveryModel && !everyModel:
		return deny(http.StatusForbidden, Model, "this needs a key for every model")
	}
	account := slices.Contains(terms.Powers, ollama.Account)
	for _, model := range ask.Models {
		if !AllowsModel(terms, model) {
			return deny(http.StatusForbidden, Model, fmt.Sprintf("this key may not use the model %.100q", model))
		}
		if !account && reuses(route) && cloud(model, req.Elsewhere) {
			return deny(http.StatusForbidden, Cloud, fmt.Sprintf("the model %.100q computes with the server's ollama.com account: that needs the power %q", model, ollama.Account))
		}
	}
	if !account && (ask.WebSearch || ask.Remote) {
		return deny(http.StatusForbidden, Cloud, fmt.Sprintf("this acts as the server's ollama.com account: that needs the power %q", ollama.Account))
	}
	return Decision{Allow: true}
}

// reuses reports whether a route computes with a model, or gives another name to
// what does.
func reuses(r ollama.Route) bool {
	return r.Power == ollama.Infer || r.Method == http.MethodPost &&
		(r.Pattern == "/api/copy" || r.Pattern == "/api/create" || r.Pattern == "/api/experimental/aliases")
}

// cloud reports whether a model computes at ollama.com.
func cloud(model string, elsewhere func(string) bool) bool {
	canonical := ollama.CanonicalName(model)
	name := strings.TrimSuffix(canonical, ":latest")
	return strings.HasSuffix(name, ":cloud") || strings.HasSuffix(name, "-cloud") ||
		elsewhere != nil && elsewhere(canonical)
}

// briefest is how long a key with a cap on keep_alive has to leave a model loaded.
const briefest = time.Minute

// compute decides how much a request may have computed.
func compute(terms key.Terms, req Request) Decision {
	caps, limits, ask := terms.Caps, terms.Limits, req.Ask
	if n := max(0, caps.Images); caps.Images != 0 && ask.Images > n {
		return deny(http.StatusForbidden, Images, fmt.Sprintf("this key's requests may have %d images, this one has %d", n, ask.Images))
	}
	if !req.Route.Bounded() && (caps.MaxTokens > 0 || limits.TokensMinute > 0 || limits.TokensDay > 0) {
		return deny(http.StatusForbidden, Uncounted, "this key's tokens are counted, and here they cannot be")
	}
	clamp := ollama.Clamp{NumCtx: caps.NumCtx, MaxTokens: caps.MaxTokens, CountUsage: true}
	if caps.KeepAlive > 0 {
		if ask.Unload {
			return deny(http.StatusForbidden, Unload, "this key may not unload models")
		}
		clamp.KeepAlive, clamp.KeepAliveMin = caps.KeepAlive, min(briefest, caps.KeepAlive)
	}
	if terms.Strict {
		if what := ask.Exceeds(clamp); what != "" {
			return deny(http.StatusForbidden, Capped, fmt.Sprintf("this key's %s may be %s", what, bounds(what, clamp)))
		}
	}
	return Decision{Allow: true, Clamp: clamp}
}

// bounds says what a cap allows.
func bounds(what string, c ollama.Clamp) string {
	switch what {
	case "num_ctx":
		return fmt.Sprintf("up to %d", c.NumCtx)
	case "keep_alive":
		return fmt.Sprintf("%v to %v", c.KeepAliveMin, c.KeepAlive)
	}
	return fmt.Sprintf("1 to %d", c.MaxTokens)
}

// open reports whether now is in one of the windows; none are always.
func open(hours []key.Window, now time.Time) bool {
	return len(hours) == 0 || slices.ContainsFunc(hours, func(w key.Window) bool { return within(w, now) })
}

// within reports whether now is in the window. What counts is what the clock on
// the wall says, so on the days that it is changed a window can be an hour longer
// or shorter. A window past midnight belongs to the day that it begins on. One
// that makes no sense, or of a zone that this machine does not know, never comes.
func within(w key.Window, now time.Time) bool {
	const day = 24 * time.Hour
	if w.From < 0 || w.To < 0 || w.From > day || w.To > day {
		return false
	}
	zone, err := location(w.Zone)
	if err != nil {
		return false
	}
	now = now.In(zone)
	hour, minute, second := now.Clock()
	since := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute +
		time.Duration(second)*time.Second + time.Duration(now.Nanosecond())
	today := now.Weekday()
	yesterday := (today + 6) % 7
	on := func(d time.Weekday) bool { return len(w.Days) == 0 || slices.Contains(w.Days, d) }
	switch {
	case w.From == w.To:
		return on(today)
	case w.From < w.To:
		return on(today) && w.From <= since && since < w.To
	}
	return on(today) && w.From <= since || on(yesterday) && since < w.To
}

// zones keeps the time zones that were looked up, and those that are none: as
// many as the configuration names.
var zones sync.Map // of name to *time.Location or error

func location(name string) (*time.Location, error) {
	found, ok := zones.Load(name)
	if !ok {
		zone, err := time.LoadLocation(name)
		if found = zone; err != nil {
			found = err
		}
		zones.Store(name, found)
	}
	zone, ok := found.(*time.Location)
	if !ok {
		return nil, found.(error)
	}
	return zone, nil
}
