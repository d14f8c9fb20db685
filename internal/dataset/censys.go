package dataset

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/evidence"
)

// censys reads hosts with their services, or services alone, as the older
// Search and the Platform name them, bare or in the replies of their APIs.
type censys struct{}

type censysHost struct {
	IP       word                    `json:"ip"`
	Services *several[censysService] `json:"services"`
	Location maybe[struct {
		Country word `json:"country_code"`
		Region  word `json:"province"`
		City    word `json:"city"`
	}] `json:"location"`
	System maybe[struct {
		ASN         word `json:"asn"`
		Name        word `json:"name"`
		Description word `json:"description"`
	}] `json:"autonomous_system"`
	DNS maybe[struct {
		Names   several[word] `json:"names"`
		Reverse maybe[struct {
			Names several[word] `json:"names"`
		}] `json:"reverse_dns"`
	}] `json:"dns"`
	Whois maybe[struct {
		Organization maybe[struct {
			Name  word `json:"name"`
			Abuse several[struct {
				Email word `json:"email"`
			}] `json:"abuse_contacts"`
		}] `json:"organization"`
	}] `json:"whois"`
	Updated word `json:"last_updated_at"`
}

type censysService struct {
	Port      word `json:"port"`
	Name      word `json:"service_name"`
	Extended  word `json:"extended_service_name"`
	Protocol  word `json:"protocol"`
	Transport word `json:"transport_protocol"`
	Observed  word `json:"observed_at"`
	Scanned   word `json:"scan_time"`
	HTTP      maybe[struct {
		Request maybe[struct {
			URI word `json:"uri"`
		}] `json:"request"`
		Response maybe[censysReply] `json:"response"`
	}] `json:"http"`
	Endpoints several[struct {
		Path   word               `json:"path"`
		HTTP   maybe[censysReply] `json:"http"`
		Ollama maybe[tells]       `json:"ollama"`
	}] `json:"endpoints"`
	Ollama   maybe[tells] `json:"ollama"`
	Software several[struct {
		Product word `json:"product"`
		Version word `json:"version"`
	}] `json:"software"`
	TLS  maybe[censysTLS]  `json:"tls"`
	Cert maybe[censysCert] `json:"cert"`
}

type censysReply struct {
	Status  word                             `json:"status_code"`
	Reason  word                             `json:"status_reason"`
	Proto   word                             `json:"protocol"`
	Headers maybe[map[string]jsontext.Value] `json:"headers"`
	Body    maybe[string]                    `json:"body"`
}

type censysTLS struct {
	Version      word `json:"version_selected"`
	Fingerprint  word `json:"fingerprint_sha256"`
	Certificates maybe[struct {
		Fingerprint word              `json:"leaf_fp_sha_256"`
		Leaf        maybe[censysCert] `json:"leaf_data"`
	}] `json:"certificates"`
}

type censysCert struct {
	Fingerprint word          `json:"fingerprint_sha256"`
	Older       word          `json:"fingerprint"`
	Names       several[word] `json:"names"`
	Subject     word          `json:"subject_dn"`
	Issuer      word          `json:"issuer_dn"`
	Parsed      maybe[struct {
		Subject  word `json:"subject_dn"`
		Issuer   word `json:"issuer_dn"`
		Validity maybe[struct {
			From word `json:"not_before"`
			To   word `json:"not_after"`
		}] `json:"validity_period"`
	}] `json:"parsed"`
}

// censysReplies are the wrappers that the APIs put around hosts.
type censysReplies struct {
	Host     maybe[jsontext.Value]   `json:"host"`
	Hosts    several[jsontext.Value] `json:"hosts"`
	Hits     several[jsontext.Value] `json:"hits"`
	Resource maybe[jsontext.Value]   `json:"resource"`
	Result   maybe[jsontext.Value]   `json:"result"`
}

func (c censys) parse(record []byte, emit func(Row) error) error { return c.open(record, emit, 0) }

// open takes hosts out of what is around them, four wrappers at most.
func (c censys) open(record []byte, emit func(Row) error, depth int) error {
	var r struct {
		censysHost
		censysService
		censysReplies
	}
	if err := unmarshal(record, &r); err != nil {
		return err
	}
	inner := slices.Concat(r.Hosts, r.Hits)
	for _, one := range []maybe[jsontext.Value]{r.Host, r.Resource, r.Result} {
		if one.ok && one.T.Kind() == '{' {
			inner = append(inner, one.T)
		}
	}
	var bad error
	for _, value := range inner {
		if depth >= 4 || r.IP != "" {
			break
		}
		if err := c.open(value, emit, depth+1); errors.Is(err, errStop) {
			return err
		} else if err != nil && bad == nil {
			bad = err
		}
	}
	switch {
	case r.IP == "" && len(inner) > 0:
		return bad
	case r.Services == nil:
		return r.censysHost.tell(&r.censysService, emit)
	}
	for i := range *r.Services {
		if err := r.censysHost.tell(&(*r.Services)[i], emit); errors.Is(err, errStop) {
			return err
		} else if err != nil && bad == nil {
			bad = err
		}
	}
	return bad
}

func (h *censysHost) tell(v *censysService, emit func(Row) error) error {
	addr, port, err := placeOf(h.IP, v.Port)
	if err != nil {
		return err
	}
	switch strings.ToLower(string(v.Transport)) {
	case "udp", "quic", "icmp":
		return nil
	}
	s := story{source: "censys"}
	s.Host = hostAt(addr, port)
	s.Host.ObservedAt = timeOf(string(orElse(orElse(v.Scanned, v.Observed), h.Updated)))
	s.Host.TLS = v.tls()

	if v.HTTP.ok {
		s.reply(pathOf(string(v.HTTP.T.Request.T.URI)), &v.HTTP.T.Response)
	}
	for i := range v.Endpoints {
		e := &v.Endpoints[i]
		s.reply(string(e.Path), &e.HTTP)
		if e.Ollama.ok {
			s.ollama(&e.Ollama.T)
		}
	}
	if v.Ollama.ok {
		s.ollama(&v.Ollama.T)
	}
	for _, p := range v.Software {
		s.product(string(p.Product), string(p.Version))
	}
	if name := string(orElse(v.Extended, orElse(v.Name, v.Protocol))); !isHTTP(name) {
		s.others = append(s.others, strings.ToLower(name))
	}

	s.country(string(h.Location.T.Country))
	s.claim("region", string(h.Location.T.Region))
	s.claim("city", string(h.Location.T.City))
	s.claim("asn", number(h.System.T.ASN))
	s.claim("network", string(orElse(h.System.T.Name, h.System.T.Description)))
	s.claim("name", string(h.Whois.T.Organization.T.Name))
	for _, a := range h.Whois.T.Organization.T.Abuse {
		s.claim("contact", string(a.Email))
	}
	for _, name := range slices.Concat(h.DNS.T.Reverse.T.Names, h.DNS.T.Names) {
		s.claim("hostname", string(name))
	}
	return s.end(emit)
}

func (s *story) reply(path string, r *maybe[censysReply]) {
	ask, known := askOf(path)
	status, err := portOf(string(r.T.Status)) // both are small numbers
	if !r.ok || !known || err != nil {
		return
	}
	x := evidence.Exchange{
		Ask: ask, Proto: string(r.T.Proto), Status: int(status), Reason: string(r.T.Reason), Body: []byte(r.T.Body.T),
	}
	for _, name := range slices.Sorted(maps.Keys(r.T.Headers.T)) { // the order is not told
		if strings.HasPrefix(name, "_") {
			continue
		}
		for _, value := range headerValues(r.T.Headers.T[name]) {
			x.Header = append(x.Header, evidence.Field{Name: strings.ReplaceAll(name, "_", "-"), Value: value})
		}
	}
	s.exchange(x)
}

// headerValues are the values of one field: a list, or a list in an object.
func headerValues(v jsontext.Value) []string {
	var list several[word]
	if v.Kind() == '{' {
		var in struct {
			Headers several[word] `json:"headers"`
		}
		_ = unmarshal(v, &in) // an odd field is no field
		list = in.Headers
	} else {
		_ = unmarshal(v, &list)
	}
	values := make([]string, len(list))
	for i, w := range list {
		values[i] = string(w)
	}
	return values
}

// pathOf is the path of a URI; the host in it is an address.
func pathOf(uri string) string {
	if _, rest, ok := strings.Cut(uri, "://"); ok {
		_, path, _ := strings.Cut(rest, "/")
		return "/" + path
	}
	return uri
}

func (v *censysService) tls() *evidence.TLS {
	if !v.TLS.ok && !v.Cert.ok {
		return nil
	}
	cert := &v.Cert.T
	if !v.Cert.ok {
		cert = &v.TLS.T.Certificates.T.Leaf.T
	}
	t := &evidence.TLS{
		Version:   tlsName(string(v.TLS.T.Version)),
		Subject:   string(orElse(cert.Parsed.T.Subject, cert.Subject)),
		Issuer:    string(orElse(cert.Parsed.T.Issuer, cert.Issuer)),
		NotBefore: timeOf(string(cert.Parsed.T.Validity.T.From)),
		NotAfter:  timeOf(string(cert.Parsed.T.Validity.T.To)),
		SHA256: string(orElse(orElse(cert.Fingerprint, v.TLS.T.Fingerprint),
			orElse(v.TLS.T.Certificates.T.Fingerprint, cert.Older))),
	}
	for _, n := range cert.Names {
		t.Names = append(t.Names, string(n))
	}
	return t
}
